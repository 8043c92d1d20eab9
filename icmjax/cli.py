"""The command `icmjax`: search, score, evaluate; those on a run folder are in `cli_runs`."""

import json
import pathlib
import shlex
import sys
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

from icmjax._version import __version__
from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels, load_claims, load_gold
from icmjax.cli_common import SCORER_OPTIONS, reports_faults, scorer_of
from icmjax.cli_machine import Machine, machine_options, memory_bytes, memory_option
from icmjax.cli_options import (
    algorithm_options,
    claims_options,
    make_algorithm,
    model_options,
    utility_options,
)
from icmjax.cli_runs import COMMANDS
from icmjax.comparison import compare, random_labels
from icmjax.consistency import count_violations
from icmjax.errors import ClaimsError, Fault
from icmjax.lm.fused import Implementation
from icmjax.lm.loading import load_lm
from icmjax.persona_world.tasks import is_task_name, load_task
from icmjax.report import comparison_table, plot_comparison, plot_search
from icmjax.runs import open_run, read_run, search_configuration
from icmjax.scoring.passes import describe
from icmjax.search import search
from icmjax.templates import resolve_template
from icmjax.utility import mutual_predictability, utility


def read_claims(
    source: str,
    persona: str | None = None,
    rule: str = "auto",
    limit: int | None = None,
    is_hard: bool = False,
) -> tuple[ClaimSet, GoldLabels | None]:
    """Claims and, apart, their gold labels, from a file or a task of the persona world.

    Raises:
      InputError: see `load_claims` and `load_task`.
    """
    if not is_task_name(source):
        claims = load_claims(source, persona, rule, limit, hard=is_hard)
        return claims, load_gold(source, persona, limit)
    if persona is not None or rule != "auto" or limit is not None or is_hard:
        raise ClaimsError(
            Fault(
                "A task of the persona world says its persona, size and rule itself.",
                "--persona, --rule, --hard or --limit",
                source,
                "leave them out",
            )
        )
    return load_task(source)


