"""The phase diagram of matched accuracy: where coherent errors steer better than random ones.

    python experiments/matched_accuracy.py --part phase

Protocol, for every group and seed, every kind of source that the header names (its error ε), and
every share f of wrong pairs:
  1. Draw a task under a header that names the source and not the group: all that is known of the
     group is in the labels. With `--header group` it names the group too, and the model's own
     knowledge of it stands against the errors.
  2. Ladders of chains that swap one wrong pair for another and exchange labels with the chains of
     the β next to their own; each has the stationary law exp(β U). Coherent sets are the last ones
     of the largest β, random sets those of β = 0. All have exactly the share f of wrong pairs, and
     one True a pair; checked. The mean U of every β, over the second half of the chains, is
     reported, and a cell is marked where it does not rise with β: its chains have not mixed.
  3. The effects: coherent minus random, in mutual predictability and, on held-out claims, accuracy
     (of the most probable label), sampled accuracy (expected, of a label drawn from the reader's
     probabilities: the mean probability of gold) and log-loss.
The language model and the Bayes observer, who knows no group by its name, are measured side by
side, each with its own coherence, and what each makes of the random sets is compared. Over groups,
as in the first part; p by Holm over a reader's cells.

    python experiments/matched_accuracy.py --part phase --model trusting-observer \\
        --out runs/trust

puts an observer who never doubts a source in the model's place: what doubt itself does.

The limits of the theory, and the cells that are compared with them, stand in `phase_cells.py`.
"""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import matplotlib.figure
import numpy as np

from harness.costs import Cost
from harness.draws import unit_key
from harness.phase_cells import (
    LADDER,
    METRICS,
    SOURCES,
    Cell,
    agreement,
    cell_rows,
    limits_of,
    reader_rows,
    wrong_pairs,
)
from harness.readers import Reader
from harness.rules import check_matched, hard_rules
from harness.sources import Source as ClaimSource
from harness.tables import Row, Unit, bars, size_of
from harness.together import search
from harness.units import run_units
from icmjax.persona_world import World, make_task
from icmjax.scoring import mutual_predictability
from icmjax.search import FixedAccuracy
from icmjax.steering import score_predictions


