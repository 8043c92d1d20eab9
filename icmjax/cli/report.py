"""`icmjax report`: the page of a run."""

from __future__ import annotations

import pathlib

import click

import icmjax
from icmjax.cli.faults import reports_faults

PAGE = "report.html"


@click.command("report")
@click.argument("folder", type=click.Path())
@reports_faults
def command(folder: str) -> None:
    """Write FOLDER/report.html: what was found, its figures, and every label."""
    run = icmjax.read_run(folder)
    path = pathlib.Path(folder) / PAGE
    path.write_text(icmjax.runs.make_page(run, pathlib.Path(folder)), encoding="utf-8")
    click.echo(f"wrote {path}")
