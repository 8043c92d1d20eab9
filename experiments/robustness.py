"""What the labels that a search finds depend on, besides the claims.

    python experiments/robustness.py
    python experiments/robustness.py --quick
    python experiments/robustness.py --model FOLDER --claims CLAIMS --test TEST \\
        --parts order,start --out runs/real

For every group and seed, a search (parallel tempering, hard pair rules) and its labels:
  order      Held-out accuracy in S shuffled orders of the demonstrations: its mean, its standard
             deviation and its range within a unit; of the search's labels and of gold.
  start      Searches that start from gold, from gold turned round (the worst case), and from the
             zero-shot labels, with four replicas and with one alone: U and label accuracy.
  balance    Claims without opposites of which 50, 70 or 90 % are true: label accuracy against that
             of calling all true, balanced accuracy, and the share of True among the labels. No pair
             rule can help here.
  unknown    A hidden attribute that has structure and that the model cannot know: gold, turned
             round in whole topics by a coin each. Half of the items of half of the topics are given
             (clamped); then a search. In the topics that nothing was given of, agreement with the
             hidden labels must stay at chance: more is a leak. In the topics that something was
             given of, the rest can be inferred. Held-out claims (other topics, other coins) after
             all hidden labels: a log-loss above ln 2 is confidence about what nobody can know.
  salient    A spurious feature is planted: the header names another group, the frequent one that
             differs most on these claims, while a quarter of the pairs have their own group's
             labels (clamped). On the other pairs that the two groups differ on: the share of labels
             that agree with gold rather than the header. Baselines: the right header, and none.
             Beside it the share of labels that agree with the wording (a claim is True where it is
             not reversed), against that of gold.
Order and start take claim files too; the other parts know the truth behind the claims.
Statistics are over groups, each the mean over its seeds; comparisons are paired, p by Holm over a
part's table.
"""

import pathlib
from typing import Any, NamedTuple

import click
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.readers import leave_option, load_reader, model_option
from harness.robustness_parts import PARTS, REPLICAS, TRUE_SHARES, Bench
from harness.sources import Source, source_options
from harness.tables import (
    Comparison,
    Row,
    Unit,
    Value,
    bars,
    comparison_rows,
    mean_row,
    publish,
    size_of,
)
from harness.units import run_units

from icmjax.persona_world import make_world


class Pair(NamedTuple):
    """Two cells of a part that are compared; a number in place of the second is a fixed value."""

    run: str
    metric: str
    other: tuple[str, str] | float


COMPARED: dict[str, list[Pair]] = {
    "order": [Pair("search", m, ("gold", m)) for m in ("mean", "standard deviation", "range")],
    "start": [
        Pair(f"{replicas} from {start}", metric, (f"{replicas} from zero-shot", metric))
        for replicas in REPLICAS.values()
        for start in ("gold", "worst case")
        for metric in ("utility", "label accuracy")
    ],
    "balance": [
        Pair(
            f"{share:.0%} true", "label accuracy", (f"{share:.0%} true", "all true would be right")
        )
        for share in TRUE_SHARES
    ]
    + [Pair(f"{share:.0%} true", "balanced accuracy", 0.5) for share in TRUE_SHARES],
    "unknown": [
        Pair("hidden labels", "agreement where nothing is given", 0.5),
        Pair("hidden labels", "agreement where some are given", 0.5),
        Pair("hidden labels", "held-out accuracy", 0.5),
        Pair("hidden labels", "held-out log-loss", float(np.log(2))),
    ],
    "salient": [
        Pair("contradicting header", metric, (base, metric))
        for base in ("right header", "no header")
        for metric in ("agrees with gold", "agrees with gold where the groups differ")
    ]
    + [
        Pair(name, "agrees with the wording", ("gold", "agrees with the wording"))
        for name in ("right header", "no header", "contradicting header")
    ],
}


def analyse(units: list[Unit]) -> dict[str, list[Row]]:
    """Two tables a part: means of all quantities, and comparisons."""
    tables: dict[str, list[Row]] = {}
    for part in (name for name in units[0] if name != "key"):
        cells = dict.fromkeys(
            (name, metric) for unit in units for name, run in unit[part].items() for metric in run
        )
        # Where two groups agree on all claims, a unit has nothing to say of where they differ.
        members = {
            cell: [unit for unit in units if cell[1] in unit[part][cell[0]]] for cell in cells
        }
        tables[f"{part}, {size_of(units)}"] = [
            mean_row(": ".join(cell), members[cell], cell_value(part, cell)) for cell in cells
        ]
        tables[f"{part}: comparisons, {size_of(units)}, p by Holm"] = comparison_rows(
            [
                Comparison(
                    f"{pair.run}: {pair.metric} − {_name(pair)}",
                    members[pair.run, pair.metric],
                    cell_value(part, (pair.run, pair.metric)),
                    cell_value(part, pair.other),
                )
                for pair in COMPARED[part]
                if (pair.run, pair.metric) in members
            ]
        )
    return {title: rows for title, rows in tables.items() if rows}


def cell_value(part: str, cell: tuple[str, str] | float) -> Value:
    """What a unit has in a cell; a number is the same for all."""
    if isinstance(cell, float):
        return lambda unit: cell
    return lambda unit: unit[part][cell[0]][cell[1]]


def _name(pair: Pair) -> str:
    if isinstance(pair.other, float):
        return f"{pair.other:.3f}"
    run, metric = pair.other
    return run if metric == pair.metric else metric


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Means with intervals, a panel a part, of all that is a share."""
    tables = {title: rows for title, rows in tables.items() if ": comparisons" not in title}
    figure = matplotlib.figure.Figure(figsize=(8, 2.2 * len(tables)), layout="constrained")
    for axes, (title, rows) in zip(
        np.atleast_1d(figure.subplots(len(tables), 1)), tables.items(), strict=True
    ):
        shown = [row for row in rows if not row.name.endswith(("utility", "log-loss"))]
        means, reach = bars(shown)
        axes.errorbar(means, range(len(shown)), xerr=reach, fmt="o", capsize=2)
        axes.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=7)
        axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
        axes.set(xlim=(-0.02, 1.02), title=title)
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)


@experiment(Published("", 70, "70 minutes for 60 units on one CPU core beside another job"))
@model_option
@source_options
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--iterations", "num_iterations", default=60, show_default=True)
@click.option(
    "--orders",
    "num_orders",
    default=10,
    show_default=True,
    type=click.IntRange(min=2),
    help="Shuffles, two at least, as their spread is measured.",
)
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: Source,
    quick: bool,
    parts: str,
    **options: Any,
) -> None:
    """The command of this file."""
    options["parts"] = chosen(parts, list(PARTS), "--parts")
    if quick:
        options["num_iterations"] = 12
        source = source._replace(keys=[source.keys[0], source.keys[-1]])
    for part in set(options["parts"]) - {"order", "start"}:
        source.require_world(part)
    reader = load_reader(model, source.world or make_world(), options["leave"])
    config = reader.config | source.config | options

    def run_unit(name: str, seed: int) -> dict[str, Any]:
        bench = Bench(reader, source, options | source.sizes, (name, seed))
        return {part: PARTS[part](bench) for part in options["parts"]}

    units = run_units(out, config, source.keys, run_unit, source.num_together, cost)
    tables = analyse(units)
    publish(tables, out)
    plot(tables, out / "robustness.png")


if __name__ == "__main__":
    main()
