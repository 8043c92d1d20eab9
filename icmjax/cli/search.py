"""`icmjax search`: label claims without labels, into a run folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.faults import reports_faults, shows_run_warnings
from icmjax.cli.inputs import place_of, read_labels
from icmjax.cli.labelling import (
    Place,
    Task,
    algorithm_of,
    describe,
    has_begun,
    known_warnings,
    prepare,
)
from icmjax.cli.machine import OPTIONS, Machine, joins_hosts, machine_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    UtilityOptions,
    algorithm_options,
    claims_options,
    model_options,
    personas_option,
    recorded,
    scorer_options,
    utility_options,
)
from icmjax.cli.output import json_option, log_option, logged, print_summary, say
from icmjax.cli.personas import label_personas
from icmjax.cli.preemption import PREEMPTED, notices_sigterm
from icmjax.cli.program import this_command
from icmjax.errors import Preempted, printable

if TYPE_CHECKING:
    from icmjax import LanguageModel

# A run records its options, but for those that say where it lies and how it is watched.
NOT_RECORDED = (
    "out",
    "resume",
    "resume_if_begun",
    "quiet",
    "clamp",
    "personas",
    "is_json",
    "log",
    *OPTIONS,
)


@click.command("search")
@model_options
@claims_options
@personas_option
@scorer_options
@utility_options
@algorithm_options
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--clamp", help="File of labels that must not move; null where free.")
@click.option("--out", required=True, type=click.Path(), help="Run folder; new, or with --resume.")
@click.option("--resume", is_flag=True, help="Go on with a search that was cut off.")
@click.option(
    "--resume-if-begun", is_flag=True, help="The same where there is one, else begin: for restarts."
)
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@log_option
@config_option
@reports_faults
@joins_hosts
@machine_options
def command(
    model: ModelOptions,
    source: ClaimsOptions,
    scoring: ScorerOptions,
    utility: UtilityOptions,
    machine: Machine,
    personas: str | None,
    clamp: str | None,
    out: str,
    resume: bool,
    resume_if_begun: bool,
    quiet: bool,
    is_json: bool,
    log: str | None,
    **others: Any,
) -> None:
    """Label claims without labels; write DIR/labels.jsonl, summary.json and diagnostics.png.

    With --personas the claims of each persona are labelled by themselves, into a folder of its
    name in DIR, and DIR/summary.csv has a row for each.
    """
    resume |= resume_if_begun and has_begun(out)
    context = click.get_current_context()
    words = this_command()
    clamp_place = None if clamp is None else place_of(clamp)
    saves = context.command
    place = Place(out, resume, quiet, words, is_json, saves, clamp_place, says_plan=True)
    with logged(log), says_how_to_go_on(place) as stop_fn:
        options = context.params | {
            "model": place_of(model.model),
            "source": place_of(source.source),
        }
        kept = {name: value for name, value in options.items() if name not in NOT_RECORDED}
        if personas is not None:
            label_personas(source, personas, clamp, kept, place, machine, stop_fn)
            return
        icmjax.runs.check_folder(out, resume)
        claims, gold = source.read()
        is_part = source.persona is not None or source.limit is not None
        clamped = None if clamp is None else read_labels(clamp, claims, is_part)
        label_claims(Task(claims, gold, clamped, {}), kept, place, machine, stop_fn)


@contextlib.contextmanager
def says_how_to_go_on(place: Place) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM end the command with what it left behind, and status 130 or 143.

    Hands over what the search has to ask: whether SIGTERM has come.
    """
    try:
        with notices_sigterm() as stop_fn, shows_run_warnings():
            yield stop_fn
    except KeyboardInterrupt:
        if place.has_begun:
            click.echo(f"\ninterrupted; go on with\n  {printable(place.going_on)}", err=True)
        else:
            kept = f"\ninterrupted; nothing was kept; start anew with\n  {place.anew}"
            click.echo(printable(kept), err=True)
        sys.exit(130)
    except Preempted as ended:
        if place.has_begun:
            kept = f"preempted after {ended.num_steps} steps; go on with: {place.going_on}"
        else:
            kept = f"preempted before the first step; start anew with: {place.anew}"
        click.echo(printable(kept, keep=""), err=True)
        sys.exit(PREEMPTED)


def label_claims(
    task: Task,
    options: Mapping[str, Any],
    place: Place,
    machine: Machine,
    stop_fn: Callable[[], bool],
    lm: LanguageModel | None = None,
) -> None:
    """Search for the labels of a task, and print the summary.

    Args:
      options: those of the command `search`, as a run records them.
      stop_fn: says whether the search is to end after the block that is running.
      lm: the options' model, where it is read already.

    Raises:
      InputError: the options, the claims, the model or the folder are not usable.
      Preempted: the search ended as it was asked to.
    """
    algorithm = algorithm_of(options)
    icmjax.runs.check_folder(place.out, place.resume)
    describe(task.claims, place)
    warnings = known_warnings(task.claims, options)
    for warning in warnings:
        say(f"warning: {warning}")
    lm = recorded(ModelOptions, options).load(machine.mesh) if lm is None else lm
    search = prepare(task, options, lm, machine)
    if not place.quiet and (place.says_plan or search.is_long(algorithm)):
        say(str(search.plan))
    summary = search.run_alone(place, algorithm, stop_fn)
    print_summary(summary, task.claims, place.out, place.is_json, said=warnings)
