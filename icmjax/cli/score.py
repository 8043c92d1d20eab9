"""`icmjax score`: the utility of given labels."""

from __future__ import annotations

import json

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import read_labels
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    UtilityOptions,
    claims_options,
    model_options,
    scorer_options,
    utility_options,
)


@click.command("score")
@model_options
@claims_options
@scorer_options
@utility_options
@click.option("--labels", "labels_path", required=True, help="Rows with id and label.")
@config_option
@reports_faults
@machine_options
def command(
    model: ModelOptions,
    source: ClaimsOptions,
    scoring: ScorerOptions,
    utility: UtilityOptions,
    machine: Machine,
    labels_path: str,
) -> None:
    """Print the utility of given labels as JSON.

    The accuracy is that of the labelled claims that have a gold label.
    """
    import jax.numpy as jnp
    import numpy as np

    from icmjax.arrays import on_device

    claims, gold = source.read()
    is_part = source.persona is not None or source.limit is not None
    labels = read_labels(labels_path, claims, is_part)
    scorer = scoring.make(model.load(machine.mesh), claims, model.template, machine)
    device_labels = jnp.asarray(labels)
    logp = scorer(device_labels)
    icmjax.scoring.checked_scores(logp, claims)
    rules = on_device(claims.rules)
    gold_labels = np.full_like(labels, icmjax.UNLABELLED) if gold is None else gold.labels
    # A claim without a label is neither right nor wrong.
    is_judged = (labels != icmjax.UNLABELLED) & (gold_labels != icmjax.UNLABELLED)
    is_right = (labels == gold_labels)[is_judged]
    click.echo(
        json.dumps(
            {
                "utility": float(icmjax.utility(logp, device_labels, rules, *utility)),
                "mutual_predictability": float(icmjax.mutual_predictability(logp, device_labels)),
                "num_inconsistent": int(icmjax.count_violations(device_labels, rules)),
                "num_claims": len(claims),
                "num_labelled": int((labels != icmjax.UNLABELLED).sum()),
                "accuracy": float(is_right.mean()) if len(is_right) else None,
                "num_accuracy_claims": len(is_right),
            },
            indent=1,
        )
    )
