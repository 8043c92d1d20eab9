"""Matched accuracy as published: what labels that contradict themselves cost.

    python experiments/matched_accuracy.py --flips claims --out runs/broken_pairs

Mahbub, Pei & Feng (arXiv:2606.03110) compare labels of 80 % accuracy: those of their search, which
contradict themselves in hardly any pair, and gold labels of which each is kept with probability .8,
whatever the label of its opposite, so that about 2 · .8 · .2 = .32 of the pairs call both claims
true or both false. Held-out accuracy was 80 and 61. Two things differ there: coherence, and broken
pairs. Here they are told apart.

Protocol, for every group and seed (or persona of a claim file and seed); no search is run:
  1. Draw a task: N search claims in N / 2 opposite pairs, M held-out claims from other topics.
  2. k wrong pairs make the accuracy `--keep`: k is (1 − keep) N / 2, rounded up or down at random
     so that it is right in the mean over units. `--draws` label sets of each of four kinds:
       claims      every gold label kept with probability `--keep`, as published
       scattered   exactly 2 k random claims wrong, so that chance alone breaks pairs
       split       exactly 2 k wrong claims in 2 k pairs: every error breaks a pair
       pairs       exactly k random pairs wholly turned: 2 k wrong claims, no broken pair
  3. Coherent sets of exactly 2 k wrong claims without a broken pair: one ladder of chains, a β of
     BETAS each, `--repeats` times, as in step 4 of the first part. Those of the largest β are
     called coherent. The mean U of each β is marked where it does not rise with β.
  4. Put each set in context and score the held-out claims.
The comparisons, each in accuracy and log-loss, paired over groups, p by Holm over all of them:
coherent − claims, the published one; coherent − pairs and pairs − claims, its two parts; pairs −
scattered and pairs − split, where the number of wrong labels is the same in every draw.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import matplotlib.figure
import numpy as np

from harness.costs import Cost
from harness.draws import (
    kept_labels,
    matched_flips,
    rounded_at_random,
    scattered_flips,
    split_flips,
    unit_key,
    unit_rng,
)
from harness.readers import Reader
from harness.rules import check_matched, check_pairs, hard_rules, share_broken
from harness.sources import Source
from harness.tables import (
    Comparison,
    Row,
    Unit,
    bars,
    comparison_rows,
    mark_falls,
    mean_row,
    size_of,
)
from harness.together import search
from harness.units import run_units
from icmjax.claims import GoldLabels
from icmjax.errors import Fault, InputError
from icmjax.persona_world import Task
from icmjax.scoring import mutual_predictability
from icmjax.search import FixedAccuracy, Scorer
from icmjax.steering import score_predictions

BETAS = (0.0, 0.1, 0.2, 0.5, 2.0)
RANDOM = ("claims", "scattered", "split", "pairs")
METRICS = ("accuracy", "log_loss")
COMPARED = (
    ("coherent", "claims"),
    ("coherent", "pairs"),
    ("pairs", "claims"),
    ("pairs", "scattered"),
    ("pairs", "split"),
)


def run(
    reader: Reader,
    source: Source,
    options: dict[str, Any],
    config: dict[str, Any],
    out: pathlib.Path,
    cost: Cost,
) -> dict[str, list[Row]]:
    """Runs the units, plots them and returns the tables."""
    units = run_units(
        out,
        config,
        source.keys,
        lambda name, seed: run_unit(reader, source, options, name, seed),
        source.num_together,
        cost,
    )
    plot(units, out / "broken_pairs.png")
    return analyse(units, options["keep"])


def run_unit(
    reader: Reader, source: Source, options: dict[str, Any], name: str, seed: int
) -> dict[str, Any]:
    """One (group, seed): gold labels and sets of every kind and β, on held-out claims."""
    task, held_out = source.draw(name, seed)
    check_pairs(task, name)
    scorer = reader.make_scorer(task.claims)
    pairs, rng = np.asarray(task.claims.rules.pairs), unit_rng(name, seed)
    num_wrong = wrong_pairs(rng, len(pairs), options["keep"])
    sets = {"gold": task.gold.labels[None]}
    sets |= random_sets(rng, task, num_wrong, options)
    coherent, utilities = coherent_sets(scorer, task, num_wrong, options, unit_key(name, seed))
    sets |= coherent
    labels = np.concatenate(list(sets.values())).astype(np.int8)
    coherence = np.asarray(mutual_predictability(scorer(labels), labels))
    predictions = reader.make_steerer(task.claims, held_out.claims)(labels)
    scores = iter(
        describe(logp, held_out.gold, row, task.gold, pairs)
        | {"mutual_predictability": float(value)}
        for logp, value, row in zip(predictions, coherence, labels, strict=True)
    )
    return {
        "num_wrong_pairs": num_wrong,
        "pairs": pairs.tolist(),
        "mean_utility": utilities,
        "sets": {kind: [next(scores) for _ in rows] for kind, rows in sets.items()},
    }


def wrong_pairs(rng: np.random.Generator, num_pairs: int, keep: float) -> int:
    """How many wrong pairs make an accuracy, in the mean over draws.

    Raises:
      InputError: twice as many pairs are not there to be broken.
    """
    num_wrong = rounded_at_random(rng, (1 - keep) * num_pairs)
    if 2 * num_wrong > num_pairs:
        rule = "There are two pairs to break for each that is turned."
        found, remedy = f"{num_wrong} wrong ones of {num_pairs} pairs", "keep more labels"
        raise InputError(Fault(rule, found, "--keep", remedy))
    return num_wrong


def random_sets(
    rng: np.random.Generator, task: Task, num_wrong: int, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Label sets of the random kinds, int8 `[draws, N]` each."""
    gold, pairs, num = task.gold.labels, np.asarray(task.claims.rules.pairs), options["num_draws"]
    return {
        "claims": kept_labels(rng, gold, options["keep"], num),
        "scattered": scattered_flips(rng, gold, 2 * num_wrong, num),
        "split": split_flips(rng, gold, pairs, 2 * num_wrong, num),
        "pairs": matched_flips(rng, gold, pairs, num_wrong, num),
    }


