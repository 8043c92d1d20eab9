"""What all commands share."""

import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click
import jax

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, InputError
from icmjax.lm.loading import LanguageModel
from icmjax.scoring import make_scorer
from icmjax.scoring.make import Scorer

SCORER_OPTIONS = ("method", "template", "leave", "batch_size", "context_size", "num_orders")


def scorer_of(
    lm: LanguageModel,
    claims: ClaimSet,
    options: Mapping[str, Any],
    memory_gib: float,
    num_devices: int,
) -> Scorer:
    """The scorer that a command's options ask for, on the devices and in the memory given.

    Raises:
      InputError, PromptError: see `make_scorer`.
    """
    made = {name: options[name] for name in SCORER_OPTIONS}
    budget, devices = budget_of(memory_gib), _first_devices(num_devices)
    return make_scorer(lm, claims, **made, memory_budget=budget, devices=devices)


def budget_of(memory_gib: float) -> int:
    """Bytes of a memory budget in GiB.

    Raises:
      InputError: it is not a positive number.
    """
    if not 0 < memory_gib < math.inf:
        rule, remedy = "A memory budget is a number of GiB above 0.", "give the memory there is"
        raise InputError(Fault(rule, f"{memory_gib:g}", "--memory-budget", remedy))
    return int(memory_gib * 2**30)


def _first_devices(num_devices: int) -> list[jax.Device]:
    """The devices that share a pass; none where one does it all."""
    devices = jax.devices()
    if 1 <= num_devices <= len(devices):
        return devices[:num_devices] if num_devices > 1 else []
    raise InputError(
        Fault(
            "A pass is shared by devices that are there.",
            f"{num_devices}, and there are {len(devices)}",
            "--devices",
            f"give 1 to {len(devices)}; JAX_NUM_CPU_DEVICES=2 makes two of a CPU's cores",
        )
    )


def reports_faults(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an InputError into its message and exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return wrapped


def grouped_options(*decorators: Callable) -> Callable:
    """Several click options as one decorator, in the order in which help shows them."""
    return lambda command: functools.reduce(
        lambda f, option: option(f), reversed(decorators), command
    )
