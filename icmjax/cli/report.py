"""`icmjax report`: the page of a run."""

from __future__ import annotations

import pathlib

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.errors import RunError, printable
from icmjax.files import write_text

PAGE = "report.html"


@click.command("report")
@click.argument("folder", type=click.Path())
@reports_faults
def command(folder: str) -> None:
    """Write FOLDER/report.html: what was found, its figures, and every label."""
    run = icmjax.read_run(folder)
    path = pathlib.Path(folder) / PAGE
    page = icmjax.runs.make_page(run, pathlib.Path(folder))
    write_text(path, page, error=RunError)
    click.echo(printable(f"wrote {path}"))
