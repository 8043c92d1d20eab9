"""The phase diagram of matched accuracy: where coherent errors steer better than random ones.

    python experiments/matched_accuracy.py --part phase --out runs/phase_diagram

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

    python experiments/matched_accuracy.py --part phase --model trusting-observer --out runs/trust

puts an observer who never doubts a source in the model's place: what doubt itself does.

Theory: a reader who believes in sources of error ε, or else in an unreliable one whose labels are
coin flips, gives up on a context of n pairs whose share of random errors exceeds
    f*(n) = (n ln(2 (1 − ε)) + ln(r / u)) / (n ln((1 − ε) / ε)),
r and u being the prior shares of reliable sources and of unreliable ones that keep pairs apart.
Many pairs, or even odds, give f* = ln(2 (1 − ε)) / ln((1 − ε) / ε). At n = 16 and the world's odds
it is still .05 to .10 below f*(n). Above the limit random errors are no longer believed, and
coherent ones alone may be: a positive effect is expected; below it random errors are recognised and
coherent ones mislead: a negative one. This is a conjecture and no theorem: exact observers of the
world with 24 pairs had a negative effect at ε = 0.10 and f of .30 to .35, which is above f* (.27)
and about f*(24) (.33). So the sides are counted by both limits. The criterion is f*; f*(n) stands
beside it; both were fixed before any effect was seen.

Where giving up can be seen: such a reader's doubt mixes its predictions with even odds. The most
probable label stays the same, so that accuracy knows no limit; sampled accuracy falls to one half,
which coherent errors that are believed exceed; log-loss is harmed by coherent errors on both sides,
as they are believed and wrong. Sampled accuracy was added after accuracy had been measured, and
for this reason.
"""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib.figure
import numpy as np
from harness import run_units, unit_key
from readers import Reader
from sources import Source as ClaimSource
from tables import Comparison, Row, Unit, bars, comparison_rows, mean_row, size_of
from together import search

from icmjax.errors import Fault, InputError
from icmjax.persona_world import Source, Style, World, make_task
from icmjax.scoring import mutual_predictability
from icmjax.search import FixedAccuracy
from icmjax.steering import score_predictions

SOURCES = (Source.NATIONAL, Source.WEB, Source.STREET)
ERROR_SHARES = (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375)
# Small βs between, whose chains find the coherent sets that the largest one keeps.
LADDER = (0.0, 0.15, 0.5, 2.0)
METRICS = ("accuracy", "sampled_accuracy", "log_loss", "mutual_predictability")


class Limits(NamedTuple):
    """The share of random errors at which a reader gives up."""

    asymptotic: float  # of many pairs, or even prior odds
    finite: float  # of so many pairs, at the world's prior odds


def critical_share(error: float, num_pairs: float = np.inf, log_odds: float = 0.0) -> float:
    """f*(n), the share of random errors that a reader of sources with this error gives up at.

    Args:
      error: ε of reliable sources.
      num_pairs: n.
      log_odds: ln(r / u), prior log-odds of a reliable source against an unreliable one.
    """
    gain = np.log(2 * (1 - error)) + log_odds / num_pairs
    return float(gain / np.log((1 - error) / error))


def limits_at(error: float, world: World, num_pairs: int) -> Limits:
    """Both limits of a reader that grants a source this error, at the world's prior odds."""
    shares = world.config.style_shares
    log_odds = np.log(shares[Style.SUBSTANTIVE] / shares[Style.UNCONSTRAINED])
    return Limits(critical_share(error), critical_share(error, num_pairs, float(log_odds)))


def limits_of(world: World, num_pairs: int) -> dict[Source, Limits]:
    """Both limits of a reader that grants every kind of source the error that it has."""
    return {s: limits_at(world.config.source_errors[s], world, num_pairs) for s in SOURCES}


