"""`icmjax predict`: label more claims by a run's labels, without gold labels."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.demonstrations import (
    advice_on_ids,
    as_of_run,
    check_wording,
    known_by,
    template_of,
)
from icmjax.cli.faults import reports_faults
from icmjax.cli.machine import memory_bytes, memory_option, mesh_option, read_mesh
from icmjax.cli.options import ClaimsOptions, ModelOptions, claims_options, model_options
from icmjax.cli.output import json_option
from icmjax.errors import Fault, InputError, printable

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet

PREDICTIONS = "predictions.jsonl"


@click.command("predict")
@model_options
@click.option("--demos", required=True, type=click.Path(), help="Run folder of a search.")
@claims_options
@click.option(
    "--calibrated", is_flag=True, help="Less the model's bias: each claim against its opposite."
)
@click.option("--out", type=click.Path(), help="By default DIR/predictions.jsonl, or -2 and so on.")
@memory_option
@mesh_option
@json_option
@config_option
@reports_faults
def command(
    model: ModelOptions,
    demos: str,
    source: ClaimsOptions,
    calibrated: bool,
    out: str | None,
    memory_gib: float,
    mesh: str | None,
    is_json: bool,
) -> None:
    """Label claims as the model does after a run's labelled claims; no gold label is read.

    Writes rows like those of labels.jsonl, and prints the shares of labels and how sure they are.
    """
    import numpy as np

    memory_budget = memory_bytes(memory_gib)
    run = icmjax.read_run(demos)
    claims = as_of_run(source, run).read_alone()
    check_wording(claims, run, model.template, source)
    if calibrated and len(claims.options) != 2:
        rule, remedy = "Predictions of two labels are calibrated.", "leave --calibrated out"
        found = f"{len(claims.options)} labels"
        raise InputError(Fault(rule, found, source.source, remedy))
    _tell_known(run.claims, claims)
    lm, template = model.load(read_mesh(mesh)), template_of(model, run)
    steered = icmjax.evaluate(
        lm, run.claims, run.labels, claims, None, template, memory_budget
    ).label_log_probs
    log_probs = icmjax.scoring.checked_scores(steered, claims)
    if calibrated:
        log_probs = icmjax.calibrate(log_probs, claims.rules)
    labels = log_probs.argmax(-1).astype(np.int8)
    rows = icmjax.runs.label_rows(
        claims, labels, icmjax.search.log_odds_of(log_probs, labels), np.exp(log_probs)
    )
    path, is_new = icmjax.runs.write_new(
        out or pathlib.Path(demos) / PREDICTIONS,
        icmjax.runs.as_jsonl(rows).encode(),
        is_chosen=out is not None,
    )
    summary = _summary(claims, labels, np.exp(log_probs))
    if is_json:
        click.echo(json.dumps(summary, indent=1))
    else:
        for line in _lines(summary):
            click.echo(printable(line))
    click.echo(
        printable(f"wrote {path}" if is_new else f"{path} has these rows already"), err=is_json
    )


def _tell_known(demonstrations: ClaimSet, claims: ClaimSet) -> None:
    """Say on stderr of which claims the demonstrations have the answer; they are kept."""
    overlap = icmjax.steering.overlap(demonstrations, claims)
    num_known = int(overlap.is_known.sum())
    if num_known:
        click.echo(
            f"{num_known} of {len(claims)} claims are among the demonstrations: "
            f"{known_by(overlap)}; of the same text and its opposite, predictions repeat the label",
            err=True,
        )
    if advice := advice_on_ids(overlap):
        click.echo(advice, err=True)


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    counts = [
        f"{round(share * summary['num_claims'])} {option}"
        for option, share in summary["label_shares"].items()
    ]
    yield f"labels      {', '.join(counts)}; {summary['num_inconsistent']} pairs violated"
    yield f"doubt       {summary['mean_marginal_entropy']:.3f} nats of entropy a claim, the mean"
    yield f"            {summary['mean_probability_of_label']:.3f}, a label's mean probability"


def _summary(claims: ClaimSet, labels: np.ndarray, marginals: np.ndarray) -> dict[str, Any]:
    import jax.numpy as jnp

    shares = {
        option: float((labels == index).mean()) for index, option in enumerate(claims.options)
    }
    return {
        "num_claims": len(claims),
        "label_shares": shares,
        "mean_probability_of_label": float(marginals.max(-1).mean()),
        "mean_marginal_entropy": icmjax.search.mean_entropy(marginals),
        "num_inconsistent": int(icmjax.count_violations(jnp.asarray(labels), claims.rules)),
    }
