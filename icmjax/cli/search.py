"""`icmjax search`: label claims without labels, into a run folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import icmjax
from icmjax.cli.config import FILE, config_option, config_text
from icmjax.cli.faults import reports_faults, shows_run_warnings
from icmjax.cli.inputs import place_of, read_labels
from icmjax.cli.machine import OPTIONS, Machine, joins_hosts, machine_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    UtilityOptions,
    algorithm_options,
    claims_options,
    make_algorithm,
    model_options,
    recorded,
    scorer_options,
    utility_options,
)
from icmjax.cli.output import json_option, log_option, logged, print_summary, say
from icmjax.cli.preemption import PREEMPTED, notices_sigterm
from icmjax.errors import Preempted, RunError, printable
from icmjax.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from icmjax import ClaimSet, GoldLabels, LanguageModel
    from icmjax.search import Algorithm, RunStore

FIGURE = "diagnostics.png"
# A run records its options, but for those that say where it lies and how it is watched.
NOT_RECORDED = (
    "out",
    "resume",
    "resume_if_begun",
    "quiet",
    "clamp",
    "is_json",
    "log",
    *OPTIONS,
)
GROUPS = (ModelOptions, ClaimsOptions, ScorerOptions, UtilityOptions)
MAXIMISES_U = ("icm", "tempering", "greedy")


class Place(NamedTuple):
    """Where a search is kept, and how it is watched."""

    out: str
    resume: bool
    quiet: bool
    command: str  # that started it
    is_json: bool = False
    config: str | None = None  # the file of the options that are in force
    tell_fn: Callable[[int, int], None] | None = None  # told the steps taken, and of how many

    @property
    def going_on(self) -> str:
        """The command that goes on with the search."""
        return self.command if self.resume else f"{self.command} --resume"

    @property
    def has_begun(self) -> bool:
        """Whether there is a search that can be resumed, or a complete one."""
        return os.path.lexists(pathlib.Path(self.out) / "manifest.json")


class Watched(NamedTuple):
    """A run that tells of every block of steps that it keeps."""

    run: RunStore
    tell_fn: Callable[[int, int], None]
    num_all: int

    def save(self, state: Any, info: Any, num_steps: int, account: Any) -> None:
        """Keep what the run keeps, then tell."""
        self.run.save(state, info, num_steps, account)
        self.tell_fn(num_steps, max(num_steps, self.num_all))

    def restore(self, *arguments: Any) -> Any:
        """What the run restores."""
        return self.run.restore(*arguments)


class Task(NamedTuple):
    """What is searched, with what is known of it."""

    claims: ClaimSet
    gold: GoldLabels | None
    clamped: np.ndarray | None
    private_files: Mapping[str, str]  # kept in the run, for its owner alone to read


@click.command("search")
@model_options
@claims_options
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
    clamp: str | None,
    out: str,
    resume: bool,
    resume_if_begun: bool,
    quiet: bool,
    is_json: bool,
    log: str | None,
    **others: Any,
) -> None:
    """Label claims without labels; write DIR/labels.jsonl, summary.json and diagnostics.png."""
    resume |= resume_if_begun and os.path.lexists(pathlib.Path(out) / "manifest.json")
    context = click.get_current_context()
    config = config_text(context.command, context.params)
    place = Place(out, resume, quiet, shlex.join(["icmjax", *sys.argv[1:]]), is_json, config)
    with logged(log), says_how_to_go_on(place) as stop_fn:
        icmjax.runs.check_folder(out, resume)
        claims, gold = source.read()
        is_part = source.persona is not None or source.limit is not None
        clamped = None if clamp is None else read_labels(clamp, claims, is_part)
        options = context.params | {
            "model": place_of(model.model),
            "source": place_of(source.source),
        }
        kept = {name: value for name, value in options.items() if name not in NOT_RECORDED}
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
            click.echo("\ninterrupted; nothing was kept", err=True)
        sys.exit(130)
    except Preempted as ended:
        if place.has_begun:
            kept = f"preempted after {ended.num_steps} steps; go on with: {place.going_on}"
        else:
            kept = f"preempted before the first step; start anew with: {place.command}"
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
    import jax

    model = recorded(ModelOptions, options)
    chosen = recorded_algorithm(options)
    icmjax.runs.check_folder(place.out, place.resume)
    claims = task.claims
    if not place.quiet:
        say(claims.describe())
    if len(claims.personas) > 1:
        say(
            f"warning: claims of {len(claims.personas)} personas are one search, in which each is "
            "predicted from the others; --persona takes one"
        )
    if options["algorithm"] in MAXIMISES_U and not len(claims.rules.pairs):
        say(
            "warning: no pair rule ties these claims, and the highest U may be one label for all; "
            "--rule ties them, and --algorithm marginals does not maximise U"
        )
    lm = model.load(machine.mesh) if lm is None else lm
    scorer = recorded(ScorerOptions, options).make(lm, claims, model.template, machine)
    plan = str(icmjax.scoring.describe(scorer, machine.memory_budget))
    if not place.quiet:
        say(plan)
    wording = icmjax.prompts.resolve_template(model.template, lm.default_template, claims)
    rng_key = jax.random.key(options["seed"])
    configuration = icmjax.search_configuration(
        scorer, claims, chosen, rng_key, model=model.model, clamped=task.clamped
    )
    with icmjax.open_run(
        place.out,
        claims,
        configuration,
        resume=place.resume,
        command=place.command,
        plan=plan,
        options={**options, "template": wording.name},
        private_files=task.private_files,
    ) as run:
        if place.config is not None and not os.path.lexists(run.path / FILE):
            write_text(run.path / FILE, place.config, error=RunError)
        num_all, tell_fn = chosen.num_steps(len(claims)), place.tell_fn
        result = icmjax.run_search(
            scorer,
            claims.rules,
            chosen,
            rng_key,
            clamped=task.clamped,
            groups=claims.group_index,
            run=run if tell_fn is None else Watched(run, tell_fn, num_all),
            progress=not place.quiet,
            stop_fn=stop_fn,
        )
        summary = run.write_results(result, task.gold)
        # After the results: a figure that cannot be drawn costs no search.
        if not os.path.lexists(run.path / FIGURE):
            title = f"{options['source']}, {options['algorithm']}"
            is_held = icmjax.runs.held_fast(claims, configuration)
            found = icmjax.runs.found_by(result, claims, task.gold, is_held)
            icmjax.runs.plot_search(found, run.path / FIGURE, title)
    print_summary(summary, claims, place.out, place.is_json)


def recorded_algorithm(options: Mapping[str, Any]) -> Algorithm:
    """The algorithm of the options that a run records.

    Raises:
      InputError: see `make_algorithm`.
    """
    fields = _algorithm_fields(options)
    return make_algorithm(options["algorithm"], recorded(UtilityOptions, options), fields)


def _algorithm_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    others = {"algorithm", "seed"}.union(*(kind._fields for kind in GROUPS))
    return {name: value for name, value in options.items() if name not in others}