def wrong_pairs(num_claims: int) -> np.ndarray:
    """The numbers of wrong pairs, nearest to `ERROR_SHARES`: int64 `[f]`.

    Raises:
      InputError: with so few pairs some of them coincide.
    """
    counts = np.round(np.array(ERROR_SHARES) * (num_claims // 2)).astype(int)
    if len(set(counts.tolist()) - {0}) < len(ERROR_SHARES):
        rule, found = "Every share of wrong pairs is another number of pairs.", f"{counts.tolist()}"
        raise InputError(Fault(rule, found, f"--num-claims {num_claims}", "take 32 claims or more"))
    return counts


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
        rules = task.claims.rules._replace(is_hard=np.ones(len(task.claims.rules.pairs), bool))
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


def check_matched(
    labels: np.ndarray, gold: np.ndarray, pairs: np.ndarray, num_wrong: np.ndarray | int
) -> None:
    """Raises unless all sets `[..., N]` have so many wrong pairs, and one True a pair.

    Raises:
      InputError: the sets are not matched.
    """
    remedy = "report it: the moves of these chains are wrong"
    faults = []
    if not (labels[..., pairs].sum(-1) == 1).all():
        rule, found = "Matched sets have one True a pair.", "a pair that is not consistent"
        faults.append(Fault(rule, found, "matched sets", remedy))
    num_errors = (labels != gold).sum(-1)
    if not (num_errors == 2 * np.asarray(num_wrong)).all():
        rule, found = "Matched sets have one accuracy.", f"{np.unique(num_errors)} wrong labels"
        faults.append(Fault(rule, found, "matched sets", remedy))
    if faults:
        raise InputError(faults)


def run(
    readers: Mapping[str, Reader],
    source: ClaimSource,
    world: World,
    options: dict[str, Any],
    config: dict[str, Any],
    out: pathlib.Path,
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


class Cell(NamedTuple):
    """A reader, a kind of source, and a number of wrong pairs."""

    reader: str
    source: Source
    num_wrong: int
    num_pairs: int

    @property
    def share(self) -> float:
        """f, as it is, whatever share was asked for."""
        return self.num_wrong / self.num_pairs

    def mean(self, unit: Unit, metric: str, beta: float) -> float:
        """A metric's mean over a unit's sets of one β."""
        sets = unit[self.reader][self.source.name]["sets"]
        return float(
            np.mean(
                [
                    one[metric]
                    for one in sets
                    if (one["num_wrong_pairs"], one["beta"]) == (self.num_wrong, beta)
                ]
            )
        )

    def sides(self, limits: Mapping[Source, Limits]) -> tuple[int, ...]:
        """The sign that theory gives the effect, by either limit."""
        return tuple(1 if self.share > limit else -1 for limit in limits[self.source])

    def title(self, world: World) -> str:
        """ε, f and where they lie."""
        sides = self.sides(limits_of(world, self.num_pairs))
        names = [
            f"{'above' if side > 0 else 'below'} {limit}"
            for side, limit in zip(sides, ("f*", f"f*({self.num_pairs})"), strict=True)
        ]
        error = world.config.source_errors[self.source]
        return f"ε = {error:g}, f = {self.share:.4f} ({', '.join(names)})"

    def utility_rows(self, units: Sequence[Unit], world: World) -> list[Row]:
        """The mean U by β, marked where it falls."""
        rows: list[Row] = []
        error = world.config.source_errors[self.source]
        position = sorted({one["num_wrong_pairs"] for one in self._sets(units[0])}).index(
            self.num_wrong
        )
        for column, beta in enumerate(LADDER):
            row = mean_row(
                f"ε = {error:g}, f = {self.share:.4f}, β = {beta:g}",
                units,
                lambda unit, c=column: unit[self.reader][self.source.name]["mean_utility"][
                    position
                ][c],
            )
            is_falling = bool(rows) and row.summary.mean < rows[-1].summary.mean - 1e-6
            rows.append(row._replace(name=row.name + (" (falls: not mixed)" if is_falling else "")))
        return rows

    def _sets(self, unit: Unit) -> list[dict[str, Any]]:
        return unit[self.reader][self.source.name]["sets"]


def cell_rows(cells: Sequence[Cell], units: Sequence[Unit], world: World, metric: str) -> list[Row]:
    """The effect on a metric in every cell; without a p-value where there is one group."""

    def at(cell: Cell, beta: float) -> Any:
        return lambda unit: cell.mean(unit, metric, beta)

    compared = [
        Comparison(cell.title(world), units, at(cell, LADDER[-1]), at(cell, LADDER[0]))
        for cell in cells
    ]
    return _rows(compared)


def reader_rows(
    first: str,
    second: str,
    counts: np.ndarray,
    num_pairs: int,
    units: Sequence[Unit],
    world: World,
    metric: str,
) -> list[Row]:
    """One reader minus another after random sets, in every cell."""
    compared = []
    for source in SOURCES:
        for num_wrong in counts:
            one, other = (Cell(name, source, int(num_wrong), num_pairs) for name in (first, second))
            compared.append(
                Comparison(
                    one.title(world),
                    units,
                    lambda unit, cell=one: cell.mean(unit, metric, LADDER[0]),
                    lambda unit, cell=other: cell.mean(unit, metric, LADDER[0]),
                )
            )
    return _rows(compared)


def _rows(compared: Sequence[Comparison]) -> list[Row]:
    """A row each; without p-values where there is one group."""
    return comparison_rows(compared) or [
        mean_row(one.name, one.units, lambda unit, o=one: o.first(unit) - o.second(unit))
        for one in compared
    ]


def agreement(cells: Sequence[Cell], rows: Sequence[Row], limits: Mapping[Source, Limits]) -> str:
    """How many cells whose interval excludes zero have the sign that theory gives them."""
    signed = [
        (cell.sides(limits), np.sign(row.summary.mean))
        for cell, row in zip(cells, rows, strict=True)
        if row.summary.low > 0 or row.summary.high < 0
    ]
    by_limit = [sum(sides[limit] == sign for sides, sign in signed) for limit in range(2)]
    return (
        f"of {len(signed)} cells whose interval excludes zero {by_limit[0]} agree with f*, "
        f"{by_limit[1]} with f*(n)"
    )


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
