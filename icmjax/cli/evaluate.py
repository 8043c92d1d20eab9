"""`icmjax evaluate`: steer with a run's labels on held-out claims."""

from __future__ import annotations

import json
import pathlib

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import gold_of
from icmjax.cli.machine import memory_bytes, memory_option
from icmjax.cli.options import ClaimsOptions, ModelOptions, claims_options, model_options
from icmjax.errors import ClaimsError, Fault


@click.command("evaluate")
@model_options
@click.option("--demos", required=True, type=click.Path(), help="Run folder of a search.")
@claims_options
@click.option("--gold", "gold_source", help="Claims file with gold labels of the demonstrations.")
@click.option("--draws", default=10, show_default=True, help="Of random labels.")
@click.option("--seed", default=0, show_default=True, help="Of random labels.")
@memory_option
@reports_faults
def command(
    model: ModelOptions,
    demos: str,
    source: ClaimsOptions,
    gold_source: str | None,
    draws: int,
    seed: int,
    memory_gib: float,
) -> None:
    """Steer with a run's labels on held-out claims, against zero-shot, random and gold labels.

    Prints the table, and writes DIR/evaluation.json and DIR/evaluation.png.
    """
    memory_budget = memory_bytes(memory_gib)
    run = icmjax.read_run(demos)
    queries, gold = source.read()
    if gold is None:
        raise ClaimsError(
            Fault("Held-out claims have gold labels.", "none", source.source, "add a column label")
        )
    labellings = {
        "random labels": icmjax.steering.random_labels(seed, draws, run.claims),
        "search labels": run.labels,
    }
    if gold_source is not None:
        labellings["gold labels"] = gold_of(run.claims, gold_source)
    lm = model.load()
    conditions = icmjax.steering.compare(
        lm, run.claims, labellings, queries, gold, model.template, memory_budget
    )
    click.echo(icmjax.runs.comparison_table(conditions))
    folder = pathlib.Path(demos)
    rows = [
        {"condition": condition.name, "draws": [scores._asdict() for scores in condition.draws]}
        for condition in conditions
    ]
    content = {"model": model.model, "claims": source.source, "seed": seed, "conditions": rows}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1) + "\n")
    icmjax.runs.plot_comparison(
        conditions, folder / "evaluation.png", f"{source.source}, {model.model}"
    )
    click.echo(f"wrote {folder / 'evaluation.json'} and {folder / 'evaluation.png'}")
