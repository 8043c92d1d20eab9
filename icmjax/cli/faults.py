"""Faults in what a user gave, shown as messages."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from icmjax.cli.options import check_numbers
from icmjax.errors import InputError


def reports_faults(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an InputError into its message and exit status 2; looks at the numbers first."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            check_numbers(click.get_current_context())
            command(*args, **kwargs)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return wrapped
