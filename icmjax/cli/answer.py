"""`icmjax answer`: search again with a human's answers held fast."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import clamped_labels, gold_of_run, recorded_options
from icmjax.cli.labelling import Place, Task
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.output import json_option, log_option, logged
from icmjax.cli.search import label_claims, says_how_to_go_on

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet, LanguageModel
    from icmjax.runs import RunRecord

ANSWERED, ANSWERS = "answered", "answers.jsonl"


@click.command("answer")
@click.argument("folder", type=click.Path())
@click.option("--labels", "labels_path", required=True, help="JSONL or CSV rows with id and label.")
@click.option(
    "--out", type=click.Path(), help="Run folder; by default FOLDER/answered, or answered-2, ..."
)
@click.option("--resume", is_flag=True, help="Go on with a search that was cut off.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@log_option
@reports_faults
@machine_options
def command(
    folder: str,
    labels_path: str,
    out: str | None,
    resume: bool,
    quiet: bool,
    is_json: bool,
    log: str | None,
    machine: Machine,
) -> None:
    """Search again with a human's answers, and what they imply, held fast."""
    target = out or str(default_target(pathlib.Path(folder), resume))
    words = ["icmjax", *sys.argv[1:], *([] if out else ["--out", target])]
    place = Place(target, resume, quiet, shlex.join(words), is_json)
    with logged(log), says_how_to_go_on(place) as stop_fn:
        run = icmjax.read_run(folder)
        answers = icmjax.feedback.read_answers(labels_path, run.claims)
        search_with_answers(run, folder, answers, labels_path, place, machine, stop_fn)


def search_with_answers(
    run: RunRecord,
    folder: str,
    answers: np.ndarray,
    labels_path: str,
    place: Place,
    machine: Machine,
    stop_fn: Callable[[], bool],
    lm: LanguageModel | None = None,
) -> None:
    """Search again over a run's claims with answers, and what they imply, held fast.

    Args:
      folder: of the run.
      answers: int8 `[N]`, -1 where free.
      labels_path: the file that the answers are of.
      place: of the new run.
      lm: the run's model, where it is read already.

    Raises:
      InputError: answers contradict each other or earlier ones; see `label_claims`.
      Preempted: the search ended as it was asked to.
    """
    options = recorded_options(run, folder)
    earlier = clamped_labels(run)
    clamped = icmjax.feedback.hold_answers(run.claims, answers, earlier, labels_path)
    gold = gold_of_run(run, folder)
    if gold is None:
        click.echo("no accuracy: neither the run nor its claims' source has gold labels", err=True)
    private_files = {ANSWERS: _answer_rows(run.claims, clamped, answers)}
    task = Task(run.claims, gold, clamped, private_files)
    label_claims(task, options, place, machine, stop_fn, lm)


def default_target(folder: pathlib.Path, resume: bool = False) -> pathlib.Path:
    """A new folder in the run's; to resume, the last one that is not complete, or the last one."""
    first = folder / ANSWERED
    if not resume:
        return icmjax.runs.free_name(first)
    begun = [first]
    while os.path.lexists(following := folder / f"{ANSWERED}-{len(begun) + 1}"):
        begun.append(following)
    return next((path for path in begun[::-1] if not (path / "summary.json").exists()), begun[-1])


def _answer_rows(claims: ClaimSet, clamped: np.ndarray, answers: np.ndarray) -> str:
    """All labels that are held fast, as rows that say which a human gave this time."""
    rows = [
        {**claim._asdict(), "label": claims.options[label], "is_answer": bool(answer >= 0)}
        for claim, label, answer in zip(claims.claims, clamped, answers, strict=True)
        if label >= 0
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
