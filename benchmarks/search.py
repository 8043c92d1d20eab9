"""What does each search find, for how many tokens?

    python benchmarks/search.py --out benchmarks/results

Tasks of the persona world, several groups, under the bundled model, any model, or (`--observer`)
the world's Bayes observer. Three tables:

1. algorithms by tokens, passes, wall time, U, label accuracy and held-out accuracy, means over
   tasks;
2. few passes: how many tokens `tempering` takes to the U that `icm` ends with, as a ratio, and on
   what share of tasks it ends with a U as high or higher;
3. on small tasks, how often each algorithm reaches the optimum found by enumeration.

The ratio comes three times. "As run" counts the passes that this package's icm takes: it skips
proposals that change nothing, and pairs already found to be past mending. "Every proposal scored"
counts a pass for each iteration at least, as Algorithm 1 is written. "Read one by one" is as run,
but with each query reading the others in one prompt of its own, as the reference does (for the
observer, which reads no tokens, there is no such column). Seconds leave compilation out.
"""

import json
import pathlib
import platform
import statistics
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np

import icmjax
from icmjax.persona_world.observer import make_observer_scorer, make_observer_steerer
from icmjax.persona_world.tasks import make_task
from icmjax.persona_world.world import make_world
from icmjax.search import ICM, Bootstrap, Gibbs, Greedy, ParallelTempering, search

ALGORITHMS = {
    "tempering": ParallelTempering(),
    "icm": ICM(),
    "gibbs": Gibbs(),
    "bootstrap": Bootstrap(),
    "greedy": Greedy(),
}
TOLERANCE = 1e-3  # of U, in float32
MAX_BATCH = 1024  # labellings enumerated at a time


