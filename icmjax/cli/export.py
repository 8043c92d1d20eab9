"""`icmjax export`: a run's labelled claims for other tools."""

from __future__ import annotations

import pathlib
import sys

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import recorded_options
from icmjax.cli.options import ModelOptions, recorded
from icmjax.errors import RunError, printable
from icmjax.files import write_text

EXPORT_FILES = {
    "prompt": "prompt.txt",
    "sft": "sft.jsonl",
    "dpo": "dpo.jsonl",
    "tree-order": "tree_order.jsonl",
}


@click.command("export")
@click.argument("folder", type=click.Path())
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(list(EXPORT_FILES)),
    help="A prompt to put queries after; rows for fine-tuning; or an order for prefix caches.",
)
@reports_faults
def command(folder: str, form: str) -> None:
    """Write a run's labelled claims in a form that other tools take."""
    from icmjax import runs

    run = icmjax.read_run(folder)
    options = recorded_options(run, folder)
    path = pathlib.Path(folder) / EXPORT_FILES[form]
    if form == "tree-order":
        model = recorded(ModelOptions, options)
        scorer = icmjax.make_scorer(
            model.load(),
            run.claims,
            "tree",
            model.template,
            options["leave"],
            memory_budget=sys.maxsize,  # of a scorer that tells its order and reads nothing
        )
        text = runs.export_tree_order(run.claims, run.labels, scorer.demonstration_orders())
    else:
        template = icmjax.prompts.get_template(options["template"]).for_options(run.claims.options)
        export = {
            "prompt": runs.export_prompt,
            "sft": runs.export_sft,
            "dpo": runs.export_dpo,
        }[form]
        text = export(run.claims, run.labels, template)
    write_text(path, text, error=RunError)
    click.echo(printable(f"wrote {path}"))