def coherent_sets(
    scorer: Scorer, task: Task, num_wrong: int, options: dict[str, Any], rng_key: jax.Array
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """By β: label sets, int8 `[repeats, N]`, and the mean U of the chains' second half."""
    gold, rules = task.gold.labels, hard_rules(task.claims)
    if not num_wrong:
        return {named(beta): gold[None] for beta in BETAS}, {}
    betas = np.tile(BETAS, options["num_repeats"])
    chains = FixedAccuracy(
        target=gold,
        num_errors=2 * num_wrong,
        inverse_temperatures=tuple(betas),
        num_iterations=options["num_swaps"],
    )
    trace = search(scorer, rules, chains, rng_key).trace
    check_matched(trace.labels[-1], gold, np.asarray(rules.pairs), num_wrong)
    utilities = trace.utility[options["num_swaps"] // 2 :].mean(0)
    return (
        {named(beta): trace.labels[-1][betas == beta] for beta in BETAS},
        {named(beta): float(utilities[betas == beta].mean()) for beta in BETAS},
    )


def named(beta: float) -> str:
    """What the sets of a β are called."""
    return "coherent" if beta == BETAS[-1] else f"β = {beta:g}"


def describe(
    label_log_probs: np.ndarray,
    held_out: GoldLabels,
    labels: np.ndarray,
    gold: GoldLabels,
    pairs: np.ndarray,
) -> dict[str, Any]:
    """Held-out scores of one label set, how many of its labels are right, and of its pairs broken.

    Args:
      label_log_probs: of the held-out claims, `[M, 2]`, nats.
      labels: int8 `[N]`.
      pairs: int `[N / 2, 2]`.
    """
    return score_predictions(label_log_probs, held_out)._asdict() | {
        "label_accuracy": float((labels == gold.labels).mean()),
        "share_broken": float(share_broken(labels, pairs)),
        "labels": labels.tolist(),
    }


def mean_of(kind: str, metric: str) -> Callable[[Unit], float]:
    """The mean of a metric over a unit's sets of one kind."""
    return lambda unit: float(np.mean([one[metric] for one in unit["sets"][kind]]))


def analyse(units: list[Unit], keep: float) -> dict[str, list[Row]]:
    """What each kind of label set is, what it does to held-out claims, and the differences."""
    size, kinds = size_of(units), ("gold", *RANDOM, *map(named, BETAS))
    tables = {
        f"label sets: {metric}, {size}; each label kept with probability {keep:g}": [
            mean_row(kind, units, mean_of(kind, metric)) for kind in kinds
        ]
        for metric in ("label_accuracy", "share_broken", "mutual_predictability")
    }
    for metric in METRICS:
        tables[f"held-out {metric}, {size}"] = [
            mean_row(kind, units, mean_of(kind, metric)) for kind in kinds
        ]
    mixed = [unit for unit in units if unit["num_wrong_pairs"]]
    if mixed:
        tables[f"mean U by β, {size_of(mixed)} with a wrong label"] = mark_falls(
            [
                mean_row(name, mixed, lambda unit, n=name: unit["mean_utility"][n])
                for name in map(named, BETAS)
            ]
        )
    tables[f"differences, {size}, p by Holm"] = comparison_rows(
        [
            Comparison(
                f"{first} − {second}, {metric}",
                units,
                mean_of(first, metric),
                mean_of(second, metric),
            )
            for metric in METRICS
            for first, second in COMPARED
        ]
    )
    return tables


def plot(units: list[Unit], path: pathlib.Path) -> None:
    """Held-out accuracy of every kind, from all pairs broken to none, and most coherent."""
    kinds = ("gold", "split", "scattered", "claims", "pairs", *map(named, BETAS))
    rows = [mean_row(kind, units, mean_of(kind, "accuracy")) for kind in kinds]
    figure = matplotlib.figure.Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(range(len(rows)), *bars(rows), marker="o", capsize=3, linestyle="none")
    axes.set_xticks(range(len(rows)), kinds, rotation=30, ha="right")
    axes.set(ylabel="held-out accuracy", title="label sets of one accuracy")
    figure.savefig(path, dpi=120)
