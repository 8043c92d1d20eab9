"""What a machine lends: CPU cores as devices, and compiled programs kept on disk."""

import gc
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

OPTION = "jax_compilation_cache_dir"
VARIABLE = "JAX_COMPILATION_CACHE_DIR"
ROOT = Path("/")


def cache_folder() -> Path:
    """The user's cache folder by the platform's custom, with `icmjax/compiled` below it.

    `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on
    Windows.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "icmjax" / "compiled"


def use_compilation_cache() -> None:
    """Keep compiled programs in `cache_folder()`, unless a folder is set already.

    One is set by the environment variable JAX_COMPILATION_CACHE_DIR, or by
    `jax.config.update("jax_compilation_cache_dir", ...)`; an empty variable turns the cache off.
    """
    if VARIABLE in os.environ or getattr(jax.config, OPTION) is not None:
        return
    jax.config.update(OPTION, str(cache_folder()))
    # JAX has looked for a folder at the first compilation, of which loading a model has many.
    compilation_cache.reset_cache()


def use_cores(num_cores: int) -> None:
    """Make so many CPU cores devices, of which `jax.devices()` then tells.

    Call it before anything else of JAX. What a pass takes stays what was planned: see
    `keep_thread_spare`. The environment says the same by `JAX_NUM_CPU_DEVICES=2 NPROC=3`, for two
    cores of two.

    Args:
      num_cores: 1 or more.

    Raises:
      RuntimeError: JAX has its devices already.
    """
    jax.config.update("jax_num_cpu_devices", num_cores)
    keep_thread_spare(num_cores)


def keep_thread_spare(num_devices: int) -> None:
    """Give XLA's pool a thread more than so many devices have programs, before it is made.

    A thread that runs a device's program offers its matmuls to the other threads of the pool.
    Where each of these runs a program too, nobody takes the offers up, and they are kept until the
    programs end: a tree's pass over 1,024 claims on two cores, which had asked for 3.2 GiB, grew by
    some 11 MiB a second until nothing was left. One thread more clears them away.
    """
    os.environ.setdefault("NPROC", str(num_pool_threads(num_devices)))  # which XLA reads


def num_pool_threads(num_devices: int) -> int:
    """Threads of XLA's pool of which one is spare where so many cores are devices."""
    return max(num_cores(), num_devices + 1)


def spare_memory_maps(root: Path = ROOT) -> bool:
    """Drop compiled programs where they take more than half of the memory maps of a process.

    Each program of a CPU takes some, Linux grants 65 530 by default, and XLA ends the process when
    there are none left. Programs that are still wanted come back from the disk's cache.

    Returns:
      whether any were dropped.
    """
    maps, limit = root / "proc/self/maps", root / "proc/sys/vm/max_map_count"
    if not (maps.exists() and limit.exists()):
        return False
    with maps.open("rb") as lines:
        is_full = 2 * sum(1 for _ in lines) > int(limit.read_text())
    if is_full:
        jax.clear_caches()
        gc.collect()
    return is_full


def num_cores(root: Path = ROOT) -> int:
    """CPU cores that this process may use: 1 or more.

    Of the machine's cores these are the ones it may run on (its affinity), and no more than the
    quotas of its control groups pay for, a part of a core counted as one.

    Args:
      root: where `proc` and `sys` lie.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS and Windows have none
    most = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min([most, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group above this process allows; of both versions."""
    listed = _read(root / "proc" / "self" / "cgroup")
    for line in listed.splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / "sys" / "fs" / "cgroup"
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, which is not there: its parents are tried too.
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            if controllers:
                here = base / "cpu" / folder
                words = [_read(here / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            else:
                words = _read(base / folder / "cpu.max").split()
            # "max" and -1 say that there is no quota.
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    """A file's text; "" where it cannot be read, as on systems without it."""
    try:
        return path.read_text()
    except OSError:
        return ""
