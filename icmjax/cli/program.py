"""How the user called this program, for the commands that it prints to be run next."""

import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

NAME = "icmjax"


def program() -> list[str]:
    """The words that a shell starts this program by, where it was called as it was this time."""
    import shutil

    argument, python = sys.argv[0], sys.executable or "python"
    called = pathlib.Path(argument)
    is_module = called.parts[-2:] == (NAME, "__main__.py")
    beside = pathlib.Path(python).with_name(NAME) if is_module else called
    found = shutil.which(NAME)
    if found is not None and pathlib.Path(found).absolute() == beside.absolute():
        return [NAME]
    if is_module:
        return [python, "-m", NAME]
    # Elsewhere the argument is of a program that uses the library, or that Python was handed.
    is_own = called.name in (NAME, f"{NAME}.exe") and os.path.dirname(argument)
    return [argument if is_own else NAME]


def as_called(words: Sequence[str]) -> str:
    """A command of these words, as the user can paste it into a shell."""
    return shlex.join([*program(), *words])


def spelt_as_called(command: str) -> str:
    """A command that begins with `NAME`, as the user can paste it into a shell."""
    return f"{shlex.join(program())}{command.removeprefix(NAME)}"


def this_command() -> str:
    """The command that runs, for the record, which people on other machines read too."""
    return shlex.join([NAME, *sys.argv[1:]])
