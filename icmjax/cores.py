"""CPU cores as devices of their own."""

import os

import jax


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


def keep_thread_spare(num_cores: int) -> None:
    """Give XLA's pool a thread more than so many devices have programs, before it is made.

    A thread that runs a device's program offers its matmuls to the other threads of the pool.
    Where each of these runs a program too, nobody takes the offers up, and they are kept until the
    programs end: a tree's pass over 1,024 claims on two cores, which had asked for 3.2 GiB, grew by
    some 11 MiB a second until nothing was left. One thread more clears them away.

    Args:
      num_cores: devices.
    """
    os.environ.setdefault("NPROC", str(num_pool_threads(num_cores)))  # which XLA reads


def num_pool_threads(num_cores: int) -> int:
    """Threads of XLA's pool of which one is spare where so many cores are devices."""
    return max(os.cpu_count() or 1, num_cores + 1)
