"""`icmjax report`: the page of a run."""

from __future__ import annotations

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.errors import printable


@click.command("report")
@click.argument("folder", type=click.Path())
@reports_faults
def command(folder: str) -> None:
    """Write FOLDER/report.html: what was found, its figures, and every label."""
    click.echo(printable(f"wrote {icmjax.report(folder)}"))
