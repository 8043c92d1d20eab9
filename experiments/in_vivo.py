"""Do labels found without gold steer a real language model towards real personas?

    python experiments/in_vivo.py --data FOLDER
    python experiments/in_vivo.py --data FOLDER --quick
    python experiments/in_vivo.py --model models/smollm2-135m-instruct --data FOLDER \\
        --personas NAME,NAME --seeds 1 --out runs/in_vivo_smollm2

FOLDER holds public data of which `experiments/README.md` tells the layout: statements that a
persona would make or not, written by a model (Perez et al., arXiv:2212.09251). Protocol, fixed
before the first run:
  1. 24 of the 34 personas, drawn once; the others are never looked at here. Two seeds of each.
  2. N = 32 search items of the train file, M = 96 held-out ones of the test file, half of either
     label, in the wording that `wording.py` chose for the model.
  3. A unit is a persona, a seed and a part. The parts:
       zero-shot      no demonstrations; "calibrated" takes the bias off (its opposite, or the mean)
       gold           the gold labels as demonstrations, in S orders
       random labels  labels drawn at random, D draws
       marginals, bootstrap, icm, ...   labels found by this method of harness/labellers.py, in the
                      same S orders; and, to match, D label sets that are wrong as often as these
                      on true and on false items, at random items
  4. Held-out accuracy, AUC, log-loss: means over orders or draws. Label accuracy: on the N items.
Statistics are over personas, each the mean over its seeds: means with intervals; differences from
gold, from zero-shot, from calibrated, and between found labels and random errors of the same
number, two-sided, paired, p by Holm over a table. Share of the gap: (method − zero-shot) / (gold −
zero-shot), a ratio of means.
Parts come one after another over all personas, so that a command that was broken off has whole
tables of those that are done.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import click
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.draws import orders_of, unit_key, unit_rng
from harness.labellers import LABELLERS, Labeller
from harness.readers import Reader, load_reader
from harness.tables import (
    Comparison,
    Row,
    Unit,
    bars,
    comparison_rows,
    mean_row,
    publish,
    recovered_rows,
    size_of,
)
from harness.units import run_units
from harness.wordings import (
    PERSONAS,
    STATEMENTS,
    Wording,
    data_option,
    draw_items,
    read_statements,
    real_model_option,
    require_folder,
    word,
)

from icmjax.claims import UNLABELLED
from icmjax.persona_world import Task, make_world
from icmjax.steering import auc, calibrate, score_predictions

BASELINES = ("zero-shot", "gold", "random labels")
DEFAULT_PARTS = "zero-shot,gold,marginals,bootstrap,random labels,icm"
METRICS = ("accuracy", "AUC", "log-loss")


class Bench:
    """The claims of one persona and seed, and what reads them."""

    def __init__(
        self,
        reader: Reader,
        data: pathlib.Path | None,
        wording: Wording,
        options: dict[str, Any],
        persona: str,
        seed: int,
    ):
        self.reader, self.options, self.key = reader, options, (persona, seed)
        folder = data / "anthropic_personas"
        self.task, self.held_out = (
            word(draw_items(items, num, unit_rng(persona, seed, split)), wording)
            for split, (items, num) in enumerate(
                (
                    (read_statements(folder / "train" / f"{persona}.jsonl"), options["num_items"]),
                    (read_statements(folder / "test" / f"{persona}.jsonl"), options["num_test"]),
                )
            )
        )
        self.num = len(self.task.claims)
        self.orders = orders_of(self.num, options["num_orders"], unit_rng(persona, seed, 2))
        self.steer = reader.make_steerer(self.task.claims, self.held_out.claims)

    def scores(self, labels: np.ndarray) -> dict[str, float]:
        """Means of the metrics after labels `[N]` or `[S, N]`, in S orders."""
        labels = np.broadcast_to(labels, self.orders.shape)
        return mean_scores(self.steer(labels, self.orders), self.held_out)

    def random_rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this persona and seed."""
        return unit_rng(*self.key, *purpose)


def mean_scores(predictions: np.ndarray, task: Task) -> dict[str, float]:
    """Means of the metrics over predictions `[S, M, 2]`."""
    scores = [score_predictions(logp, task.gold) for logp in predictions]
    return {
        "accuracy": float(np.mean([one.accuracy for one in scores])),
        "AUC": float(np.mean([auc(logp, task.gold) for logp in predictions])),
        "log-loss": float(np.mean([one.log_loss for one in scores])),
    }


