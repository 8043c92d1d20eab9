"""What all commands share."""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from icmjax.claims import ClaimSet
from icmjax.cli_machine import Machine
from icmjax.errors import InputError
from icmjax.lm.loading import LanguageModel
from icmjax.scoring import make_scorer
from icmjax.scoring.make import Scorer

SCORER_OPTIONS = ("method", "template", "leave", "context_size", "num_orders")


def scorer_of(
    lm: LanguageModel, claims: ClaimSet, options: Mapping[str, Any], machine: Machine
) -> Scorer:
    """The scorer that a command's options ask for.

    Raises:
      InputError, PromptError: see `make_scorer`.
    """
    return make_scorer(
        lm,
        claims,
        **{name: options[name] for name in SCORER_OPTIONS},
        batch_size=machine.batch_size,
        memory_budget=machine.memory_budget,
        devices=machine.devices,
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
