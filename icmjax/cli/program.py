"""How the user called this program, for the commands that it prints to be run next."""

import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence

NAME = "icmjax"


def program() -> list[str]:
    """The words that a shell starts this program by, where it was called as it was this time."""
    called, found = pathlib.Path(sys.argv[0]), shutil.which(NAME)
    is_module = called.name == "__main__.py"
    beside = pathlib.Path(sys.executable).with_name(NAME) if is_module else called
    if found is not None and pathlib.Path(found).absolute() == beside.absolute():
        return [NAME]
    if is_module:
        return [sys.executable, "-m", NAME]
    # Where Python is used as a library its own argument is no program of ours.
    return [sys.argv[0] if called.stem == NAME else NAME]


def as_called(words: Sequence[str]) -> str:
    """A command of these words, as the user can paste it into a shell."""
    return shlex.join([*program(), *words])


def this_command() -> str:
    """The command that runs, as the user can paste it into a shell."""
    return as_called(sys.argv[1:])
