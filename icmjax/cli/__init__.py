"""The command `icmjax`: one file a command."""

from icmjax.cli.commands import main

__all__ = ["main"]
