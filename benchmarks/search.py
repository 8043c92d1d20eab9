"""What does each search find, for how many tokens?

    python benchmarks/search.py

Tasks of the persona world, several groups, under the bundled model, any model, or (`--observer`)
the world's Bayes observer. Three tables:

1. algorithms by tokens, passes, wall time, U, label accuracy and held-out accuracy: means over
   tasks, ± their standard deviation;
2. few passes: the tokens that `icm` spends over those that `tempering` takes to the U that icm ends
   with, and on what share of tasks tempering ends with a U as high or higher;
3. on small tasks, how often each algorithm reaches the optimum found by enumeration. How often
   restarts of icm alone do, on sets of up to 10 claims:
   `python benchmarks/search.py --num-tasks 0 --num-small-tasks 12 --num-small-claims 6,8,10
   --restarts 10 --algorithms icm`

The ratio comes three times, tempering's tokens being those it read each time:

- "as run": of icm as it is here, which takes no pass for a proposal that changes nothing, nor for a
  pair already found to be past mending;
- "a pass each": with a pass for every proposal at the least, as Algorithm 1 is written, by the same
  scorer. This is the criterion: passes saved are ours and not the algorithm's; and with the same
  scorer on both sides, the ratio is what the search gains, to which no cheaper reading of prompts
  adds. The public code does not score a proposal that changes no label: see below;
- "a prompt each": with those passes, each query reading the others in a prompt of its own, so that
  the ratio has what the scorer gains too.

`--reference-cost` measures that last kind by the published control flow itself
(`measure/reference.py`), on the same tasks: it scores one prompt a step, and all claims again only
where a label changes. Its tokens over those that tempering takes to the U of its last labels come
at three prices:

- "tree": what scores all claims is one of our tree passes, and a prompt alone is read whole;
- "whole": every prompt is read anew;
- "cached": a server that keeps every prefix that it ever read.

Each comes over other tokens too: those of one pass, below which no search can know a U, and all
that tempering reads until it stops.

Few passes have passed where the median ratio is 50 or more and tempering ends as high or higher on
95 % of the tasks; small tasks, where tempering reaches the optimum of every one. Tokens of a pass
are those of the claims that are labelled in it. For the observer, which reads no tokens, passes are
counted. Seconds leave compilation out: each program runs once before it is timed.

On one CPU core 30 tasks took 26 minutes, and 50 small ones an hour, most of it enumeration. Started
again with the same settings and --out, it goes on after the last task it finished. `--quick` runs
everything at toy size.
"""

import contextlib
import functools
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from measure.reference import NumpyChance, Prices, PublishedSearch, Settings
from measure.search_tables import (
    ICM_TOKENS,
    show_algorithms,
    show_few_passes,
    show_reference_cost,
    show_small_tasks,
)

import icmjax
from icmjax.arrays import on_device
from icmjax.persona_world import make_observer_scorer, make_observer_steerer, make_task, make_world
from icmjax.search import (
    ICM,
    Bootstrap,
    Gibbs,
    Greedy,
    ParallelTempering,
    SearchResult,
    TokenCounter,
    run_search,
)

ALGORITHMS = {
    "tempering": ParallelTempering(),
    "icm": ICM(),
    "gibbs": Gibbs(),
    "bootstrap": Bootstrap(),
    "greedy": Greedy(),
}
TOLERANCE = 1e-3  # of U, in float32
MAX_BATCH = 1024  # labellings enumerated at a time
OUT = pathlib.Path("runs") / "bench-search"
COST = "30 tasks took 26 minutes and 50 small tasks an hour, of the default sizes, on one CPU core"
NUM_REFERENCE_TASKS = 15
REFERENCE_COST = "15 tasks took 14 minutes on 2 CPU cores that other jobs share"
QUICK_COST = "toy size takes more than 3 minutes on 2 CPU cores that other jobs share"


class Compiled(Exception):
    """The first block has run."""


class FirstBlock:
    """A run store that ends a search after its first block, its program being compiled then."""

    def save(self, state: Any, info: Any, num_steps: int, account: Any) -> None:
        """End the search."""
        raise Compiled

    def restore(self, like: Any) -> None:
        """Nothing is ever resumed."""


class PassCounter:
    """Stands for a scorer that reads no tokens: every pass is one."""

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """One."""
        del labels
        return 1


