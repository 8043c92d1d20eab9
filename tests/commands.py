"""Running `icmjax` inside a test, and the rows that it reads and writes."""

import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from icmjax.cli.commands import main


def invoke(*arguments: object, stdin: str | None = None) -> Result:
    """What a command of these words gives; `sys.argv` has them as it is where it is run."""
    words = [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["icmjax", *words])
        return CliRunner().invoke(main, words, input=stdin)


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """JSON objects, a line each."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> pathlib.Path:
    """The same written; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
