"""Faults in what a user gave, shown as messages."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from icmjax.cli.options import check_numbers
from icmjax.cli.output import say
from icmjax.cli.spelling import as_options
from icmjax.errors import InputError, RunWarning


def reports_faults(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an InputError into its message and exit status 2; looks at the numbers first."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            check_numbers(click.get_current_context())
            command(*args, **kwargs)
        except InputError as error:
            refuse(error)

    return wrapped


def refuse(error: InputError) -> NoReturn:
    """Shows what is wrong with the input, and ends with status 2."""
    click.echo(f"error: {as_options(error)}", err=True)
    sys.exit(2)


@contextlib.contextmanager
def shows_run_warnings() -> Iterator[None]:
    """Shows each `RunWarning` as a line on stderr, when it is given; others as Python does."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, RunWarning):
                say(f"warning: {message}")
            else:
                show_other(message, category, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
