"""One search of a command: its claims, its scorer, and the folder that it is kept in."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import icmjax
from icmjax.cli.machine import Machine
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    UtilityOptions,
    make_algorithm,
    recorded,
)
from icmjax.errors import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import jax
    import numpy as np

    from icmjax import ClaimSet, GoldLabels, LanguageModel, SearchResult
    from icmjax.runs import Run
    from icmjax.scoring import AnyScorer
    from icmjax.search import Algorithm

FIGURE = "diagnostics.png"
GROUPS = (ModelOptions, ClaimsOptions, ScorerOptions, UtilityOptions)
MAXIMISES_U = ("icm", "tempering", "greedy")


class Place(NamedTuple):
    """Where a search is kept, and how it is watched."""

    out: str
    resume: bool
    quiet: bool
    command: str  # that started it

    @property
    def going_on(self) -> str:
        """The command that goes on with the search."""
        return self.command if self.resume else f"{self.command} --resume"

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


def describe(claims: ClaimSet, algorithm: str, place: Place, name: str = "") -> None:
    """Say on stderr what is searched, and what is odd about it; of which of several searches."""
    whose = f"{name}: " if name else ""
    if not place.quiet:
        click.echo(printable(whose + claims.describe()), err=True)
    if len(claims.personas) > 1:
        click.echo(
            f"warning: claims of {len(claims.personas)} personas are one search, in which each is "
            "predicted from the others; --persona takes one, --personas all each by itself",
            err=True,
        )
    if algorithm in MAXIMISES_U and not len(claims.rules.pairs):
        click.echo(
            f"warning: {printable(whose)}no pair rule ties these claims, and the highest U may be "
            "one label for all; --rule ties them, and --algorithm marginals does not maximise U",
            err=True,
        )


class Search(NamedTuple):
    """All that one search is made from, but for where it is kept."""

    task: Task
    scorer: AnyScorer
    rng_key: jax.Array
    options: Mapping[str, Any]  # as its run records them

    def open(self, place: Place, algorithm: Algorithm) -> AbstractContextManager[Run]:
        """The run folder; raises as `open_run` does."""
        configuration = icmjax.search_configuration(
            self.scorer,
            self.task.claims,
            algorithm,
            self.rng_key,
            model=self.options["model"],
            clamped=self.task.clamped,
        )
        return icmjax.open_run(
            place.out,
            self.task.claims,
            configuration,
            resume=place.resume,
            command=place.command,
            options=self.options,
            private_files=self.task.private_files,
        )

    def first_state(self, algorithm: Algorithm) -> Any:
        """The state in which the search starts; raises as `run_search` does."""
        claims, clamped = self.task.claims, self.task.clamped
        arguments = self.scorer, claims.rules, algorithm, self.rng_key, clamped, claims.group_index
        return icmjax.search.start(*arguments)[1]

    def run_alone(
        self, place: Place, algorithm: Algorithm, stop_fn: Callable[[], bool]
    ) -> dict[str, Any]:
        """Search, or go on with it, and write the results; raises as `run_search` does."""
        with self.open(place, algorithm) as run:
            result = icmjax.run_search(
                self.scorer,
                self.task.claims.rules,
                algorithm,
                self.rng_key,
                clamped=self.task.clamped,
                groups=self.task.claims.group_index,
                run=run,
                progress=not place.quiet,
                stop_fn=stop_fn,
            )
            return self.write(run, result)

    def write(self, run: Run, result: SearchResult) -> dict[str, Any]:
        """Write the results into an open run folder, and return its summary."""
        summary = run.write_results(result, self.task.gold)
        # After the results: a figure that cannot be drawn costs no search.
        if not os.path.lexists(run.path / FIGURE):
            title = f"{self.options['source']}, {self.options['algorithm']}"
            icmjax.runs.plot_search(result, run.path / FIGURE, title)
        return summary


def prepare(task: Task, options: Mapping[str, Any], lm: LanguageModel, machine: Machine) -> Search:
    """A search of a task under a model that is loaded; raises as `make_scorer` does."""
    import jax

    template = recorded(ModelOptions, options).template
    scorer = recorded(ScorerOptions, options).make(lm, task.claims, template, machine)
    wording = icmjax.prompts.resolve_template(template, lm.default_template, task.claims)
    rng_key = jax.random.key(options["seed"])
    return Search(task, scorer, rng_key, {**options, "template": wording.name})


def _algorithm_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    others = {"algorithm", "seed"}.union(*(kind._fields for kind in GROUPS))
    return {name: value for name, value in options.items() if name not in others}