class Clock:
    """A run store that keeps the wall time of each block, and nothing else."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def save(self, state: Any, info: Any, num_steps: int, account: Any) -> None:
        """Note the time."""
        del state, info, num_steps
        self.seconds.append(account.seconds)

    def restore(self, like: Any) -> None:
        """Nothing is ever resumed."""

    def without_compilation(self) -> float:
        """Seconds, as if the first block had taken as long as the median of the others."""
        blocks = np.diff([0.0, *self.seconds])
        later = blocks[1:] if len(blocks) > 1 else blocks
        return float(blocks[1:].sum() + np.median(later))


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


def tokens_of(scorer: Any, num_claims: int) -> int:
    """Tokens of a pass over full labels; 1 where none are read, so that passes are counted."""
    return scorer.tokens_per_pass(np.ones(num_claims, np.int8)) or 1


def run_task(setting: Setting, names: list[str], index: int, num_claims: int) -> dict[str, Any]:
    """All algorithms on one task."""
    task = setting.task(index, num_claims)
    scorer = setting.scorer(task.claims)
    row: dict[str, Any] = {"task": index, "num_claims": num_claims}
    traces = {}
    for name in names:
        clock = Clock()
        key = jax.random.key(index)
        result = search(scorer, task.claims.rules, ALGORITHMS[name], key, run=clock, progress=False)
        traces[name] = result.trace
        row[name] = {
            "tokens": result.diagnostics["num_passes"] * tokens_of(scorer, num_claims)
            if setting.lm is None
            else result.diagnostics["num_tokens"],
            "passes": result.diagnostics["num_passes"],
            "seconds": clock.without_compilation(),
            "utility": result.utility,
            "label_accuracy": float((result.labels == task.gold.labels).mean()),
            "held_out_accuracy": setting.held_out_accuracy(task, result.labels, index),
        }
    if {"icm", "tempering"} <= traces.keys():
        row["few_passes"] = few_passes(setting, task, scorer, row, traces)
    brief = {name: (row[name]["passes"], round(row[name]["utility"], 3)) for name in names}
    click.echo(f"task {index}, N = {num_claims}: passes and U {brief}", err=True)
    return row


def few_passes(
    setting: Setting, task: Any, scorer: Any, row: dict[str, Any], traces: dict[str, Any]
) -> dict[str, Any]:
    """Tokens of icm over the tokens that tempering takes to the same U."""
    num_claims, per_pass = row["num_claims"], tokens_of(scorer, row["num_claims"])
    best = traces["tempering"].best_utility.max(axis=1)
    is_there = best >= row["icm"]["utility"] - TOLERANCE
    per_step = row["tempering"]["passes"] / len(best)
    passes = float(np.argmax(is_there) + 1) * per_step if is_there.any() else float("inf")
    icm_passes = traces["icm"].num_passes
    found = {
        "passes_to_icm": passes,
        "as run": row["icm"]["tokens"] / (passes * per_pass),
        "every proposal scored": float(np.maximum(icm_passes, 1).sum()) / passes,
        "is_as_high": bool(row["tempering"]["utility"] >= row["icm"]["utility"] - TOLERANCE),
    }
    if setting.lm is not None:
        one_by_one = tokens_of(setting.scorer(task.claims, "sequential"), num_claims)
        found["read one by one"] = row["icm"]["passes"] * one_by_one / (passes * per_pass)
    return found


def enumerated_optimum(scorer: Any, rules: Any, num_claims: int) -> float:
    """The highest U of all labellings."""
    rules = jax.tree.map(jnp.asarray, rules)
    codes = np.arange(2**num_claims)
    labellings = ((codes[:, None] >> np.arange(num_claims)) & 1).astype(np.int8)
    size = min(MAX_BATCH, len(labellings))
    best_of = jax.jit(lambda labels: icmjax.utility(scorer(labels), labels, rules).max())
    return max(float(best_of(labels)) for labels in labellings.reshape(-1, size, num_claims))


def run_small_task(setting: Setting, names: list[str], index: int, num_claims: int) -> dict:
    """Whether each algorithm reaches the enumerated optimum of one small task."""
    task = setting.task(index, num_claims)
    scorer = setting.scorer(task.claims)
    optimum = enumerated_optimum(scorer, task.claims.rules, num_claims)
    row: dict[str, Any] = {"task": index, "num_claims": num_claims, "optimum": optimum}
    for name in names:
        key = jax.random.key(index)
        found = search(scorer, task.claims.rules, ALGORITHMS[name], key, progress=False).utility
        row[name] = {"utility": found, "is_optimal": found >= optimum - TOLERANCE}
    return row


def show(rows: list[list[Any]]) -> None:
    """Aligned columns."""
    for row in rows:
        click.echo("  ".join(f"{cell!s:>22}" for cell in row))
    click.echo()


def show_algorithms(names: list[str], rows: list[dict[str, Any]]) -> None:
    """The first table."""
    columns = ("tokens", "passes", "seconds", "utility", "label_accuracy", "held_out_accuracy")
    table: list[list[Any]] = [["algorithm", *columns]]
    for name in names:
        means = [statistics.fmean(row[name][column] for row in rows) for column in columns]
        table.append([name, *(f"{mean:.3f}" for mean in means)])
    show(table)


def show_few_passes(rows: list[dict[str, Any]]) -> None:
    """The second table."""
    found = [row["few_passes"] for row in rows]
    columns = [name for name in found[0] if name not in ("is_as_high", "passes_to_icm")]
    table: list[list[Any]] = [["icm tokens / tempering's", "median", "lowest", "share ≥ 50"]]
    for name in columns:
        ratios = np.array([row[name] for row in found])
        table.append(
            [
                name,
                f"{np.median(ratios):.1f}",
                f"{ratios.min():.1f}",
                f"{(ratios >= 50).mean():.2f}",
            ]
        )
    show(table)
    passes = np.median([row["passes_to_icm"] for row in found])
    share = np.mean([row["is_as_high"] for row in found])
    click.echo(f"passes of tempering to icm's U, median: {passes:.0f}")
    click.echo(f"tasks where tempering ends as high or higher: {share:.3f} of {len(found)}\n")


@click.command(help=__doc__)
@click.option("--model", default="persona-world", show_default=True)
@click.option("--observer", "is_observer", is_flag=True, help="Score by the Bayes observer.")
@click.option("--method", default="tree", show_default=True)
@click.option("--leave", default="claim", show_default=True, help="claim or group.")
@click.option("--num-tasks", default=30, show_default=True)
@click.option("--num-claims", "sizes", default="32,48,64", show_default=True, help="By turns.")
@click.option("--num-small-tasks", default=50, show_default=True)
@click.option("--num-small-claims", "small_sizes", default="8,10,12,14", show_default=True)
@click.option("--algorithms", default=",".join(ALGORITHMS), show_default=True)
@click.option("--out", type=click.Path(path_type=pathlib.Path), help="Folder for the JSON.")
def main(
    model: str,
    is_observer: bool,
    method: str,
    leave: str,
    num_tasks: int,
    sizes: str,
    num_small_tasks: int,
    small_sizes: str,
    algorithms: str,
    out: pathlib.Path | None,
) -> None:
    """The command of this file."""
    names = algorithms.split(",")
    lm = None if is_observer else icmjax.load_lm(model)
    setting = Setting(make_world(), lm, method, leave)
    numbers = [int(size) for size in sizes.split(",")]
    rows = [
        run_task(setting, names, index, numbers[index % len(numbers)]) for index in range(num_tasks)
    ]
    if rows:
        show_algorithms(names, rows)
        if "few_passes" in rows[0]:
            show_few_passes(rows)
    small_numbers = [int(size) for size in small_sizes.split(",")]
    small = [
        run_small_task(setting, names, index, small_numbers[index % len(small_numbers)])
        for index in range(num_small_tasks)
    ]
    if small:
        shares = [np.mean([row[name]["is_optimal"] for row in small]) for name in names]
        header = f"optimum of {len(small)} tasks"
        show(
            [
                [header, "share reached"],
                *([n, f"{s:.3f}"] for n, s in zip(names, shares, strict=True)),
            ]
        )
    device = jax.devices()[0]
    content = {
        "model": "observer" if is_observer else model,
        "method": method,
        "leave": leave,
        "device": f"{device.device_kind} ({device.platform})",
        "versions": {"jax": jax.__version__, "icmjax": icmjax.__version__},
        "python": platform.python_version(),
        "tasks": rows,
        "small_tasks": small,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"search_{device.platform}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
