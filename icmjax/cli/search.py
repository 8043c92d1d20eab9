"""`icmjax search`: label claims without labels, into a run folder."""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
from typing import Any

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import read_labels
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    UtilityOptions,
    algorithm_options,
    claims_options,
    make_algorithm,
    model_options,
    scorer_options,
    utility_options,
)


@click.command("search")
@model_options
@claims_options
@scorer_options
@utility_options
@algorithm_options
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--clamp", help="File of labels that must not move; null where free.")
@click.option("--out", required=True, type=click.Path(), help="Run folder; new, or with --resume.")
@click.option("--resume", is_flag=True, help="Go on with a search that was cut off.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@reports_faults
@machine_options
def command(
    model: ModelOptions,
    source: ClaimsOptions,
    scoring: ScorerOptions,
    utility: UtilityOptions,
    algorithm: str,
    machine: Machine,
    seed: int,
    clamp: str | None,
    out: str,
    resume: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Label claims without labels; write DIR/labels.jsonl, summary.json and diagnostics.png."""
    import jax

    chosen = make_algorithm(algorithm, utility, options)
    claims, gold = source.read()
    clamped = None if clamp is None else read_labels(clamp, claims)
    lm = model.load()
    scorer = scoring.make(lm, claims, model.template, machine)
    if not quiet:
        click.echo(str(icmjax.scoring.describe(scorer, machine.memory_budget)), err=True)
    wording = icmjax.prompts.resolve_template(model.template, lm.default_template, claims)
    recorded = click.get_current_context().params | {"template": wording.name}
    for name in ("out", "resume", "quiet", "clamp", *Machine._fields):
        recorded.pop(name)
    rng_key = jax.random.key(seed)
    configuration = icmjax.search_configuration(
        scorer, claims, chosen, rng_key, model=model.model, clamped=clamped
    )
    command = shlex.join(["icmjax", *sys.argv[1:]])
    with icmjax.open_run(
        out, claims, configuration, resume=resume, command=command, options=recorded
    ) as run:
        result = icmjax.run_search(
            scorer, claims.rules, chosen, rng_key, clamped=clamped, run=run, progress=not quiet
        )
        summary = run.write_results(result, gold)
        icmjax.runs.plot_search(
            result, pathlib.Path(out) / "diagnostics.png", f"{source.source}, {algorithm}"
        )
    shown = {key: value for key, value in summary.items() if key not in ("diagnostics", "versions")}
    click.echo(json.dumps(shown, indent=1))
