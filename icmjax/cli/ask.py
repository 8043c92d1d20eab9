"""`icmjax ask`: choose the claims of a run to ask a human about."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import clamped_labels, read_answer_rows, recorded_options
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import SELECTORS, ModelOptions, ScorerOptions, UtilityOptions, recorded
from icmjax.errors import RunError, printable
from icmjax.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet
    from icmjax.feedback import Evidence
    from icmjax.runs import RunRecord

QUESTIONS = "questions.jsonl"
NEEDS_MODEL = ("zero_shot_entropy", "expected_gain")


def _evidence(run: RunRecord, folder: str, selector: str, machine: Machine) -> Evidence:
    """What a selector reads; the model is loaded only where it has to be."""
    import jax.numpy as jnp

    evidence = icmjax.feedback.Evidence(leave_one_out=run.label_log_probs, marginals=run.marginals)
    if selector not in NEEDS_MODEL:
        return evidence
    options = recorded_options(run, folder)
    model = recorded(ModelOptions, options)
    scoring = recorded(ScorerOptions, options)
    scorer = scoring.make(model.load(machine.mesh), run.claims, model.template, machine)
    checked = icmjax.scoring.checked_scores
    if selector == "zero_shot_entropy":
        unlabelled = jnp.full(len(run.claims), icmjax.UNLABELLED, jnp.int8)
        return evidence._replace(zero_shot=checked(scorer(unlabelled), run.claims))
    gains = icmjax.feedback.expected_gain(
        scorer,
        run.labels,
        run.label_log_probs,
        run.claims.rules,
        *recorded(UtilityOptions, options),
        clamped_labels(run),
    )
    return evidence._replace(expected_gain=checked(gains[:, None], run.claims)[:, 0])


@click.command("ask")
@click.argument("folder", type=click.Path())
@click.option("--budget", type=int, required=True, help="How many claims to ask about.")
@click.option(
    "--selector",
    default="zero_shot_entropy",
    show_default=True,
    type=click.Choice(SELECTORS),
    help="What makes a claim worth asking about.",
)
@click.option("--seed", default=0, show_default=True, help="Of the selector random.")
@reports_faults
@machine_options
def command(folder: str, budget: int, selector: str, seed: int, machine: Machine) -> None:
    """Choose the claims of a run to ask a human about, and write FOLDER/questions.jsonl.

    Questions that are there stay, answered or not, and new ones are added.
    """
    import jax
    import numpy as np

    run = icmjax.read_run(folder)
    path = pathlib.Path(folder) / QUESTIONS
    earlier = read_answer_rows(str(path), run.claims) if os.path.lexists(path) else {}
    evidence = _evidence(run, folder, selector, machine)
    values = icmjax.feedback.uncertainty(selector, evidence, len(run.claims), jax.random.key(seed))
    # What was asked is closed as what was answered is, whatever the answer will be.
    closed = clamped_labels(run)
    closed[list(earlier)] = np.maximum(closed[list(earlier)], 0)
    asked = icmjax.feedback.choose_claims(values, run.claims.group_index, budget, closed)
    rows = _question_rows(run.claims, asked, values)
    kept = [row for rows_of_claim in earlier.values() for row, _ in rows_of_claim]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows])
    write_text(path, text, private=True, error=RunError)
    for row in rows:
        claim = printable(f"{row['question']} {row['choice']}".rstrip(), keep="")
        click.echo(f"{row['uncertainty']:.3f}  {claim}")
    if kept:
        num_answered = sum(any(label >= 0 for _, label in given) for given in earlier.values())
        click.echo(f"kept {len(kept)} earlier questions, {num_answered} of them answered")
    answer = shlex.join(["icmjax", "answer", folder, "--labels", str(path)])
    click.echo(printable(f"wrote {path}: set the labels, then {answer}"))


def _question_rows(claims: ClaimSet, asked: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    return [
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
        for index, claim in ((index, claims.claims[index]) for index in asked)
    ]
