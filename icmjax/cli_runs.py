"""Commands on a run folder: ask, answer, export, report."""

import json
import pathlib
import sys
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claim_files import read_rows
from icmjax.claims import UNLABELLED, ClaimSet, label_index
from icmjax.cli_common import reports_faults, scorer_of
from icmjax.cli_machine import Machine, machine_options
from icmjax.errors import ClaimsError, Fault, InputError, RunError
from icmjax.export import (
    FORMATS,
    export_dpo,
    export_prompt,
    export_sft,
    export_tree_order,
)
from icmjax.feedback import (
    SELECTORS,
    Evidence,
    choose_claims,
    expected_gain,
    implied_labels,
    uncertainty,
)
from icmjax.lm.loading import load_lm
from icmjax.page import make_page
from icmjax.runs import RunRecord, read_run
from icmjax.scoring import make_scorer
from icmjax.templates import get_template

QUESTIONS, PAGE = "questions.jsonl", "report.html"
NEEDS_MODEL = ("zero_shot_entropy", "expected_gain")
EXPORT_FILES = {
    "prompt": "prompt.txt",
    "sft": "sft.jsonl",
    "dpo": "dpo.jsonl",
    "tree-order": "tree_order.jsonl",
}


def recorded_options(run: RunRecord, folder: str) -> dict[str, Any]:
    """The options that the run's `icmjax search` was given.

    Raises:
      RunError: the run was made by the library, which records none.
    """
    options = run.manifest.get("options")
    if options is None:
        remedy = "make the run with `icmjax search`, or use the library's functions"
        raise RunError(
            Fault(
                "The run records its search's options.", "none", f"{folder}/manifest.json", remedy
            )
        )
    return options


def clamped_labels(run: RunRecord) -> np.ndarray:
    """The labels that the run's search held fast: int8 `[N]`, -1 where free."""
    clamped = run.manifest["configuration"]["clamped"]
    return np.array([clamped.get(claim.id, UNLABELLED) for claim in run.claims.claims], np.int8)


def read_answers(path: str, claims: ClaimSet) -> np.ndarray:
    """Answers to some of the claims, from rows with `id` and `label`: int8 `[N]`, -1 elsewhere.

    Raises:
      ClaimsError: a row is not about one of the claims, has another label, or none has any.
    """
    faults: list[Fault] = []
    index = {claim.id: number for number, claim in enumerate(claims.claims)}
    answers = np.full(len(claims), UNLABELLED, np.int8)
    for row in read_rows(pathlib.Path(path), faults):
        id_, choice = str(row.values.get("id")), row.values.get("choice")
        label = label_index(row.values.get("label"), claims.options)
        if id_ not in index or choice not in (None, claims.claims[index[id_]].choice):
            found = f"claim {id_!r}, which is not among them or says something else"
            remedy = "answer the rows of questions.jsonl, and change their labels alone"
            faults.append(Fault("Answers are to claims of the run.", found, row.where, remedy))
        elif label is None:
            found, remedy = repr(row.values.get("label")), f"one of {', '.join(claims.options)}"
            faults.append(Fault("A label is one of the options.", found, row.where, remedy))
        else:
            answers[index[id_]] = label
    if not faults and (answers == UNLABELLED).all():
        remedy = "set `label` in the rows of questions.jsonl"
        faults.append(Fault("An answer has a label.", "none", path, remedy))
    if faults:
        raise ClaimsError(faults)
    return answers


def _evidence(run: RunRecord, folder: str, selector: str, machine: Machine) -> Evidence:
    """What a selector reads; the model is loaded only where it has to be."""
    evidence = Evidence(leave_one_out=run.label_log_probs, marginals=run.marginals)
    if selector not in NEEDS_MODEL:
        return evidence
    options = recorded_options(run, folder)
    lm = load_lm(options["model"], options["dtype"], options["attention"])
    scorer = scorer_of(lm, run.claims, options, machine)
    if selector == "zero_shot_entropy":
        unlabelled = jnp.full(len(run.claims), UNLABELLED, jnp.int8)
        return evidence._replace(zero_shot=np.asarray(scorer(unlabelled)))
    gains = expected_gain(
        scorer,
        run.labels,
        run.label_log_probs,
        run.claims.rules,
        options["alpha"],
        options["objective"],
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
def ask_command(folder: str, budget: int, selector: str, seed: int, machine: Machine) -> None:
    """Choose the claims of a run to ask a human about, and write FOLDER/questions.jsonl."""
    run = read_run(folder)
    evidence = _evidence(run, folder, selector, machine)
    values = uncertainty(selector, evidence, len(run.claims), jax.random.key(seed))
    asked = choose_claims(values, run.claims.group_index, budget, clamped_labels(run))
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


@click.command("answer")
@click.argument("folder", type=click.Path())
@click.option("--labels", "labels_path", required=True, help="Rows with id and label.")
@click.option("--out", type=click.Path(), help="Run folder; by default FOLDER/answered.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
@reports_faults
@machine_options
def answer_command(
    context: click.Context,
    folder: str,
    labels_path: str,
    out: str | None,
    quiet: bool,
    machine: Machine,
) -> None:
    """Search again with a human's answers, and what they imply, held fast."""
    run = read_run(folder)
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
    clamped = implied_labels(np.where(answers >= 0, answers, earlier), run.claims.rules)
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
    search_command = context.find_root().command.get_command(context, "search")  # type: ignore[attr-defined]
    context.invoke(
        search_command,
        **options
        | {"clamp": str(clamp_path), "out": str(target), "resume": False, "quiet": quiet}
        | machine._asdict(),
    )


@click.command("export")
@click.argument("folder", type=click.Path())
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice([*FORMATS, "tree-order"]),
    help="A prompt to put queries after; rows for fine-tuning; or an order for prefix caches.",
)
@reports_faults
def export_command(folder: str, form: str) -> None:
    """Write a run's labelled claims in a form that other tools take."""
    run = read_run(folder)
    options = recorded_options(run, folder)
    path = pathlib.Path(folder) / EXPORT_FILES[form]
    if form == "tree-order":
        lm = load_lm(options["model"], options["dtype"], options["attention"])
        scorer = make_scorer(
            lm,
            run.claims,
            "tree",
            options["template"],
            options["leave"],
            memory_budget=sys.maxsize,  # of a scorer that tells its order and reads nothing
        )
        text = export_tree_order(run.claims, run.labels, scorer.demonstration_orders())
    else:
        template = get_template(options["template"]).for_options(run.claims.options)
        export = {"prompt": export_prompt, "sft": export_sft, "dpo": export_dpo}[form]
        text = export(run.claims, run.labels, template)
    path.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}")


@click.command("report")
@click.argument("folder", type=click.Path())
@reports_faults
def report_command(folder: str) -> None:
    """Write FOLDER/report.html: what was found, its figures, and every label."""
    run = read_run(folder)
    path = pathlib.Path(folder) / PAGE
    path.write_text(make_page(run, pathlib.Path(folder)), encoding="utf-8")
    click.echo(f"wrote {path}")


COMMANDS = (ask_command, answer_command, export_command, report_command)
