"""`icmjax score`: the utility of given labels."""

from __future__ import annotations

import json

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
    """Print the utility of given labels as JSON."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    claims, gold = source.read()
    labels = read_labels(labels_path, claims)
    scorer = scoring.make(model.load(), claims, model.template, machine)
    logp, device_labels = scorer(jnp.asarray(labels)), jnp.asarray(labels)
    rules = jax.tree.map(jnp.asarray, claims.rules)
    is_known = np.zeros(len(claims), bool) if gold is None else gold.labels != icmjax.UNLABELLED
    accuracy = float((labels == gold.labels)[is_known].mean()) if gold and is_known.any() else None
    click.echo(
        json.dumps(
            {
                "utility": float(icmjax.utility(logp, device_labels, rules, *utility)),
                "mutual_predictability": float(icmjax.mutual_predictability(logp, device_labels)),
                "num_inconsistent": int(icmjax.count_violations(device_labels, rules)),
                "num_claims": len(claims),
                "num_labelled": int((labels != icmjax.UNLABELLED).sum()),
                "accuracy": accuracy,
            },
            indent=1,
        )
    )
