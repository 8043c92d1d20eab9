"""`icmjax answer`: search again with a human's answers held fast."""

from __future__ import annotations

import json
import pathlib

import click

import icmjax
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import clamped_labels, read_answers, recorded_options
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.search import command as search_command
from icmjax.errors import Fault, InputError


@click.command("answer")
@click.argument("folder", type=click.Path())
@click.option("--labels", "labels_path", required=True, help="Rows with id and label.")
@click.option("--out", type=click.Path(), help="Run folder; by default FOLDER/answered.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
@reports_faults
@machine_options
def command(
    context: click.Context,
    folder: str,
    labels_path: str,
    out: str | None,
    quiet: bool,
    machine: Machine,
) -> None:
    """Search again with a human's answers, and what they imply, held fast."""
    import numpy as np

    run = icmjax.read_run(folder)
    options = recorded_options(run, folder)
    answers = read_answers(labels_path, run.claims)
    earlier = clamped_labels(run)
    changed = np.flatnonzero((earlier >= 0) & (answers >= 0) & (earlier != answers))
    if len(changed):
        names = ", ".join(repr(run.claims.claims[index].id) for index in changed)
        remedy = "leave them out, or start from the run before them"
        raise InputError(
            Fault("An answer is given once.", f"another one for {names}", labels_path, remedy)
        )
    known = np.where(answers >= 0, answers, earlier).astype(np.int8)
    clamped = icmjax.feedback.implied_labels(known, run.claims.rules)
    target = pathlib.Path(out or pathlib.Path(folder) / "answered")
    clamp_path = target.with_name(f"{target.name}.clamp.jsonl")
    clamp_path.write_text(
        "".join(
            json.dumps(
                claim._asdict() | {"label": None if label < 0 else run.claims.options[label]},
                ensure_ascii=False,
            )
            + "\n"
            for claim, label in zip(run.claims.claims, clamped, strict=True)
        )
    )
    context.invoke(
        search_command,
        **options
        | {"clamp": str(clamp_path), "out": str(target), "resume": False, "quiet": quiet}
        | machine._asdict(),
    )