class Setting(NamedTuple):
    """Where the tasks come from and who scores them."""

    world: Any
    lm: Any  # None for the observer
    method: str
    leave: str

    def task(self, index: int, num_claims: int) -> Any:
        """Task number `index`, the groups taking turns over the tiers."""
        tiers = list(self.world.tiers.values())
        tier = tiers[index % len(tiers)]
        return make_task(
            self.world, tier[index // len(tiers) % len(tier)], index, "search", num_claims
        )

    def num_claims(self, index: int, sizes: str) -> int:
        """The size of task number `index`, of numbers side by side: every tier has each of them."""
        numbers = [int(size) for size in sizes.split(",")]
        return numbers[index // len(self.world.tiers) % len(numbers)]

    def scorer(self, claims: Any, method: str | None = None) -> Any:
        """The scorer of some claims."""
        if self.lm is None:
            return make_observer_scorer(self.world, claims, leave=self.leave)
        return icmjax.make_scorer(self.lm, claims, method or self.method, leave=self.leave)

    def held_out_accuracy(self, task: Any, labels: np.ndarray, index: int) -> float:
        """How often the most probable label of held-out claims is gold, given these labels."""
        persona = task.claims.claims[0].persona
        test = make_task(self.world, persona, index, "test", 32, is_paired=False)
        if self.lm is None:
            steerer = make_observer_steerer(self.world, task.claims, test.claims)
        else:
            steerer = icmjax.make_steerer(self.lm, task.claims, test.claims)
        logp = np.asarray(steerer(labels))
        return float((logp.argmax(-1) == test.gold.labels).mean())


def timed_search(
    name: str, scorer: Any, rules: Any, index: int, is_compiled: set[Any]
) -> SearchResult:
    """A search whose seconds leave compilation out."""
    leaves, structure = jax.tree.flatten(scorer)
    shapes = (name, structure, tuple(map(np.shape, leaves)), len(rules.pairs))
    options = {"rng_key": jax.random.key(index), "progress": False}
    if shapes not in is_compiled:
        with contextlib.suppress(Compiled):
            run_search(scorer, rules, ALGORITHMS[name], run=FirstBlock(), **options)
        is_compiled.add(shapes)
    return run_search(scorer, rules, ALGORITHMS[name], **options)


def run_task(
    setting: Setting, names: list[str], index: int, num_claims: int, is_compiled: set[Any]
) -> dict[str, Any]:
    """All algorithms on one task."""
    task = setting.task(index, num_claims)
    scorer = setting.scorer(task.claims)
    row: dict[str, Any] = {"task": index, "num_claims": num_claims}
    results = {}
    for name in names:
        result = timed_search(name, scorer, task.claims.rules, index, is_compiled)
        results[name] = result
        row[name] = {
            "tokens": result.diagnostics["num_tokens"],
            "passes": result.diagnostics["num_passes"],
            "seconds": result.diagnostics["seconds"],
            "utility": result.utility,
            "label_accuracy": float((result.labels == task.gold.labels).mean()),
            "held_out_accuracy": setting.held_out_accuracy(task, result.labels, index),
        }
    if {"icm", "tempering"} <= results.keys():
        one_by_one = None if setting.lm is None else setting.scorer(task.claims, "sequential")
        same = PassCounter() if setting.lm is None else scorer
        row["few_passes"] = few_passes(results["icm"], results["tempering"], same, one_by_one)
    brief = {name: (row[name]["passes"], round(row[name]["utility"], 3)) for name in names}
    found = {k: round(v, 3) for k, v in row.get("few_passes", {}).items()}
    click.echo(f"task {index}, N = {num_claims}: passes and U {brief} {found}", err=True)
    return row


def few_passes(
    icm: SearchResult, tempering: SearchResult, scorer: Any, one_by_one: Any = None
) -> dict[str, Any]:
    """Tokens of icm, counted in each way, over the tokens that tempering takes to the same U.

    Args:
      icm: with the default `ICM`; all its chains count.
      tempering: with the default `ParallelTempering`.
      scorer: counts the tokens of a pass.
      one_by_one: likewise, where every query reads a prompt of its own; None for no such ratio.
    """
    reached = tempering.trace.best_utility.max(axis=1) >= icm.utility - TOLERANCE
    spent = np.cumsum(TokenCounter(ALGORITHMS["tempering"], scorer)(tempering.trace))
    tokens = float(spent[np.argmax(reached)]) if reached.any() else float("inf")
    a_pass_each = icm.trace._replace(num_passes=np.maximum(icm.trace.num_passes, 1))
    counted = [(scorer, icm.trace), (scorer, a_pass_each), (one_by_one, a_pass_each)]
    return {
        "tokens_to_icm": tokens,
        "is_as_high": bool(tempering.utility >= icm.utility - TOLERANCE),
    } | {
        name: float(TokenCounter(ALGORITHMS["icm"], counter)(trace).sum()) / tokens
        for name, (counter, trace) in zip(ICM_TOKENS, counted, strict=True)
        if counter is not None
    }


def reference_cost(setting: Setting, index: int, num_claims: int) -> dict[str, Any]:
    """What the published search asks for on one task, over what tempering takes to its U."""
    task = setting.task(index, num_claims)
    scorer, rules = setting.scorer(task.claims), task.claims.rules
    score = jax.jit(lambda labels: scorer(labels))
    known: dict[tuple[int, ...], np.ndarray] = {}

    def odds(labels: tuple[int, ...]) -> np.ndarray:
        if labels not in known:
            logp = np.asarray(score(jnp.asarray(labels, jnp.int8)), np.float64)
            known[labels] = logp[:, 1] - logp[:, 0]
        return known[labels]

    groups = [claim.consistency_id for claim in task.claims.claims]
    settings = Settings(num_iterations=ICM().iterations(num_claims))
    search = PublishedSearch(odds, rules, groups, NumpyChance(index), settings)
    prices = Prices(scorer.tokens_per_pass, search.order, scorer.claims)
    search.ask_all, search.ask_one = prices.ask_all, prices.ask_one
    last = search.run()[-1].labels
    # Claims that it never labelled get what the model finds most probable, for nothing.
    labels = np.where(np.asarray(last) < 0, odds(last) > 0, last).astype(np.int8)
    target = float(icmjax.utility(scorer(jnp.asarray(labels)), jnp.asarray(labels), rules))
    key = jax.random.key(index)
    result = run_search(scorer, rules, ALGORITHMS["tempering"], key, progress=False)
    row = {
        "task": index,
        "num_claims": num_claims,
        "utility": target,
        "prompts": prices.num_prompts,
        "scorings": prices.num_scorings,
        "tokens": prices.tokens,
        "one_pass": scorer.tokens_per_pass(labels),
    } | tempering_cost(result, target)
    click.echo(f"task {row}", err=True)
    return row


def tempering_cost(result: SearchResult, target: float) -> dict[str, Any]:
    """The tokens and passes of tempering until it has a U, and all its tokens."""
    reached = result.trace.best_utility.max(axis=1) >= target - TOLERANCE
    first = int(np.argmax(reached)) if reached.any() else None
    tokens, passes = np.cumsum(result.tokens), np.cumsum(result.trace.num_passes.sum(axis=(1, 2)))
    return {
        "tempering_utility": result.utility,
        "tempering_tokens": None if first is None else int(tokens[first]),
        "tempering_passes": None if first is None else int(passes[first]),
        "all_tempering_tokens": int(tokens[-1]),
    }


def enumerated_optimum(scorer: Any, rules: Any, num_claims: int) -> float:
    """The highest U of all labellings."""
    rules = on_device(rules)
    codes = np.arange(2**num_claims)
    labellings = ((codes[:, None] >> np.arange(num_claims)) & 1).astype(np.int8)
    size = min(MAX_BATCH, len(labellings))
    best_of = jax.jit(lambda labels: icmjax.utility(scorer(labels), labels, rules).max())
    return max(float(best_of(labels)) for labels in labellings.reshape(-1, size, num_claims))


def run_small_task(
    setting: Setting, names: list[str], index: int, num_claims: int, num_restarts: int
) -> dict[str, Any]:
    """How often each algorithm reaches the enumerated optimum of one small task."""
    task = setting.task(index, num_claims)
    scorer = setting.scorer(task.claims)
    optimum = enumerated_optimum(scorer, task.claims.rules, num_claims)
    row: dict[str, Any] = {"task": index, "num_claims": num_claims, "optimum": optimum}
    for name in names:
        keys = [jax.random.fold_in(jax.random.key(index), i) for i in range(num_restarts)]
        found = [
            run_search(scorer, task.claims.rules, ALGORITHMS[name], key, progress=False).utility
            for key in keys
        ]
        num_optimal = sum(utility >= optimum - TOLERANCE for utility in found)
        row[name] = {"utilities": found, "num_optimal": num_optimal}
    brief = {name: row[name]["num_optimal"] for name in names}
    persona = task.claims.claims[0].persona
    click.echo(
        f"small task {index}, {persona}, N = {num_claims}: optimum {optimum:.3f} reached {brief} "
        f"of {num_restarts} times",
        err=True,
    )
    return row


class Rows:
    """The results of a run, on disk after every task: a run of the same settings goes on from them.

    Args:
      path: of the JSON.
      settings: all that a row depends on besides its number.

    Raises:
      click.UsageError: there are rows of other settings.
    """

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
        self.path = path
        self.content: dict[str, Any] = settings | {"tasks": [], "small_tasks": []}
        if path.exists():
            self.content = json.loads(path.read_text())
            others = [name for name in settings if self.content.get(name) != settings[name]]
            if others:
                raise click.UsageError(
                    f"{path} holds results of other settings ({', '.join(others)}): name another "
                    "--out, or move the file away"
                )

    def get(self, table: str, index: int, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of a task, run unless it is there."""
        rows = self.content[table]
        if index == len(rows):
            rows.append(run())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        return rows[index]


@click.command(help=__doc__)
@click.option("--model", default="persona-world", show_default=True)
@click.option("--observer", "is_observer", is_flag=True, help="Score by the Bayes observer.")
@click.option("--method", default="tree", show_default=True)
@click.option("--leave", default="claim", show_default=True, help="claim or group.")
@click.option("--num-tasks", default=30, show_default=True)
@click.option("--num-claims", "sizes", default="32,48,64", show_default=True, help="By turns.")
@click.option("--num-small-tasks", default=50, show_default=True)
@click.option("--num-small-claims", "small_sizes", default="8,10,12,14", show_default=True)
@click.option("--restarts", default=1, show_default=True, help="Of each search of a small task.")
@click.option("--algorithms", default=",".join(ALGORITHMS), show_default=True)
@click.option(
    "--quick", "is_quick", is_flag=True, help="3 tasks and 2 small ones, all of 8 claims."
)
@click.option(
    "--reference-cost",
    "is_reference",
    is_flag=True,
    help=f"Only what the published search costs, on {NUM_REFERENCE_TASKS} tasks or fewer.",
)
@click.option(
    "--out",
    default=OUT,
    show_default=True,
    type=click.Path(path_type=pathlib.Path),
    help="Folder for the JSON.",
)
def main(
    model: str,
    is_observer: bool,
    method: str,
    leave: str,
    num_tasks: int,
    sizes: str,
    num_small_tasks: int,
    small_sizes: str,
    restarts: int,
    algorithms: str,
    is_quick: bool,
    is_reference: bool,
    out: pathlib.Path,
) -> None:
    """The command of this file."""
    if is_quick:
        num_tasks, sizes, num_small_tasks, small_sizes = 3, "8", 2, "8"
    if is_reference and is_observer:
        raise click.UsageError("--reference-cost counts tokens, and the observer reads none")
    known = QUICK_COST if is_quick else REFERENCE_COST if is_reference else COST
    click.echo(f"Cost: {known}. Every task is written to {out} as soon as it is done.", err=True)
    names = algorithms.split(",")
    lm = None if is_observer else icmjax.load_lm(model)
    setting = Setting(make_world(), lm, method, leave)
    is_compiled: set[Any] = set()
    device = jax.devices()[0]
    settings = {
        "model": "observer" if is_observer else model,
        "method": method,
        "leave": leave,
        "algorithms": names,
        "num_claims": {"tasks": sizes, "small_tasks": small_sizes},
        "restarts": restarts,
        "device": f"{device.device_kind} ({device.platform})",
        "versions": {"jax": jax.__version__, "icmjax": icmjax.__version__},
        "python": platform.python_version(),
    }
    kind = "_reference" * is_reference + "_quick" * is_quick
    rows = Rows(out / f"search_{device.platform}{kind}.json", settings)
    if is_reference:
        costs = [
            rows.get(
                "tasks",
                index,
                functools.partial(reference_cost, setting, index, setting.num_claims(index, sizes)),
            )
            for index in range(min(num_tasks, NUM_REFERENCE_TASKS))
        ]
        show_reference_cost(costs)
        return
    tasks = [
        rows.get(
            "tasks",
            index,
            functools.partial(
                run_task, setting, names, index, setting.num_claims(index, sizes), is_compiled
            ),
        )
        for index in range(num_tasks)
    ]
    if tasks:
        show_algorithms(names, tasks)
        if "few_passes" in tasks[0]:
            show_few_passes(tasks)
    small = [
        rows.get(
            "small_tasks",
            index,
            functools.partial(
                run_small_task,
                setting,
                names,
                index,
                setting.num_claims(index, small_sizes),
                restarts,
            ),
        )
        for index in range(num_small_tasks)
    ]
    if small:
        show_small_tasks(names, small)


if __name__ == "__main__":
    main()
