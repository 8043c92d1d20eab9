"""`icmjax completion`: what makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from icmjax.cli.program import NAME

VARIABLE = "_ICMJAX_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes a shell complete commands and options.

    For bash and zsh a line of the shell's start-up file runs it, as in the example. For fish it
    goes into ~/.config/fish/completions/icmjax.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # of the shells that click knows
    group = click.get_current_context().find_root().command
    click.echo(kind(group, {}, NAME, VARIABLE).source())
