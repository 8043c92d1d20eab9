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
# As jax knows TPUs on the PCI bus (jax/_src/hardware_utils.py): Google's, from v3 to 7x.
TPU_VENDOR = "0x1ae0"
TPU_DEVICES = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
NVIDIA_SECONDS = 30  # in which nvidia-smi answers; a broken driver may leave it waiting


def find_accelerator(
    root: Path, environment: Mapping[str, str], has_working_smi: Callable[[], bool]
) -> str:
    """The accelerator of a machine: "cuda", "tpu" or "cpu".

    An NVIDIA GPU goes before a TPU. Under /dev/vfio lies any device that is passed through. It is
    held for a TPU where a variable of a TPU's environment is set, or the PCI bus has a TPU.

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
    is_of_tpu = any(name.startswith("TPU_") for name in environment) or _has_tpu_on_bus(root)
    return "tpu" if is_named or has_chip or (has_passed_through and is_of_tpu) else "cpu"


def _has_tpu_on_bus(root: Path) -> bool:
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "device"))
        except OSError:
            continue
        if vendor == TPU_VENDOR and kind in TPU_DEVICES:
            return True
    return False


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
