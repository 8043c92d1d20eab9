"""The tables of the search benchmark."""

import statistics
from typing import Any

import click
import numpy as np

ICM_TOKENS = ("as run", "a pass each", "a prompt each")
CRITERION = "a pass each"
PRICES = ("tree", "whole", "cached")
REFERENCE_RATIOS = {  # over what its tokens come
    "tempering's": "tempering_tokens",
    "one pass": "one_pass",
    "all of tempering": "all_tempering_tokens",
}
LEAST_RATIO, LEAST_SHARE = 50, 0.95


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
        cells = [[row[name][column] for row in rows] for column in columns]
        table.append([name, *(f"{np.mean(x):.3f} ± {_spread(x):.3f}" for x in cells)])
    show(table)


def show_few_passes(rows: list[dict[str, Any]]) -> None:
    """The second table."""
    found = [row["few_passes"] for row in rows]
    table: list[list[Any]] = [["icm's / tempering's", "median", "lowest", "share ≥ 50", "passed"]]
    for name in (name for name in ICM_TOKENS if name in found[0]):
        ratios = np.array([row[name] for row in found])
        table.append(
            [
                f"{name}{' (criterion)' if name == CRITERION else ''}",
                f"{np.median(ratios):.1f}",
                f"{ratios.min():.1f}",
                f"{(ratios >= LEAST_RATIO).mean():.2f}",
                verdict(float(np.median(ratios)) >= LEAST_RATIO),
            ]
        )
    show(table)
    share = float(np.mean([row["is_as_high"] for row in found]))
    click.echo(
        f"tempering ends as high as icm or higher: {share:.3f} of {len(found)} tasks: "
        f"{verdict(share >= LEAST_SHARE)}\n"
    )


def show_small_tasks(names: list[str], rows: list[dict[str, Any]]) -> None:
    """The third table."""
    num_restarts = len(rows[0][names[0]]["utilities"])
    counts = {name: [row[name]["num_optimal"] for row in rows] for name in names}
    table = [
        [name, f"{np.mean(found) / num_restarts:.3f}", f"{min(found)} of {num_restarts}"]
        for name, found in counts.items()
    ]
    show([[f"optimum of {len(rows)} tasks", "share reached", "fewest in a task"], *table])
    if "tempering" in counts:
        passed = verdict(min(counts["tempering"]) == num_restarts)
        click.echo(f"tempering reaches the optimum of every small task: {passed}\n")


def show_reference_cost(rows: list[dict[str, Any]]) -> None:
    """Medians and ranges over tasks."""
    table: list[list[Any]] = [["the published search", "median", "lowest", "highest"]]

    def add(name: str, values: list[float], digits: int) -> None:
        cells = (float(np.median(values)), min(values), max(values))
        table.append([name, *(f"{cell:,.{digits}f}" for cell in cells)])

    add("prompts", [row["prompts"] for row in rows], 0)
    add("times all are scored", [row["scorings"] for row in rows], 0)
    for price in PRICES:
        for name, field in REFERENCE_RATIOS.items():
            add(f"{price} / {name}", [ratio(row["tokens"][price], row[field]) for row in rows], 2)
    show(table)
    num_reached = sum(row["tempering_tokens"] is not None for row in rows)
    click.echo(f"tempering comes as high on {num_reached} of {len(rows)} tasks\n")


def ratio(tokens: int, tempering_tokens: int | None) -> float:
    """Of tokens; 0 where tempering never got there."""
    return tokens / tempering_tokens if tempering_tokens else 0.0


def verdict(is_passed: bool) -> str:
    """In a word."""
    return "pass" if is_passed else "FAIL"


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")