def run_zero_shot(bench: Bench) -> dict[str, Any]:
    """No demonstrations, as the model says it and without its bias; of the search claims too."""
    none, found = np.full(bench.num, UNLABELLED, np.int8), {}
    steer_search = bench.reader.make_steerer(bench.task.claims, bench.task.claims)
    for name, calibrate_fn in (("zero-shot", lambda logp, rules: logp), ("calibrated", calibrate)):
        held_out, own = (
            calibrate_fn(steer(none), task.claims.rules)
            for steer, task in ((bench.steer, bench.held_out), (steer_search, bench.task))
        )
        found[name] = mean_scores(held_out[None], bench.held_out) | {
            "label accuracy": score_predictions(own, bench.task.gold).accuracy,
            "share of True": float(own.argmax(-1).mean()),
        }
    return found


def run_gold(bench: Bench) -> dict[str, Any]:
    """Gold labels."""
    return {"gold": bench.scores(bench.task.gold.labels)}


def run_random(bench: Bench) -> dict[str, Any]:
    """Labels that say nothing, half of them true: gold, of half of the items of either label."""
    gold, rules = bench.task.gold.labels, bench.task.claims.rules
    num = len(gold) // (4 if len(rules.pairs) else 2) // (1 if len(rules.pairs) else 2)
    labels = with_errors(bench, num, num, bench.random_rng(3))
    return {"random labels": bench.scores(labels)}


def run_found(bench: Bench, method: str) -> dict[str, Any]:
    """A method's labels, and random errors of as many."""
    gold = bench.task.gold.labels
    unit = Labeller(bench.reader, bench.task.claims, unit_key(*bench.key))
    found = LABELLERS[method](unit)
    num_false = int(((found.labels == 1) & (gold == 0)).sum())
    num_missed = int(((found.labels == 0) & (gold == 1)).sum())
    if len(bench.task.claims.rules.pairs):
        num_false = num_missed = int((found.labels != gold).sum()) // 2
    matched = with_errors(bench, num_missed, num_false, bench.random_rng(4))
    return {
        method: bench.scores(found.labels)
        | {
            "label accuracy": float((found.labels == gold).mean()),
            "share of True": float((found.labels == 1).mean()),
            "tokens": found.num_tokens,
            "labels": found.labels.tolist(),
            "marginals": np.round(found.marginals[:, 1].astype(float), 4).tolist(),
        },
        f"errors as of {method}": bench.scores(matched),
    }


def with_errors(
    bench: Bench, num_missed: int, num_false: int, rng: np.random.Generator
) -> np.ndarray:
    """Gold labels with so many true items called False and false ones True: int8 `[S, N]`.

    Of claims in pairs, so many whole pairs are turned round.
    """
    gold, pairs = bench.task.gold.labels, np.asarray(bench.task.claims.rules.pairs)
    rows = np.repeat(gold[None], len(bench.orders), axis=0)
    for row in rows:
        if len(pairs):
            wrong = pairs[rng.choice(len(pairs), num_missed, replace=False)].ravel()
        else:
            wrong = np.concatenate(
                [
                    rng.choice(np.flatnonzero(gold == label), num, replace=False)
                    for label, num in ((1, num_missed), (0, num_false))
                ]
            )
        row[wrong] = 1 - row[wrong]
    return rows


def merged(units: Sequence[Unit]) -> list[Unit]:
    """One unit a persona and seed, of all its parts."""
    by_key: dict[tuple[str, int], dict[str, Any]] = {}
    for unit in units:
        persona, seed, _ = unit["key"]
        own = by_key.setdefault((persona, seed), {"key": [persona, seed]})
        own |= {name: value for name, value in unit.items() if name != "key"}
    return list(by_key.values())


def value_of(name: str, metric: str) -> Callable[[Unit], float]:
    """A metric of a condition."""
    return lambda unit: unit[name][metric]


