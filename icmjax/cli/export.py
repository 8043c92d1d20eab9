"""`icmjax export`: a run's labelled claims for other tools."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.demonstrations import as_of_run, check_wording, held_out, no_gold
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import recorded_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    optional_claims_options,
    recorded,
)
from icmjax.errors import Fault, InputError, printable

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet, GoldLabels
    from icmjax.runs import RunRecord

# Spelt out, so that help and mistakes import nothing.
EXPORT_FORMATS = ("prompt", "sft", "dpo", "tree-order", "lm-eval", "inspect", "hf", "arviz")
ASKING = ("lm-eval", "inspect")
UNWORDED = ("tree-order", "hf", "arviz")


@click.command("export")
@click.argument("folder", type=click.Path())
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(EXPORT_FORMATS),
    help="A prompt to put queries after; rows for fine-tuning; an order for prefix caches; a task "
    "for lm-eval or Inspect; a data set of Hugging Face; the samples of a search for ArviZ.",
)
@click.option("--out", type=click.Path(), help="By default in FOLDER, under a name that is free.")
@click.option("--template", help="Of the texts; by default the one that the run had.")
@optional_claims_options
@reports_faults
def command(
    folder: str, form: str, out: str | None, template: str | None, source: ClaimsOptions
) -> None:
    """Write a run's labelled claims in a form that other tools take.

    lm-eval and inspect ask about the claims of --claims, which have gold labels. Claims that are
    among the run's, and opposites of these, are left out. What is there is never written over.
    """
    _check(form, source, template)
    run = icmjax.read_run(folder)
    if form == "tree-order" or (form not in UNWORDED and template is None):
        recorded_options(run, folder)
    queries, gold = _questions(run, source, template) if form in ASKING else (None, None)
    orders = _tree_orders(run, folder) if form == "tree-order" else None
    path, is_new = icmjax.export(
        folder, form, out, queries=queries, gold=gold, template=template, orders=orders
    )
    click.echo(printable(f"wrote {path}" if is_new else f"{path} is there already, the same"))


def _check(form: str, source: ClaimsOptions, template: str | None) -> None:
    """Refuse options that say nothing of the format, and a task that asks about no claims.

    Raises:
      InputError: all faults found.
    """
    faults = []
    if form in ASKING and source.source is None:
        rule, remedy = f"The format {form} asks about held-out claims.", "give --claims FILE"
        faults.append(Fault(rule, "none", "--claims", remedy))
    others = source._replace(source="")
    is_given = others != ClaimsOptions("", None, None, "auto", False)
    if form not in ASKING and (source.source is not None or is_given):
        rule = f"The formats that ask about other claims are {' and '.join(ASKING)}."
        found = "--claims, --persona, --limit, --rule or --hard"
        faults.append(Fault(rule, found, f"--format {form}", "leave it out"))
    if form in UNWORDED and template is not None:
        rule, found = "A template is of texts.", f"--template {template}"
        faults.append(Fault(rule, found, f"--format {form}", "leave it out"))
    if faults:
        raise InputError(faults)


def _questions(
    run: RunRecord, source: ClaimsOptions, template: str | None
) -> tuple[ClaimSet, GoldLabels]:
    """The claims to ask about; says on stderr how many have no gold label."""
    claims, gold = as_of_run(source, run).read()
    check_wording(claims, run, template, source)
    if gold is None or (gold.labels == icmjax.UNLABELLED).all():
        raise no_gold(source.source)
    claims, gold = held_out(run.claims, claims, gold, source.source)
    num_unknown = int((gold.labels == icmjax.UNLABELLED).sum())
    if num_unknown:
        click.echo(f"left out {num_unknown} claims that have no gold label", err=True)
    return claims, gold


def _tree_orders(run: RunRecord, folder: str) -> np.ndarray:
    options = recorded_options(run, folder)
    model = recorded(ModelOptions, options)
    scorer = icmjax.make_scorer(
        model.load(),
        run.claims,
        "tree",
        model.template,
        options["leave"],
        memory_budget=sys.maxsize,  # of a scorer that tells its order and reads nothing
    )
    return scorer.demonstration_orders()