def run_unit(
    readers: Mapping[str, Reader], world: World, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """By reader and source: sets `[f]` of lists by β, and the mean U of every β."""
    unit: dict[str, Any] = {name: {} for name in readers}
    counts, is_named = wrong_pairs(options["num_claims"]), options["header"] == "group"
    ladders = np.tile(LADDER, options["num_repeats"])
    key = unit_key(group, seed)
    for source in SOURCES:
        task, held_out = (
            make_task(world, group, seed, split, num, source=source, is_named=is_named)
            for split, num in (("search", options["num_claims"]), ("test", options["num_test"]))
        )
        rules = hard_rules(task.claims)
        gold, num_wrong = task.gold.labels, np.repeat(counts, len(ladders))
        chains = FixedAccuracy(
            target=gold,
            num_errors=2 * num_wrong,
            inverse_temperatures=tuple(np.tile(ladders, len(counts))),
            num_iterations=options["num_swaps"],
        )
        is_scored = np.tile(np.isin(ladders, (LADDER[0], LADDER[-1])), len(counts))
        for name, reader in readers.items():
            scorer = reader.make_scorer(task.claims)
            source_key = jax.random.fold_in(key, int(source))
            trace = search(scorer, rules, chains, source_key).trace
            check_matched(trace.labels[-1], gold, np.asarray(rules.pairs), num_wrong)
            labels = trace.labels[-1][is_scored]
            coherence = np.asarray(mutual_predictability(scorer(labels), labels))
            predictions = reader.make_steerer(task.claims, held_out.claims)(labels)
            scores = [
                {
                    "num_wrong_pairs": int(wrong),
                    "beta": float(beta),
                    "accuracy": score.accuracy,
                    "sampled_accuracy": sampled_accuracy(logp, held_out.gold.labels),
                    "log_loss": score.log_loss,
                    "mutual_predictability": float(value),
                    "labels": row.tolist(),
                }
                for logp, score, value, row, wrong, beta in zip(
                    predictions,
                    (score_predictions(logp, held_out.gold) for logp in predictions),
                    coherence,
                    labels,
                    num_wrong[is_scored],
                    np.tile(ladders, len(counts))[is_scored],
                    strict=True,
                )
            ]
            settled = trace.utility[options["num_swaps"] // 2 :].mean(0)
            by_beta = settled.reshape(len(counts), options["num_repeats"], len(LADDER)).mean(1)
            unit[name][source.name] = {"sets": scores, "mean_utility": by_beta.tolist()}
        unit.setdefault("pairs", {})[source.name] = np.asarray(rules.pairs).tolist()
        unit.setdefault("gold", {})[source.name] = gold.tolist()
    return unit


def sampled_accuracy(label_log_probs: np.ndarray, labels: np.ndarray) -> float:
    """Expected accuracy of labels drawn from log-probs `[M, Y]`: the mean probability of gold."""
    return float(np.exp(np.take_along_axis(label_log_probs, labels[:, None].astype(int), 1)).mean())


def run(
    readers: Mapping[str, Reader],
    source: ClaimSource,
    world: World,
    options: dict[str, Any],
    config: dict[str, Any],
    out: pathlib.Path,
    cost: Cost,
) -> dict[str, list[Row]]:
    """Runs all units, draws the diagram and returns the tables."""
    options |= source.sizes
    counts, num_pairs = wrong_pairs(options["num_claims"]), options["num_claims"] // 2
    units = run_units(
        out,
        config | {"metrics": list(METRICS)},
        source.keys,
        lambda group, seed: run_unit(readers, world, options, group, seed),
        source.num_together,
        cost,
    )
    tables: dict[str, list[Row]] = {}
    for name in readers:
        cells = [
            Cell(name, source, int(num_wrong), num_pairs)
            for source in SOURCES
            for num_wrong in counts
        ]
        size = size_of(units)
        utilities = [row for cell in cells for row in cell.utility_rows(units, world)]
        num_falling = sum("falls" in row.name for row in utilities)
        for metric in METRICS:
            rows = cell_rows(cells, units, world, metric)
            title = f"{name}: coherent − random, {metric}, {size}"
            if metric in ("accuracy", "sampled_accuracy"):
                title += f"; {agreement(cells, rows, limits_of(world, num_pairs))}"
            tables[title] = rows
        title = f"{name}: mean U by β, {size}; it falls {num_falling} times, where not mixed"
        tables[title] = utilities
    first, *others = readers
    for other in others:
        for metric in ("accuracy", "log_loss"):
            title = f"random errors: {first} − {other}, {metric}, {size}"
            tables[title] = reader_rows(first, other, counts, num_pairs, units, world, metric)
    plot(units, list(readers), world, num_pairs, counts, out / "phase_diagram.png")
    return tables


def plot(
    units: list[Unit],
    readers: Sequence[str],
    world: World,
    num_pairs: int,
    counts: np.ndarray,
    path: pathlib.Path,
) -> None:
    """Effects by share of errors, a line a source; both limits as vertical lines of its colour."""
    metrics, limits = ("accuracy", "sampled_accuracy"), limits_of(world, num_pairs)
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(readers), 6.6), layout="constrained")
    panels = figure.subplots(len(metrics), len(readers), sharex=True, sharey=True, squeeze=False)
    for (row, metric), (column, reader) in itertools.product(
        enumerate(metrics), enumerate(readers)
    ):
        axes = panels[row, column]
        for source in SOURCES:
            cells = [Cell(reader, source, int(wrong), num_pairs) for wrong in counts]
            means, reach = bars(cell_rows(cells, units, world, metric))
            error = world.config.source_errors[source]
            line = axes.errorbar(
                counts / num_pairs, means, reach, marker="o", label=f"ε = {error:g}"
            )
            for limit, style in zip(limits[source], (":", "-."), strict=True):
                axes.axvline(limit, color=line[0].get_color(), linestyle=style)
        axes.axhline(0, color="#bbbbbb", linewidth=1, zorder=0)
        if row == 0:
            axes.set_title(reader)
        if column == 0:
            axes.set_ylabel(f"coherent − random, {metric.replace('_', ' ')}")
    for axes in panels[-1]:
        axes.set_xlabel(f"share of wrong pairs f (dotted: f*, dash-dot: f*({num_pairs}))")
    panels[0, 0].legend()
    figure.savefig(path, dpi=120)