def analyse(units: Sequence[Unit]) -> dict[str, list[Row]]:
    """Means by condition, and the comparisons of the protocol."""
    whole = merged(units)
    names = [name for name in whole[0] if name != "key"]
    labelled = [name for name in names if "label accuracy" in whole[0][name]]
    methods = [name for name in names if f"errors as of {name}" in names]
    size, tables = size_of(whole).replace("groups", "personas"), {}
    for metric in ("label accuracy", "share of True"):
        tables[f"{metric}, {size}"] = [mean_row(n, whole, value_of(n, metric)) for n in labelled]
    for metric in METRICS:
        value = functools.partial(value_of, metric=metric)
        tables[f"held-out {metric}, {size}"] = [mean_row(n, whole, value(n)) for n in names]
        for base in [name for name in ("gold", "zero-shot", "calibrated") if name in names]:
            tables[f"held-out {metric} − that of {base}, {size}, p by Holm"] = comparison_rows(
                [Comparison(n, whole, value(n), value(base)) for n in names if n != base]
            )
        tables[f"held-out {metric}, found − random errors of the same number, p by Holm"] = (
            comparison_rows(
                [Comparison(n, whole, value(n), value(f"errors as of {n}")) for n in methods]
            )
        )
        if metric != "log-loss" and {"zero-shot", "gold"} <= set(names):
            tables[f"share of the gap in {metric} from zero-shot to gold"] = recovered_rows(
                whole, {n: value(n) for n in names}, value("zero-shot"), value("gold")
            )
    return tables


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Held-out accuracy and AUC by condition."""
    panels = {
        title: rows
        for title, rows in tables.items()
        if title.startswith(("held-out accuracy, ", "held-out AUC, ")) and "found" not in title
    }
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    axes_of = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (title, rows) in zip(axes_of, panels.items(), strict=True):
        means, reach = bars(rows)
        axes.barh(range(len(rows)), means, xerr=reach, color="#4477aa")
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.axvline(0.5, color="#bbbbbb", linewidth=1)
        axes.set(title=title, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    figure.savefig(path, dpi=120)


@experiment(Published("", 1, "not yet"), is_sized=False)
@real_model_option
@click.option("--dtype", default="float32", show_default=True, help="Of weights and activations.")
@data_option
@click.option("--wording", default="would say", show_default=True, type=click.Choice(STATEMENTS))
@click.option("--personas", default=",".join(PERSONAS), help="By default the protocol's 24.")
@click.option("--parts", default=DEFAULT_PARTS, show_default=True, help="Of the protocol.")
@click.option("--seeds", "num_seeds", default=2, show_default=True, help="Draws a persona.")
@click.option("--num-items", default=32, show_default=True, help="Search items a persona.")
@click.option("--num-test", default=96, show_default=True, help="Held-out items a persona.")
@click.option("--orders", "num_orders", default=2, show_default=True, help="Shuffles, or draws.")
@click.option("--quick", is_flag=True, help="Two personas, one seed, 8 and 16 items.")
def main(
    model: str,
    dtype: str,
    data: pathlib.Path | None,
    out: pathlib.Path,
    cost: Cost,
    wording: str,
    personas: str,
    parts: str,
    num_seeds: int,
    quick: bool,
    **options: Any,
) -> None:
    """The command of this file."""
    known = {"zero-shot": run_zero_shot, "gold": run_gold, "random labels": run_random}
    known |= {
        name: functools.partial(run_found, method=name)
        for name in LABELLERS
        if name not in ("zero-shot", "calibrated", "contrast")
    }
    names, asked = personas.split(","), chosen(parts, list(known), "--parts")
    if quick:
        names, num_seeds = names[:2], 1
        options |= {"num_items": 8, "num_test": 16}
    data = require_folder(data)
    reader = load_reader(model, make_world(), "group", dtype=dtype)
    make_bench = functools.lru_cache(maxsize=1)(
        functools.partial(Bench, reader, data, STATEMENTS[wording], options)
    )

    def run_unit(persona: str, seed: int, part: str) -> dict[str, Any]:
        return known[part](make_bench(persona, seed))

    config = reader.config | options | {"wording": wording, "dtype": dtype}
    keys = [(name, seed, part) for part in asked for seed in range(num_seeds) for name in names]
    tables = analyse(run_units(out, config, keys, run_unit, cost=cost))
    publish(tables, out)
    plot(tables, out / "in_vivo.png")


if __name__ == "__main__":
    main()
