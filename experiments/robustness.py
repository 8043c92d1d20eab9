"""What the labels that a search finds depend on, besides the claims.

    python experiments/robustness.py --out runs/robustness
    python experiments/robustness.py --quick --out runs/robustness_quick

For every group and seed, a search (parallel tempering, hard pair rules) and its labels:
  order      Held-out accuracy in S shuffled orders of the demonstrations: its mean, its standard
             deviation and its range within a unit; of the search's labels and of gold.
  start      Searches that start from gold, from gold turned round (the worst case), and from the
             zero-shot labels, with four replicas and with one alone: U and label accuracy.
  balance    Claims without opposites of which 50, 70 or 90 % are true: label accuracy, balanced
             accuracy, and the share of True among the labels. No pair rule can help here.
  unknown    A concept that the model cannot know: each item's label is a coin flip. The agreement
             of the search's labels with the coins, and with other items' coins on held-out claims
             after the coins themselves as demonstrations; both must stay at chance.
  salient    No header says whose claims they are: agreement of the search's labels with the
             group's own gold, with the most frequent group's answers, and with the wording (a claim
             is True where it is not reversed). Agreement is up to turning all labels round for the
             last only.
"""

import pathlib
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from harness import Row, as_json, experiment, groups_of, mean_row, run_units, table, write_json
from icm_vs_gold import orders_of
from readers import Reader

from icmjax import load_lm, make_scorer, make_steerer
from icmjax.claims import ClaimSet, GoldLabels
from icmjax.persona_world import text
from icmjax.persona_world.tasks import Task, make_task
from icmjax.persona_world.world import World, make_world
from icmjax.search import ParallelTempering, search
from icmjax.steering import score_predictions

TRUE_SHARES = (0.5, 0.7, 0.9)
Run = dict[str, float]


class Bench:
    """One unit's reader, tasks and search."""

    def __init__(self, reader: Reader, world: World, options: dict[str, Any], key: tuple[str, int]):
        self.reader, self.world, self.options = reader, world, options
        self.group, self.seed = key

    def task(self, split: str = "search", **changes: Any) -> Task:
        """A task of this unit's group and seed."""
        num = self.options["num_claims" if split == "search" else "num_test"]
        return make_task(
            self.world,
            self.group,
            self.seed,
            split,  # type: ignore[arg-type]  # of our own two words
            **({"num_claims": num} | changes),
        )

    def search(self, claims: ClaimSet, algorithm: Any = None) -> Any:
        """The labels of a search under hard rules, and its U."""
        rules = claims.rules._replace(is_hard=np.ones(len(claims.rules.pairs), bool))
        algorithm = algorithm or ParallelTempering(num_iterations=self.options["num_iterations"])
        scorer = self.reader.make_scorer(claims)
        return search(scorer, rules, algorithm, jax.random.key(self.seed), progress=False)


def run_order(bench: Bench) -> dict[str, Run]:
    """Accuracy over shuffles of the demonstrations."""
    task, held_out = bench.task(), bench.task("test")
    labels = {"search": bench.search(task.claims).labels, "gold": task.gold.labels}
    steerer = bench.reader.make_steerer(task.claims, held_out.claims)
    orders = orders_of(len(task.claims), bench.options["num_orders"], bench.seed)
    result = {}
    for name, chosen in labels.items():
        predictions = steerer(np.broadcast_to(chosen, orders.shape), orders)  # type: ignore[call-arg]
        accuracy = [score_predictions(logp, held_out.gold).accuracy for logp in predictions]
        result[name] = {
            "mean": float(np.mean(accuracy)),
            "standard deviation": float(np.std(accuracy, ddof=1)),
            "range": float(np.ptp(accuracy)),
        }
    return result


def run_start(bench: Bench) -> dict[str, Run]:
    """Starts from the best, the worst and the model's own labels."""
    task = bench.task()
    gold = task.gold.labels
    num_iterations = bench.options["num_iterations"]
    starts = {"gold": tuple(gold.tolist()), "worst case": tuple((1 - gold).tolist())}
    result = {}
    for name, start in (*starts.items(), ("zero-shot", "zero_shot")):
        algorithms = {
            f"{num_replicas} replicas" if num_replicas > 1 else "one replica": ParallelTempering(
                num_iterations=num_iterations,
                num_replicas=num_replicas,
                warm_start=start,  # type: ignore[arg-type]  # labels or a name of its own
            )
            for num_replicas in (1, 4)
        }
        for algorithm_name, algorithm in algorithms.items():
            found = bench.search(task.claims, algorithm)
            result[f"{algorithm_name} from {name}"] = {
                "utility": found.utility,
                "label accuracy": float((found.labels == gold).mean()),
            }
    return result


def run_balance(bench: Bench) -> dict[str, Run]:
    """Claims of which most are true."""
    num, result = bench.options["num_claims"], {}
    pool = bench.task(num_claims=2 * num, is_paired=False)
    for share in TRUE_SHARES:
        num_true = round(share * num)
        is_true = np.flatnonzero(pool.gold.labels == 1)[:num_true]
        is_false = np.flatnonzero(pool.gold.labels == 0)[: num - num_true]
        chosen = np.sort(np.concatenate([is_true, is_false]))
        gold = pool.gold.labels[chosen]
        labels = bench.search(pool.claims.select(chosen)).labels
        recalls = [np.mean(labels[gold == label] == label) for label in np.unique(gold)]
        result[f"{share:.0%} true"] = {
            "true among gold": float(gold.mean()),
            "label accuracy": float((labels == gold).mean()),
            "balanced accuracy": float(np.mean(recalls)),
            "true among labels": float(labels.mean()),
        }
    return result


