"""CPU cores as devices of their own, and the memory that their threads keep."""

import ctypes
import sys

import jax

M_ARENA_MAX = -8  # of glibc's mallopt


def use_cores(num_cores: int) -> None:
    """Make so many CPU cores devices, of which `jax.devices()` then tells.

    Call it before anything else of JAX. The environment says the same by `JAX_NUM_CPU_DEVICES` and,
    against what `share_heap` tells of, `MALLOC_ARENA_MAX=1`.

    Args:
      num_cores: 1 or more.

    Raises:
      RuntimeError: JAX has its devices already.
    """
    jax.config.update("jax_num_cpu_devices", num_cores)
    share_heap()


def share_heap() -> bool:
    """Let threads that are yet to come share one heap, where the C library is glibc.

    With a heap a thread, what matmuls take and give back all the while fills each of them further:
    a tree's pass over 128 claims on two cores grew to 885 MiB, and to the 613 that both had asked
    for when they shared one.

    Returns:
      whether the C library took it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_ARENA_MAX, 1) == 1
