"""Tables of means with intervals, and paired comparisons, over groups.

The unit of all statistics is the group, or the persona: its seeds are drawn from the same people
and agree with one another, so they are averaged before anything is summarised or tested. A row's n
is therefore the number of groups.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click
import numpy as np

from icmjax.statistics import (
    MIN_UNITS,
    NUM_RESAMPLES,
    Summary,
    cluster_means,
    compare_paired,
    holm,
    summarise,
    units_needed,
)

Unit = Mapping[str, Any]
Value = Callable[[Unit], float]


class Row(NamedTuple):
    """One line of a table: a quantity over its groups."""

    name: str
    summary: Summary  # of the groups' means over their seeds
    p_value: float | None = None  # of a paired comparison, two-sided, by Holm over its table
    num_needed: float | None = None  # groups for a power of 0.8 at this effect and spread
    p_alone: float | None = None  # the same, as if the comparison were the only one


class Comparison(NamedTuple):
    """Two quantities of the same units."""

    name: str
    units: Sequence[Unit]
    first: Value
    second: Value


def group_means(units: Sequence[Unit], value_fn: Value) -> np.ndarray:
    """A quantity's mean over each group's seeds: float64 `[groups]`."""
    return cluster_means([value_fn(unit) for unit in units], [unit["key"][0] for unit in units])


def value_of(name: str, metric: str) -> Value:
    """A metric of one of the things that a unit measured."""
    return lambda unit: unit[name][metric]


def mean_row(name: str, units: Sequence[Unit], value_fn: Value) -> Row:
    """The mean over groups."""
    return Row(name, summarise(group_means(units, value_fn)))


def comparison_rows(compared: Sequence[Comparison]) -> list[Row]:
    """Differences first − second, paired over groups; p by Holm over all of them.

    Quantities that are equal in every group stay in, with p = 1. Where there are fewer than two
    groups nothing can be tested, and there is no row.
    """
    found = [
        (one.name, compare_paired(*(group_means(one.units, fn) for fn in (one.first, one.second))))
        for one in compared
        if len({unit["key"][0] for unit in one.units}) > 1
    ]
    if not found:
        return []
    adjusted = holm([comparison.p_value for _, comparison in found])
    return [
        Row(name, difference, p_value, units_needed(difference.mean, difference.spread), p_alone)
        for (name, (difference, p_alone)), p_value in zip(found, adjusted, strict=True)
    ]


def recovered_rows(
    units: Sequence[Unit], values: Mapping[str, Value], zero_shot: Value, gold: Value
) -> list[Row]:
    """Share of the gap from zero-shot to gold that each quantity closes, a ratio of means.

    Its interval is that of resampled groups; none for fewer than `MIN_UNITS`. There are no rows
    where gold is no better than zero-shot, as no gap is there to close.
    """
    base, best = group_means(units, zero_shot), group_means(units, gold)
    if best.mean() <= base.mean():
        return []
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(base), size=(NUM_RESAMPLES, len(base)))
    gaps = (best - base)[drawn].mean(axis=1)
    rows = []
    for name, value in values.items():
        gain = group_means(units, value) - base
        shares = gain[drawn].mean(axis=1) / np.where(gaps > 0, gaps, np.nan)
        low, high = np.nanquantile(shares, (0.025, 0.975))
        if len(base) < MIN_UNITS:
            low = high = float("nan")
        share = float(gain.mean() / (best - base).mean())
        rows.append(Row(name, Summary(len(base), share, float("nan"), float(low), float(high))))
    return rows


def mark_falls(rows: Sequence[Row]) -> list[Row]:
    """The same rows, by rising β; one whose mean is below that of the row before it is marked."""
    means = [row.summary.mean for row in rows]
    return [
        row._replace(name=row.name + " (falls: not mixed)") if mean < last - 1e-6 else row
        for row, mean, last in zip(rows, means, [-np.inf, *means], strict=False)
    ]


def size_of(units: Sequence[Unit]) -> str:
    """How many groups and seeds there are, in words."""
    num_groups = len({unit["key"][0] for unit in units})
    if num_groups and len(units) % num_groups == 0:
        return f"{num_groups} groups × {len(units) // num_groups} seeds"
    return f"{num_groups} groups, {len(units)} seeds of them in all"


def table(rows: Sequence[Row], title: str) -> str:
    """One line a quantity: n groups, mean, spread, 95 % interval and, of a comparison, p.

    The last p is that of the comparison alone, before Holm.
    """
    width = max(len(row.name) for row in rows)
    lines = [
        title,
        f"{'':{width}} {'n':>4} {'mean':>8} {'spread':>7} {'95 % interval':>18} {'p':>8} "
        f"{'needs':>8} {'p alone':>8}",
    ]
    for name, summary, p_value, num_needed, p_alone in rows:
        # One group has no spread, and few have no interval (`icmjax.statistics.summarise`).
        spread = "" if np.isnan(summary.spread) else f"{summary.spread:.3f}"
        interval = "" if np.isnan(summary.low) else f"[{summary.low:.3f}, {summary.high:.3f}]"
        p_text = "" if p_value is None else f"{p_value:.4f}"
        needed = "" if num_needed is None else f"{num_needed:.0f}"
        alone = "" if p_alone is None else f"{p_alone:.4f}"
        lines.append(
            f"{name:{width}} {summary.num:4d} {summary.mean:8.3f} {spread:>7} "
            f"{interval:>18} {p_text:>8} {needed:>8} {alone:>8}".rstrip()
        )
    return "\n".join(lines)


def publish(tables: Mapping[str, Sequence[Row]], out: pathlib.Path) -> None:
    """Prints every table that has rows, and writes them all to the folder's `report.json`."""
    filled = {title: rows for title, rows in tables.items() if rows}
    for title, rows in filled.items():
        click.echo(table(rows, title) + "\n")
    write_json(out / "report.json", {title: as_json(rows) for title, rows in filled.items()})


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a result such that the same result is the same bytes; NaN and infinities are null."""
    path.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of a table, for a JSON file."""
    return [
        {
            "name": row.name,
            "p_value": row.p_value,
            "p_alone": row.p_alone,
            "num_needed": row.num_needed,
        }
        | row.summary._asdict()
        for row in rows
    ]


def bars(rows: Sequence[Row], scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Means `[rows]`, and how far their intervals reach below and above `[2, rows]`; 0 for none."""
    means, low, high = (
        scale * np.array([getattr(row.summary, name) for row in rows])
        for name in ("mean", "low", "high")
    )
    return means, np.maximum(np.nan_to_num(np.array([means - low, high - means])), 0)
