"""Cells of the phase diagram, and the shares of wrong pairs at which theory has a reader give up.

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

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.tables import Comparison, Row, Unit, comparison_rows, mark_falls, mean_row
from icmjax.errors import Fault, InputError
from icmjax.persona_world import Source, Style, World

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
            rows.append(row)
        return mark_falls(rows)

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