def read_labels(path: str, claims: ClaimSet) -> np.ndarray:
    """The labels of claims from a file with the same ids, in any order: int8 `[N]`.

    Raises:
      ClaimsError: the file does not have the same claims, or lacks labels.
    """
    labelled = load_claims(path, rule="none", options=claims.options)
    gold = load_gold(path, options=claims.options)
    found = {claim.id: claim for claim in labelled.claims}
    asked = {claim.id: claim for claim in claims.claims}
    faults = [
        Fault("Labels are of the claims.", f"no label of claim {id_!r}", path, "label it")
        for id_ in asked.keys() - found.keys()
    ]
    faults += [
        Fault("Labels are of the claims.", f"claim {id_!r} is not among them", path, "leave it out")
        for id_ in found.keys() - asked.keys()
    ]
    faults += [
        Fault(
            "Claims of one id say the same.",
            f"{found[id_].choice!r} and {asked[id_].choice!r}",
            f"{path}: claim {id_!r}",
            "give the labels of this very claim file",
        )
        for id_ in asked.keys() & found.keys()
        if found[id_].choice.strip() != asked[id_].choice.strip()
    ]
    if gold is None:
        faults.append(Fault("A label file has labels.", "none", path, "label its claims"))
    if faults:
        raise ClaimsError(sorted(faults))
    assert gold is not None
    by_id = dict(zip((claim.id for claim in labelled.claims), gold.labels, strict=True))
    return np.array([by_id[claim.id] for claim in claims.claims], np.int8)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Find the labels that make survey claims most predictable from one another."""


@main.command("search")
@model_options
@claims_options
@utility_options
@algorithm_options
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--clamp", help="File of labels that must not move; null where free.")
@click.option("--out", required=True, type=click.Path(), help="Run folder; new, or with --resume.")
@click.option("--resume", is_flag=True, help="Go on with a search that was cut off.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@reports_faults
@machine_options
def search_command(
    model: str,
    dtype: str,
    attention: Implementation,
    source: str,
    persona: str | None,
    limit: int | None,
    rule: str,
    is_hard: bool,
    alpha: float,
    objective: str,
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
    settings = {name: value for name, value in options.items() if name not in SCORER_OPTIONS}
    chosen = make_algorithm(algorithm, alpha, objective, settings)
    claims, gold = read_claims(source, persona, rule, limit, is_hard)
    clamped = None if clamp is None else read_labels(clamp, claims)
    lm = load_lm(model, dtype, attention)
    scorer = scorer_of(lm, claims, options, machine)
    if not quiet:
        click.echo(str(describe(scorer, machine.memory_budget)), err=True)
    recorded = click.get_current_context().params | {
        "template": resolve_template(options["template"], lm.default_template, claims).name
    }
    for name in ("out", "resume", "quiet", "clamp", *Machine._fields):
        recorded.pop(name)
    rng_key = jax.random.key(seed)
    configuration = search_configuration(
        scorer, claims, chosen, rng_key, model=model, clamped=clamped
    )
    command = shlex.join(["icmjax", *sys.argv[1:]])
    with open_run(
        out, claims, configuration, resume=resume, command=command, options=recorded
    ) as run:
        result = search(
            scorer, claims.rules, chosen, rng_key, clamped=clamped, run=run, progress=not quiet
        )
        summary = run.write_results(result, gold)
        plot_search(result, pathlib.Path(out) / "diagnostics.png", f"{source}, {algorithm}")
    shown = {key: value for key, value in summary.items() if key not in ("diagnostics", "versions")}
    click.echo(json.dumps(shown, indent=1))


@main.command("score")
@model_options
@claims_options
@utility_options
@click.option("--labels", "labels_path", required=True, help="Rows with id and label.")
@reports_faults
@machine_options
def score_command(
    model: str,
    dtype: str,
    attention: Implementation,
    source: str,
    persona: str | None,
    limit: int | None,
    rule: str,
    is_hard: bool,
    alpha: float,
    objective: str,
    machine: Machine,
    labels_path: str,
    **options: Any,
) -> None:
    """Print the utility of given labels as JSON."""
    claims, gold = read_claims(source, persona, rule, limit, is_hard)
    labels = read_labels(labels_path, claims)
    lm = load_lm(model, dtype, attention)
    scorer = scorer_of(lm, claims, options, machine)
    logp, device_labels = scorer(jnp.asarray(labels)), jnp.asarray(labels)
    rules = jax.tree.map(jnp.asarray, claims.rules)
    is_known = np.zeros(len(claims), bool) if gold is None else gold.labels != UNLABELLED
    accuracy = float((labels == gold.labels)[is_known].mean()) if gold and is_known.any() else None
    click.echo(
        json.dumps(
            {
                "utility": float(utility(logp, device_labels, rules, alpha, objective)),  # type: ignore[arg-type]
                "mutual_predictability": float(mutual_predictability(logp, device_labels)),
                "num_inconsistent": int(count_violations(device_labels, rules)),
                "num_claims": len(claims),
                "num_labelled": int((labels != UNLABELLED).sum()),
                "accuracy": accuracy,
            },
            indent=1,
        )
    )


@main.command("evaluate")
@model_options
@click.option("--demos", required=True, type=click.Path(), help="Run folder of a search.")
@claims_options
@click.option("--gold", "gold_source", help="Claims file with gold labels of the demonstrations.")
@click.option("--draws", default=10, show_default=True, help="Of random labels.")
@click.option("--seed", default=0, show_default=True, help="Of random labels.")
@memory_option
@reports_faults
def evaluate_command(
    model: str,
    dtype: str,
    attention: Implementation,
    template: str | None,
    demos: str,
    source: str,
    persona: str | None,
    limit: int | None,
    rule: str,
    is_hard: bool,
    gold_source: str | None,
    draws: int,
    seed: int,
    memory_gib: float,
) -> None:
    """Steer with a run's labels on held-out claims, against zero-shot, random and gold labels.

    Prints the table, and writes DIR/evaluation.json and DIR/evaluation.png.
    """
    memory_budget = memory_bytes(memory_gib)
    run = read_run(demos)
    queries, gold = read_claims(source, persona, rule, limit, is_hard)
    if gold is None:
        raise ClaimsError(
            Fault("Held-out claims have gold labels.", "none", source, "add a column label")
        )
    labellings = {
        "random labels": random_labels(seed, draws, run.claims),
        "search labels": run.labels,
    }
    if gold_source is not None:
        labellings["gold labels"] = _gold_of(run.claims, gold_source)
    lm = load_lm(model, dtype, attention)
    conditions = compare(lm, run.claims, labellings, queries, gold, template, memory_budget)
    click.echo(comparison_table(conditions))
    folder = pathlib.Path(demos)
    rows = [
        {"condition": condition.name, "draws": [scores._asdict() for scores in condition.draws]}
        for condition in conditions
    ]
    content = {"model": model, "claims": source, "seed": seed, "conditions": rows}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1) + "\n")
    plot_comparison(conditions, folder / "evaluation.png", f"{source}, {model}")
    click.echo(f"wrote {folder / 'evaluation.json'} and {folder / 'evaluation.png'}")


def _gold_of(claims: ClaimSet, source: str) -> np.ndarray:
    """Gold labels of a run's claims from where the claims came from: int8 `[N]`."""
    known, gold = read_claims(source)
    labels = {} if gold is None else dict(zip(known.claims, gold.labels, strict=True))
    faults = [
        Fault(
            "Every demonstration has a gold label.",
            f"none for claim {claim.id!r}",
            source,
            "give the file that the run was searched over, with its labels",
        )
        for claim in claims.claims
        if labels.get(claim, UNLABELLED) == UNLABELLED
    ]
    if faults:
        raise ClaimsError(faults)
    return np.array([labels[claim] for claim in claims.claims], np.int8)


for _command in COMMANDS:
    main.add_command(_command)
