"""Options that tell what a machine has; a run does not record them, so that it can move."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

import icmjax
from icmjax.errors import Fault, InputError

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh

# The names of all of them: a run records none.
OPTIONS = ("batch_size", "memory_gib", "num_devices", "mesh", "distributed")
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


mesh_option = click.option(
    "--mesh",
    help="Devices along each axis, as chain=1,query=4,model=2; model shares the weights. By "
    "default all accelerators that are there share them; query=1 is one alone.",
)


def read_mesh(text: str | None) -> Mesh | Literal["auto"]:
    """The mesh that an option says; "auto" where it is not given.

    Raises:
      InputError: it says none, or none of devices that are there.
    """
    if text is None:
        return "auto"
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    if not all(size.strip().isdecimal() for _, size in pairs):
        rule, remedy = "A mesh says how many devices an axis has.", "write it as query=4,model=2"
        raise InputError(Fault(rule, repr(text), "--mesh", remedy))
    shape = {axis.strip(): int(size) for axis, size in pairs}
    if len(shape) < len(pairs):
        rule, remedy = "A mesh says each axis once.", "leave out the others"
        raise InputError(Fault(rule, repr(text), "--mesh", remedy))
    icmjax.devices.keep_thread_spare(math.prod(shape.values()))
    return icmjax.lm.make_mesh(shape)


class Machine(NamedTuple):
    """What a pass may take of a machine, as the options say it."""

    batch_size: int | None
    memory_gib: float
    num_devices: int
    mesh_text: str | None = None

    def check(self) -> None:
        """Refuse devices that are not there, before a model is loaded.

        Raises:
          InputError: see `devices`.
        """
        _ = self.devices, self.mesh

    @property
    def mesh(self) -> Mesh | Literal["auto"] | None:
        """The mesh that the weights are read onto; None for copies of them.

        Raises:
          InputError: see `read_mesh`; or copies are asked for as well.
        """
        if self.mesh_text is not None and self.num_devices > 1:
            rule, found = "A mesh says all devices.", f"--devices {self.num_devices} as well"
            raise InputError(Fault(rule, found, "--mesh", "leave --devices out"))
        if self.num_devices > 1:
            return None
        return read_mesh(self.mesh_text)

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


def joins_hosts(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--distributed`, by which a command is one of several processes.

    Each process writes a run folder of its own, and all but the first keep quiet. It goes around
    `machine_options`, which ask for devices.
    """

    @click.option(
        "--distributed",
        is_flag=True,
        help="One of several processes that share each pass, started alike on every host of a TPU "
        "slice, SLURM job or Kubernetes JobSet. All but the first write to OUT-host1, ...",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, distributed: bool, out: str, quiet: bool, log: str | None, **kwargs: Any
    ) -> None:
        host = join_hosts(kwargs["num_devices"]) if distributed else 0
        if host > 0:
            out, quiet = f"{out}-host{host}", True
            log = None if log is None else f"{log}-host{host}"
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        command(*args, out=out, quiet=quiet, log=log, **kwargs)

    return wrapped


def join_hosts(num_devices: int) -> int:
    """Joins the other processes, and returns the number of this one.

    Args:
      num_devices: as of the option `--devices`, which takes devices of one process.

    Raises:
      InputError: devices are asked for, or the others cannot be joined.
    """
    import jax

    where = "--distributed"
    if num_devices > 1:
        rule, remedy = "A mesh says the devices of several processes.", "say --mesh instead"
        raise InputError(Fault(rule, f"--devices {num_devices}", where, remedy))
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        rule = "Processes that share a search are told of one another by what started them."
        remedy = "start them by srun, a JobSet or on all hosts of a TPU slice; or leave it out"
        raise InputError(Fault(rule, str(error), where, remedy)) from error
    return jax.process_index()


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
    @mesh_option
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        batch_size: int | None,
        memory_gib: float,
        num_devices: int,
        mesh: str | None,
        **kwargs: Any,
    ) -> None:
        machine = Machine(batch_size, memory_gib, num_devices, mesh)
        if num_devices > 1:
            icmjax.devices.keep_thread_spare(num_devices)
        machine.check()
        command(*args, machine=machine, **kwargs)

    return wrapped
