"""Options that tell what a machine has; a run does not record them, so that it can move."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import icmjax
from icmjax.errors import Fault, InputError

if TYPE_CHECKING:
    import jax

MEMORY_GIB = 4.0  # as icmjax.scoring.MEMORY_BUDGET, which it would cost JAX to ask

memory_option = click.option(
    "--memory-budget",
    "memory_gib",
    type=float,
    default=MEMORY_GIB,
    show_default=True,
    help="GiB that a pass may take beside the weights, on each device.",
)


def memory_bytes(memory_gib: float) -> int:
    """A memory budget in bytes."""
    return int(memory_gib * 2**30)


class Machine(NamedTuple):
    """What a pass may take of a machine, as the options say it."""

    batch_size: int | None
    memory_gib: float
    num_devices: int

    def check(self) -> None:
        """Refuse devices that are not there, before a model is loaded.

        Raises:
          InputError: see `devices`.
        """
        _ = self.devices

    @property
    def memory_budget(self) -> int:
        """Bytes, on each device."""
        return memory_bytes(self.memory_gib)

    @property
    def devices(self) -> list[jax.Device]:
        """The devices that share a pass; none where one does it all.

        Raises:
          InputError: there are not so many.
        """
        import jax

        found = jax.devices()
        if 1 <= self.num_devices <= len(found):
            return found[: self.num_devices] if self.num_devices > 1 else []
        raise InputError(
            Fault(
                "A pass is shared by devices that are there.",
                f"{self.num_devices}, and there are {len(found)}",
                "--devices",
                f"give 1 to {len(found)}; JAX_NUM_CPU_DEVICES=2 makes two of a CPU's cores",
            )
        )


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options, and hands them to the command as `machine`; it must report faults."""

    @click.option(
        "--batch-size",
        type=int,
        help="Computed at a time: labellings (tree), prompts, queries or texts.",
    )
    @memory_option
    @click.option(
        "--devices", "num_devices", default=1, show_default=True, help="tree: that share a pass."
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, batch_size: int | None, memory_gib: float, num_devices: int, **kwargs: Any
    ) -> None:
        machine = Machine(batch_size, memory_gib, num_devices)
        if num_devices > 1:
            icmjax.devices.keep_thread_spare(num_devices)
        machine.check()
        command(*args, machine=machine, **kwargs)

    return wrapped
