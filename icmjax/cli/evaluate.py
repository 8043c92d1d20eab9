"""`icmjax evaluate`: steer with a run's labels on held-out claims."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import gold_of
from icmjax.cli.machine import memory_bytes, memory_option, mesh_option, read_mesh
from icmjax.cli.options import ClaimsOptions, ModelOptions, claims_options, model_options
from icmjax.errors import ClaimsError, Fault, RunError, printable
from icmjax.files import write_text

if TYPE_CHECKING:
    from icmjax.claims import ClaimSet, GoldLabels

INTERVAL = (
    "accuracy_interval: Wilson, 95 %, each of num_groups consistency groups counted once; "
    "draws: of random labels, or one"
)


def _held_out(
    demonstrations: ClaimSet, queries: ClaimSet, gold: GoldLabels, source: str
) -> tuple[ClaimSet, GoldLabels]:
    """The claims that the demonstrations do not answer; says on stderr how many they do.

    Raises:
      ClaimsError: no claim is left.
    """
    kept = icmjax.steering.held_out(demonstrations, queries)
    num_known = len(queries) - len(kept)
    if not len(kept):
        raise ClaimsError(
            Fault(
                "Held-out claims are not among the demonstrations.",
                f"all {num_known} are, or are the opposite of one",
                source,
                "give claims of other questions",
            )
        )
    if num_known:
        click.echo(
            f"left out {num_known} of {len(queries)} claims: they are among the demonstrations, "
            "or are the opposite of one",
            err=True,
        )
    return queries.select(kept), gold.select(kept)


@click.command("evaluate")
@model_options
@click.option("--demos", required=True, type=click.Path(), help="Run folder of a search.")
@claims_options
@click.option("--gold", "gold_source", help="Claims file with gold labels of the demonstrations.")
@click.option("--draws", default=10, show_default=True, help="Of random labels.")
@click.option("--seed", default=0, show_default=True, help="Of random labels.")
@memory_option
@mesh_option
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
) -> None:
    """Steer with a run's labels on held-out claims, against zero-shot, random and gold labels.

    Claims that are among the demonstrations, and opposites of these, are left out. Prints the
    table, and writes DIR/evaluation.json and DIR/evaluation.png, or evaluation-2 and so on.
    """
    memory_budget = memory_bytes(memory_gib)
    run = icmjax.read_run(demos)
    # Queries have the labels of the demonstrations, which the run knows.
    given = source.label_options or run.manifest.get("options", {}).get("label_options")
    asked, asked_gold = source._replace(label_options=given).read()
    if asked_gold is None:
        raise ClaimsError(
            Fault("Held-out claims have gold labels.", "none", source.source, "add a column label")
        )
    queries, gold = _held_out(run.claims, asked, asked_gold, source.source)
    labellings = {
        "random labels": icmjax.steering.random_labels(seed, draws, run.claims),
        "search labels": run.labels,
    }
    if gold_source is not None:
        labellings["gold labels"] = gold_of(run.claims, gold_source, source.columns)
    lm = model.load(read_mesh(mesh))
    template = model.template or run.manifest.get("options", {}).get("template")
    conditions = icmjax.steering.compare(
        lm, run.claims, labellings, queries, gold, template, memory_budget
    )
    click.echo(icmjax.runs.comparison_table(conditions))
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
    path, figure_path = icmjax.runs.free_names(
        pathlib.Path(demos) / "evaluation.json", pathlib.Path(demos) / "evaluation.png"
    )
    write_text(path, json.dumps(content, indent=1) + "\n", error=RunError)
    icmjax.runs.plot_comparison(conditions, figure_path, f"{source.source}, {model.model}")
    click.echo(printable(f"wrote {path} and {figure_path}"))
