"""`icmjax demo`: a search and an evaluation with the bundled model, by the commands themselves."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import click

from icmjax.cli.faults import reports_faults
from icmjax.cli.program import as_called
from icmjax.errors import printable

MODEL = "persona-world"


@click.command("demo")
@click.option("--group", default="ilvania", show_default=True, help="Of the persona world.")
@click.option(
    "--out", default="icmjax-demo", show_default=True, type=click.Path(), help="Run folder, new."
)
@reports_faults
def command(group: str, out: str) -> None:
    """Label claims of a group that the bundled model has never seen, and steer it with them.

    It runs two other commands, and shows them.
    """
    import icmjax

    out = str(icmjax.runs.free_name(pathlib.Path(out)))
    task = f"{MODEL}:{group}:0"
    model = ["--model", MODEL]
    _run("search", *model, "--claims", task, "--leave", "group", "--out", out)
    _run("evaluate", *model, "--demos", out, "--claims", f"{task}:test", "--gold", task)


def _run(*words: str) -> None:
    """Show a command and run it; ends with its status where it fails."""
    click.echo(printable(f"$ {as_called(words)}"), err=True)
    done = subprocess.run([sys.executable, "-m", "icmjax", *words])
    if done.returncode:
        sys.exit(done.returncode)
