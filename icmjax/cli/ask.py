"""`icmjax ask`: choose the claims of a run to ask a human about."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import clamped_labels, recorded_options
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import SELECTORS, ModelOptions, ScorerOptions, UtilityOptions, recorded

if TYPE_CHECKING:
    from icmjax.feedback import Evidence
    from icmjax.runs import RunRecord

QUESTIONS = "questions.jsonl"
NEEDS_MODEL = ("zero_shot_entropy", "expected_gain")


def _evidence(run: RunRecord, folder: str, selector: str, machine: Machine) -> Evidence:
    """What a selector reads; the model is loaded only where it has to be."""
    import jax.numpy as jnp
    import numpy as np

    evidence = icmjax.feedback.Evidence(leave_one_out=run.label_log_probs, marginals=run.marginals)
    if selector not in NEEDS_MODEL:
        return evidence
    options = recorded_options(run, folder)
    model = recorded(ModelOptions, options)
    scoring = recorded(ScorerOptions, options)
    scorer = scoring.make(model.load(), run.claims, model.template, machine)
    if selector == "zero_shot_entropy":
        unlabelled = jnp.full(len(run.claims), icmjax.UNLABELLED, jnp.int8)
        return evidence._replace(zero_shot=np.asarray(scorer(unlabelled)))
    gains = icmjax.feedback.expected_gain(
        scorer,
        run.labels,
        run.label_log_probs,
        run.claims.rules,
        *recorded(UtilityOptions, options),
        clamped_labels(run),
    )
    return evidence._replace(expected_gain=gains)


@click.command("ask")
@click.argument("folder", type=click.Path())
@click.option("--budget", type=int, required=True, help="How many claims to ask about.")
@click.option(
    "--selector",
    default="marginal_entropy",
    show_default=True,
    type=click.Choice(SELECTORS),
    help="What makes a claim worth asking about.",
)
@click.option("--seed", default=0, show_default=True, help="Of the selector random.")
@reports_faults
@machine_options
def command(folder: str, budget: int, selector: str, seed: int, machine: Machine) -> None:
    """Choose the claims of a run to ask a human about, and write FOLDER/questions.jsonl."""
    import jax

    run = icmjax.read_run(folder)
    evidence = _evidence(run, folder, selector, machine)
    values = icmjax.feedback.uncertainty(selector, evidence, len(run.claims), jax.random.key(seed))
    asked = icmjax.feedback.choose_claims(
        values, run.claims.group_index, budget, clamped_labels(run)
    )
    path = pathlib.Path(folder) / QUESTIONS
    rows = [
        {
            "id": claim.id,
            "persona": claim.persona,
            "consistency_id": claim.consistency_id,
            "question": claim.question,
            "choice": claim.choice,
            **({} if claim.choice_2 is None else {"choice_2": claim.choice_2}),
            "label": None,
            "uncertainty": round(float(values[index]), 6),
        }
        for index, claim in ((index, run.claims.claims[index]) for index in asked)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for row in rows:
        click.echo(f"{row['uncertainty']:.3f}  {row['question']} {row['choice']}".rstrip())
    click.echo(f"wrote {path}: set the labels, then icmjax answer {folder} --labels {path}")
