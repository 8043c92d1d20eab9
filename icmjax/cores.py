"""CPU cores as devices of their own, and the memory that their threads keep."""

import ctypes
import os
import sys
import warnings
from typing import Any

import jax

M_ARENA_MAX = -8  # of glibc's mallopt


def use_cores(num_cores: int) -> None:
    """Make so many CPU cores devices, of which `jax.devices()` then tells.

    Call it before anything else of JAX, and of other libraries with threads of their own. What a
    pass takes stays what was planned: see `bound_memory`. The environment says the same by
    `JAX_NUM_CPU_DEVICES=2 NPROC=3 MALLOC_ARENA_MAX=1`, for two cores of two.

    Args:
      num_cores: 1 or more.

    Raises:
      RuntimeError: JAX has its devices already.

    Warns:
      RuntimeWarning: threads have heaps of their own already.
    """
    jax.config.update("jax_num_cpu_devices", num_cores)
    bound_memory(num_cores)
    found = num_heaps()
    if found is not None and found > 1:
        message = (
            f"Cores that are devices take what they ask for where threads share one heap; found "
            f"{found} heaps. Call use_cores first, or start with MALLOC_ARENA_MAX=1."
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def bound_memory(num_cores: int) -> None:
    """Keep what so many cores, each a device, take of memory from growing with time.

    A thread that runs a device's program offers its matmuls to the other threads of XLA's pool.
    Where each of these runs a program too, nobody takes the offers up, and they are kept until the
    programs end: a tree's pass over 1,024 claims on two cores, which had asked for 3.2 GiB, grew by
    some 11 MiB a second until nothing was left. One thread more clears them away. And threads that
    are yet to come share the heap there is, where the C library is glibc: with one each, what they
    give back stays in pieces. Threads that have a heap keep it.

    Args:
      num_cores: devices.
    """
    num_threads = max(os.cpu_count() or 1, num_cores + 1)
    os.environ.setdefault("NPROC", str(num_threads))  # which XLA reads for its pool
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def num_heaps() -> int | None:
    """Heaps of this process, each of one thread or more; None where the C library is not glibc."""
    malloc_info, open_memstream, fclose = map(_glibc, ("malloc_info", "open_memstream", "fclose"))
    if malloc_info is None or open_memstream is None or fclose is None:
        return None
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    open_memstream.restype = ctypes.c_void_p
    file = ctypes.c_void_p(open_memstream(ctypes.byref(text), ctypes.byref(size)))
    malloc_info(0, file)
    fclose(file)
    return (text.value or b"").count(b"<heap nr=")


def _glibc(name: str) -> Any:
    """A function of the C library; None where that is not glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return getattr(library, name) if hasattr(library, "malloc_info") else None
