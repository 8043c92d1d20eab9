"""Says which accelerator this machine has: `cuda`, `tpu` or `cpu`.

    python benchmarks/measure/accelerator.py

The Makefile installs the extra of this name. The standard library is enough to run it.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

TPU_VARIABLES = ("TPU_NAME", "TPU_ACCELERATOR_TYPE")
NVIDIA_SECONDS = 30  # in which nvidia-smi answers; a broken driver may leave it waiting


def find_accelerator(
    root: Path, environment: Mapping[str, str], has_working_smi: Callable[[], bool]
) -> str:
    """The accelerator of a machine: "cuda", "tpu" or "cpu".

    An NVIDIA GPU goes before a TPU. A device under /dev/vfio may be any device that is passed
    through, so it takes some variable of a TPU's environment beside it.

    Args:
      root: where the file system begins; "/" but for tests.
      environment: the environment's variables.
      has_working_smi: whether nvidia-smi finds a GPU; asked only where no device file tells.
    """
    devices = root / "dev"
    if (devices / "nvidia0").exists() or has_working_smi():
        return "cuda"
    is_named = any(environment.get(name) for name in TPU_VARIABLES)
    # /dev/accel0 and on are TPUs; other makers' devices lie in a folder /dev/accel.
    has_chip = any(devices.glob("accel[0-9]*"))
    has_passed_through = any((devices / "vfio").glob("[0-9]*"))
    is_of_tpu = any(name.startswith("TPU_") for name in environment)
    return "tpu" if is_named or has_chip or (has_passed_through and is_of_tpu) else "cpu"


def smi_works() -> bool:
    """Whether nvidia-smi is there and lists a GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        done = subprocess.run(
            [command, "-L"], capture_output=True, check=False, timeout=NVIDIA_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout


if __name__ == "__main__":
    print(find_accelerator(Path("/"), os.environ, smi_works))
