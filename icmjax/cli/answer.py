"""`icmjax answer`: search again with a human's answers held fast."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import clamped_labels, gold_of_run, recorded_options
from icmjax.cli.interviews import lines_of
from icmjax.cli.labelling import Place, Task
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.output import json_option, log_option, logged, say
from icmjax.cli.program import this_command
from icmjax.cli.search import label_claims, says_how_to_go_on
from icmjax.errors import printable

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet, LanguageModel
    from icmjax.runs import RunRecord

ANSWERED, ANSWERS, QUESTIONS = "answered", "answers.jsonl", "questions.jsonl"


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
    """Search again with a human's answers, and what they imply, held fast.

    Answers that FOLDER/questions.jsonl keeps are held fast beside those of the file, which wins
    where both speak of a claim.
    """
    target = out or str(default_target(pathlib.Path(folder), resume))
    words = this_command() + ("" if out else f" --out {shlex.quote(target)}")
    place = Place(target, resume, quiet, words, is_json)
    with logged(log), says_how_to_go_on(place) as stop_fn:
        run = icmjax.read_run(folder)
        answers = icmjax.feedback.read_answers(labels_path, run.claims)
        answers = _with_kept(answers, run, folder, labels_path)
        new = search_with_answers(run, folder, answers, labels_path, place, machine, stop_fn)
        for line in lines_of(changes_of(run, new, folder)):
            click.echo(printable(line, keep=""), err=is_json)


def _with_kept(answers: np.ndarray, run: RunRecord, folder: str, labels_path: str) -> np.ndarray:
    """A file's answers, and beside them those that the run keeps of earlier rounds."""
    path = questions_beside(folder, labels_path)
    if path is None:
        return answers
    kept = icmjax.feedback.labels_in(str(path), run.claims)
    both, overruled = icmjax.feedback.beside(answers, kept, run.claims.rules)
    num = int((both != answers).sum())
    if num:
        say(f"held fast too: {num} earlier answer{'s' if num > 1 else ''}, of {path}")
    for index in overruled:
        name = run.claims.claims[index].id
        say(f"claim {name!r}: {labels_path} speaks against {path}, and counts")
    return both


def questions_beside(folder: str, path: str) -> pathlib.Path | None:
    """The file of a run's own questions; None where it has none, or where it is that path."""
    own = pathlib.Path(folder) / QUESTIONS
    is_other = os.path.lexists(own) and os.path.realpath(own) != os.path.realpath(path)
    return own if is_other else None


def changes_of(run: RunRecord, new: RunRecord, folder: str) -> dict[str, Any]:
    """What a search with answers changed of a run, which lies in a folder."""
    labels, gold = (run.labels, new.labels), gold_of_run(run, folder)
    return icmjax.feedback.changes_between(run.claims, *labels, clamped_labels(new), gold)


def search_with_answers(
    run: RunRecord,
    folder: str,
    answers: np.ndarray,
    labels_path: str,
    place: Place,
    machine: Machine,
    stop_fn: Callable[[], bool],
    lm: LanguageModel | None = None,
) -> RunRecord:
    """Search again over a run's claims with answers, and what they imply, held fast.

    Args:
      folder: of the run.
      answers: int8 `[N]`, -1 where free.
      labels_path: the file that the answers are of.
      place: of the new run.
      lm: the run's model, where it is read already.

    Returns:
      The new run.

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
    new = icmjax.read_run(place.out)
    for text in icmjax.runs.turned_by(new.summary, new.claims, new.labels):
        say(text)
    return new


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
