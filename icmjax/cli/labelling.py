"""One search of a command: its claims, its scorer, and the folder that it is kept in."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import icmjax
from icmjax.cli.config import FILE, config_text
from icmjax.cli.machine import Machine
from icmjax.cli.options import (
    ALGORITHMS,
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    UtilityOptions,
    make_algorithm,
    recorded,
)
from icmjax.cli.output import say
from icmjax.cli.program import spelt_as_called
from icmjax.errors import RunError
from icmjax.files import write_text

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import click
    import jax
    import numpy as np

    from icmjax import ClaimSet, GoldLabels, LanguageModel, SearchResult
    from icmjax.runs import Run
    from icmjax.scoring import AnyScorer, PassPlan
    from icmjax.search import Algorithm, RunStore

FIGURE = "diagnostics.png"
LONG = 1_000_000  # tokens: minutes on a CPU, for a model of a hundred million parameters
GROUPS = (ModelOptions, ClaimsOptions, ScorerOptions, UtilityOptions)


class Place(NamedTuple):
    """Where a search is kept, and how it is watched."""

    out: str
    resume: bool
    quiet: bool
    command: str  # that started it, for the record
    is_json: bool = False
    saves: click.Command | None = None  # whose options the run keeps as a file of `--config`
    clamp: str | None = None  # the file of labels that do not move
    tell_fn: Callable[[int, int], None] | None = None  # told the steps taken, and of how many
    says_plan: bool = False  # what a pass takes, also where the search is short

    @property
    def going_on(self) -> str:
        """The command that goes on with the search, to be pasted into a shell."""
        return spelt_as_called(icmjax.runs.resumed(self.command))

    @property
    def anew(self) -> str:
        """The command that starts it, likewise."""
        return spelt_as_called(self.command)

    @property
    def has_begun(self) -> bool:
        """Whether there is a search that can be resumed, or a complete one; of any persona."""
        return has_begun(self.out)


def has_begun(out: str) -> bool:
    """Whether a folder, or one in it, holds a run that can be resumed, or a complete one."""
    folder = pathlib.Path(out)
    within: list[pathlib.Path] = []
    with contextlib.suppress(OSError):  # a folder that is not there, or that is no folder
        within = [*folder.iterdir()]
    return any(os.path.lexists(each / "manifest.json") for each in (folder, *within))


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


def algorithm_of(options: Mapping[str, Any]) -> Algorithm:
    """The algorithm that a command's options ask for; raises as `make_algorithm` does."""
    utility = recorded(UtilityOptions, options)
    return make_algorithm(options["algorithm"], utility, _algorithm_fields(options))


def describe(claims: ClaimSet, place: Place, name: str = "") -> None:
    """Say on stderr what is searched; of which of several searches."""
    whose = f"{name}: " if name else ""
    if not place.quiet:
        say(whose + claims.describe())
    if claims.unread and not place.quiet:
        say(f"{whose}columns that nothing reads: {', '.join(claims.unread)}")


def known_warnings(claims: ClaimSet, options: Mapping[str, Any]) -> list[str]:
    """What can be warned of before a search by these options."""
    return icmjax.runs.warnings_of_claims(claims, ALGORITHMS[options["algorithm"]])


class Search(NamedTuple):
    """All that one search is made from, but for where it is kept."""

    task: Task
    scorer: AnyScorer
    rng_key: jax.Array
    options: Mapping[str, Any]  # as its run records them
    plan: PassPlan  # of a pass

    def open(self, place: Place, algorithm: Algorithm) -> AbstractContextManager[Run]:
        """The run folder; raises as `open_run` does."""
        return icmjax.open_run(
            place.out,
            self.task.claims,
            self.configuration(algorithm),
            resume=place.resume,
            command=place.command,
            plan=str(self.plan),
            options=self.options,
            private_files=self.task.private_files,
        )

    def configuration(self, algorithm: Algorithm) -> dict[str, Any]:
        """All that the result depends on."""
        return icmjax.search_configuration(
            self.scorer,
            self.task.claims,
            algorithm,
            self.rng_key,
            model=self.options["model"],
            clamped=self.task.clamped,
        )

    def is_long(self, algorithm: Algorithm) -> bool:
        """Whether it is expected to read so much that people should know before it begins."""
        expected = algorithm.expected_tokens(self.scorer)
        if expected is None:  # depends on what it finds
            expected = self.plan.num_tokens * algorithm.num_steps(len(self.task.claims))
        return expected >= LONG

    def first_state(self, algorithm: Algorithm) -> Any:
        """The state in which the search starts; raises as `run_search` does."""
        claims, clamped = self.task.claims, self.task.clamped
        arguments = self.scorer, claims.rules, algorithm, self.rng_key, clamped, claims.group_index
        return icmjax.search.start(*arguments)[1]

    def run_alone(
        self, place: Place, algorithm: Algorithm, stop_fn: Callable[[], bool]
    ) -> dict[str, Any]:
        """Search, or go on with it, and write the results; raises as `run_search` does."""
        claims, tell_fn = self.task.claims, place.tell_fn
        num_all = algorithm.num_steps(len(claims))
        with self.open(place, algorithm) as run:
            result = icmjax.run_search(
                self.scorer,
                claims.rules,
                algorithm,
                self.rng_key,
                clamped=self.task.clamped,
                groups=claims.group_index,
                run=run if tell_fn is None else Watched(run, tell_fn, num_all),
                progress=not place.quiet,
                stop_fn=stop_fn,
            )
            return self.write(run, result, algorithm, place)

    def write(
        self, run: Run, result: SearchResult, algorithm: Algorithm, place: Place
    ) -> dict[str, Any]:
        """Write the results into an open run folder, and return its summary."""
        summary = run.write_results(result, self.task.gold)
        if place.saves is not None and not os.path.lexists(run.path / FILE):
            options = {**run.manifest["options"], "clamp": place.clamp}
            write_text(run.path / FILE, config_text(place.saves, options), error=RunError)
        # After the results: a figure that cannot be drawn costs no search.
        if not os.path.lexists(run.path / FIGURE):
            title = f"{self.options['source']}, {self.options['algorithm']}"
            is_held = icmjax.runs.held_fast(self.task.claims, self.configuration(algorithm))
            found = icmjax.runs.found_by(result, self.task.claims, self.task.gold, is_held)
            icmjax.runs.plot_search(found, run.path / FIGURE, title)
        return summary


def prepare(task: Task, options: Mapping[str, Any], lm: LanguageModel, machine: Machine) -> Search:
    """A search of a task under a model that is loaded; raises as `make_scorer` does."""
    import jax

    template = recorded(ModelOptions, options).template
    scorer = recorded(ScorerOptions, options).make(lm, task.claims, template, machine)
    wording = icmjax.prompts.resolve_template(template, lm.default_template, task.claims)
    rng_key = jax.random.key(options["seed"])
    plan = icmjax.scoring.describe(scorer, machine.memory_budget)
    return Search(task, scorer, rng_key, {**options, "template": wording.name}, plan)


def _algorithm_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    others = {"algorithm", "seed"}.union(*(kind._fields for kind in GROUPS))
    return {name: value for name, value in options.items() if name not in others}
