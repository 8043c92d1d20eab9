"""`icmjax evaluate`: steer with a run's labels on held-out claims."""

from __future__ import annotations

import json
import pathlib

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.demonstrations import (
    as_of_run,
    check_wording,
    columns_of,
    held_out,
    no_gold,
    template_of,
)
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import gold_of
from icmjax.cli.machine import memory_bytes, memory_option, mesh_option, read_mesh
from icmjax.cli.options import ClaimsOptions, ModelOptions, claims_options, model_options
from icmjax.cli.output import json_option
from icmjax.errors import printable

INTERVAL = (
    "accuracy_interval: Wilson, 95 %, each of num_groups consistency groups counted once; "
    "draws: of random labels, or one"
)
NO_GOLD = (
    "no row for gold labels of the demonstrations: --gold FILE adds it, from the file that the run "
    "was searched over, with its labels"
)


@click.command("evaluate")
@model_options
@click.option("--demos", required=True, type=click.Path(), help="Run folder of a search.")
@claims_options
@click.option("--gold", "gold_source", help="Claims file with gold labels of the demonstrations.")
@click.option("--draws", default=10, show_default=True, help="Of random labels.")
@click.option("--seed", default=0, show_default=True, help="Of random labels.")
@memory_option
@mesh_option
@json_option
@config_option
@reports_faults
def command(
    model: ModelOptions,
    demos: str,
    source: ClaimsOptions,
    gold_source: str | None,
    draws: int,
    seed: int,
    memory_gib: float,
    mesh: str | None,
    is_json: bool,
) -> None:
    """Steer with a run's labels on held-out claims, against zero-shot, random and gold labels.

    Claims that are among the demonstrations, and opposites of these, are left out. Prints the
    table, and writes DIR/evaluation.json and DIR/evaluation.png, or evaluation-2 and so on.
    """
    memory_budget = memory_bytes(memory_gib)
    run = icmjax.read_run(demos)
    asked, asked_gold = as_of_run(source, run).read()
    check_wording(asked, run, model.template, source)
    if asked_gold is None:
        raise no_gold(source.source)
    queries, gold = held_out(run.claims, asked, asked_gold, source.source)
    labellings = {
        "random labels": icmjax.steering.random_labels(seed, draws, run.claims),
        "search labels": run.labels,
    }
    if gold_source is not None:
        labellings["gold labels"] = gold_of(run.claims, gold_source, columns_of(source, run))
    else:
        click.echo(NO_GOLD, err=True)
    lm = model.load(read_mesh(mesh))
    conditions = icmjax.compare(
        lm, run.claims, labellings, queries, gold, template_of(model, run), memory_budget
    )
    rows = [
        {
            "condition": condition.name,
            "num_claims": condition.num_claims,
            "num_groups": condition.num_groups,
            "accuracy": condition.mean("accuracy"),
            "accuracy_interval": condition.accuracy_interval,
            "accuracy_spread_over_draws": condition.spread("accuracy"),
            "draws": [scores._asdict() for scores in condition.draws],
        }
        for condition in conditions
    ]
    content = {
        "model": model.model,
        "claims": source.source,
        "seed": seed,
        "num_left_out": len(asked) - len(queries),
        "about": INTERVAL,
        "conditions": rows,
    }
    as_json = json.dumps(content, indent=1)
    click.echo(as_json if is_json else icmjax.runs.comparison_table(conditions))
    folder = pathlib.Path(demos)
    path, figure_path = icmjax.runs.write_numbered(
        folder / "evaluation.json", f"{as_json}\n".encode(), folder / "evaluation.png"
    )
    title = f"{source.source}, {model.model}"
    icmjax.runs.plot_comparison(conditions, figure_path, title, len(queries.options))
    click.echo(printable(f"wrote {path} and {figure_path}"), err=is_json)