def run_unknown(bench: Bench) -> dict[str, Run]:
    """Coin flips in place of a persona."""
    task, held_out = bench.task(), bench.task("test")
    rng = np.random.default_rng((bench.seed, bench.world.group_index(bench.group)))

    def flip_pairs(claims: ClaimSet) -> np.ndarray:
        labels = np.repeat(rng.integers(2, size=len(claims) // 2), 2).astype(np.int8)
        labels[1::2] = 1 - labels[1::2]
        return labels

    coins, other_coins = flip_pairs(task.claims), flip_pairs(held_out.claims)
    found = bench.search(task.claims).labels
    logp = bench.reader.make_steerer(task.claims, held_out.claims)(coins)
    return {
        "coins": {
            "search agrees": float((found == coins).mean()),
            "held-out agrees": score_predictions(logp, GoldLabels(other_coins)).accuracy,
        }
    }


def run_salient(bench: Bench) -> dict[str, Run]:
    """Whose labels a search finds where no header says it."""
    task = bench.task(source=None)
    labels = bench.search(task.claims).labels
    parts = [text.parse_claim(claim.choice) for claim in task.claims.claims]
    assert all(part is not None for part in parts)
    values = bench.world.group_values[0]
    margins = bench.world.margins(values)
    frequent = np.array([(margins[part[0], part[1]] > 0) ^ part[2] for part in parts if part])
    wording = np.array([not part[2] for part in parts if part])
    as_worded = float((labels == wording).mean())
    return {
        "no header": {
            "agrees with gold": float((labels == task.gold.labels).mean()),
            "agrees with the most frequent group": float((labels == frequent).mean()),
            "agrees with the wording": max(as_worded, 1 - as_worded),
        }
    }


PARTS = {
    "order": run_order,
    "start": run_start,
    "balance": run_balance,
    "unknown": run_unknown,
    "salient": run_salient,
}


def analyse(units: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """A table a part: every quantity's mean over units."""
    return {
        part: [
            mean_row(f"{name}: {metric}", (unit[part][name][metric] for unit in units))
            for name, metrics in runs.items()
            for metric in metrics
        ]
        for part, runs in units[0].items()
        if part != "key"
    }


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Means with intervals, a panel a part, of all that is a share."""
    figure = matplotlib.figure.Figure(figsize=(8, 1.7 * len(tables)), layout="constrained")
    for axes, (part, rows) in zip(
        np.atleast_1d(figure.subplots(len(tables), 1)), tables.items(), strict=True
    ):
        shown = [row for row in rows if "utility" not in row.name]
        means = np.array([row.summary.mean for row in shown])
        low = np.array([row.summary.low for row in shown])
        high = np.array([row.summary.high for row in shown])
        spread = np.maximum(np.nan_to_num([means - low, high - means]), 0)
        axes.errorbar(means, range(len(shown)), xerr=spread, fmt="o", capsize=2)
        axes.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=7)
        axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
        axes.set(xlim=(-0.02, 1.02), title=part)
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)


@experiment
@click.option("--model", default="persona-world", show_default=True)
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--seeds", "num_seeds", default=3, show_default=True, help="Tasks a group.")
@click.option("--iterations", "num_iterations", default=60, show_default=True)
@click.option("--num-claims", default=32, show_default=True, help="Search claims a task.")
@click.option("--num-test", default=64, show_default=True, help="Held-out claims a task.")
@click.option("--orders", "num_orders", default=10, show_default=True, help="Shuffles.")
@click.option("--leave", default="group", show_default=True, type=click.Choice(["claim", "group"]))
def main(
    model: str,
    out: pathlib.Path,
    parts: str,
    num_seeds: int,
    groups: str | None,
    quick: bool,
    **options: Any,
) -> None:
    """The command of this file."""
    world, lm = make_world(), load_lm(model)
    if quick:
        options["num_iterations"] = 20
    leave = options["leave"]
    reader = Reader(
        model,
        lambda claims: make_scorer(lm, claims, "tree", leave=leave),
        lambda claims, queries: make_steerer(lm, claims, queries),
    )
    names = groups_of(world, groups, quick)
    keys = [(name, seed) for name in names for seed in range(1 if quick else num_seeds)]

    def run_unit(group: str, seed: int) -> dict[str, Any]:
        bench = Bench(reader, world, options, (group, seed))
        return {part: PARTS[part](bench) for part in parts.split(",")}

    units = run_units(out, {"model": model, "parts": parts, **options}, keys, run_unit)
    tables = analyse(units)
    for title, rows in tables.items():
        click.echo(table(rows, title) + "\n")
    write_json(out / "report.json", {title: as_json(rows) for title, rows in tables.items()})
    plot(tables, out / "robustness.png")


if __name__ == "__main__":
    main()
