"""Where do labels found without gold go wrong, and do they say so?

    python experiments/stress.py
    python experiments/stress.py --quick
    python experiments/stress.py --methods marginals,bootstrap,tempering

After Wen et al. (arXiv:2506.10139) and "Three Concrete Challenges" (arXiv:2602.20400). A unit is a
group and a seed; every method of harness/labellers.py that is asked for labels these claims:
  imbalance   Claims without opposites of which 10, 25 or 50 % are true; no rule ties them.
  salient     A spurious feature: the header names another group, the frequent one that differs most
              on these claims, while a quarter of the pairs have their own group's labels (clamped).
              Where the two groups differ: the share of labels that agree with gold, not the header.
  unknowable  The header names no group, and the pairs are the items that divide the groups most
              evenly. Nobody can know this group's answers: accuracy must stay at chance, and the
              mean entropy of the marginals near that of a guess, ln 2.
  majority    The asked group beside the most frequent one: label accuracy where the two differ, in
              which a majority may drown it, and where they agree.
Statistics are over groups, each the mean over its seeds; comparisons are between a method and
bootstrapping, two-sided, paired, p by Holm over a part's table. Seeds start at 3: methods were
chosen on seeds 0 to 2.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import click
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.draws import unit_key
from harness.labellers import LABELLERS, NOT_GIVEN, Labeller, entropy
from harness.readers import Reader, leave_option, load_reader, model_option
from harness.robustness_parts import Bench, Run, run_balance, run_salient
from harness.sources import Source, source_options
from harness.tables import Comparison, Row, bars, comparison_rows, mean_row, publish, size_of
from harness.units import run_units

from icmjax.claims import ClaimSet
from icmjax.persona_world import World, text

TRUE_SHARES = (0.10, 0.25, 0.50)
METHODS = "zero-shot,marginals,marginals with bias,bootstrap"
BASE = "bootstrap"


class StressBench(Bench):
    """A bench whose searches are those of one method."""

    def __init__(self, method: str, *arguments: Any):
        super().__init__(*arguments)
        self.method = method

    def search(
        self, claims: ClaimSet, algorithm: Any = None, clamped: np.ndarray | None = None
    ) -> Any:
        """The labels and marginals of the method."""
        del algorithm
        unit = Labeller(self.reader, claims, unit_key(*self.key), clamped)
        return LABELLERS[self.method](unit)


def run_unknowable(bench: StressBench) -> dict[str, Run]:
    """Items that divide the groups most evenly, of a group that nothing names."""
    world, pool = bench.pool("unknowable", is_named=False)
    members = evenly_divided(world, pool.claims, bench.options["num_claims"])
    claims, gold = pool.claims.select(members), pool.gold.labels[members]
    found = bench.search(claims)
    return {
        "unnamed group": {
            "label accuracy": float((found.labels == gold).mean()),
            "share of an even guess's entropy": float(entropy(found.marginals).mean() / np.log(2)),
        }
    }


def evenly_divided(world: World, claims: ClaimSet, num_claims: int) -> np.ndarray:
    """The pairs of claims on which most nearly half of the groups agree: int64 `[num_claims]`."""
    margins = np.stack([world.margins(values) for values in world.group_values])
    share = (margins > 0).mean(axis=0)  # [topics, strengths]
    parts = [text.parse_claim(claim.choice) for claim in claims.claims]
    unevenness = np.array([abs(share[part[0], part[1]] - 0.5) for part in parts if part])
    pairs = np.asarray(claims.rules.pairs)
    order = np.argsort(unevenness[pairs[:, 0]], kind="stable")[: num_claims // 2]
    return np.sort(pairs[order].ravel())


def run_majority(bench: StressBench) -> dict[str, Run]:
    """Accuracy where the asked group and the most frequent one differ, and where they agree."""
    world = bench.source.require_world("majority")
    task, _ = bench.tasks()
    largest = world.tiers["frequent"][0]
    values = world.margins(world.group_values[world.group_index(largest)])
    parts = [text.parse_claim(claim.choice) for claim in task.claims.claims]
    theirs = np.array([(values[part[0], part[1]] > 0) ^ part[2] for part in parts if part])
    gold = task.gold.labels
    is_right = bench.search(task.claims).labels == gold
    differs = theirs.astype(np.int8) != gold
    sides = {"where they differ": differs, "where they agree": ~differs}
    return {
        "asked group": {
            name: float(is_right[side].mean()) for name, side in sides.items() if side.any()
        }
    }


PARTS: dict[str, Callable[[StressBench], dict[str, Run]]] = {
    "imbalance": functools.partial(run_balance, shares=TRUE_SHARES),
    "salient": run_salient,
    "unknowable": run_unknowable,
    "majority": run_majority,
}


def analyse(units: list[dict[str, Any]], methods: list[str]) -> dict[str, list[Row]]:
    """Two tables a part: means of every method, and differences from bootstrapping."""
    tables: dict[str, list[Row]] = {}
    for part in (name for name in units[0] if name != "key"):
        cells = dict.fromkeys(
            (name, metric)
            for unit in units
            for name, run in unit[part][methods[0]].items()
            for metric in run
        )

        def members(cell: tuple[str, str], part: str = part) -> list[Any]:
            # Where two groups agree on all claims, a unit has nothing to say of where they differ.
            return [unit for unit in units if cell[1] in unit[part][methods[0]].get(cell[0], {})]

        tables[f"{part}, {size_of(units)}"] = [
            mean_row(f"{': '.join(cell)}: {method}", members(cell), value_of(part, method, cell))
            for cell in cells
            for method in methods
        ]
        if BASE in methods:
            tables[f"{part}: method − {BASE}, {size_of(units)}, p by Holm"] = comparison_rows(
                [
                    Comparison(
                        f"{': '.join(cell)}: {method}",
                        members(cell),
                        value_of(part, method, cell),
                        value_of(part, BASE, cell),
                    )
                    for cell in cells
                    for method in methods
                    if method != BASE
                ]
            )
    return tables


def value_of(part: str, method: str, cell: tuple[str, str]) -> Callable[[Any], float]:
    """A quantity of a unit."""
    return lambda unit: unit[part][method][cell[0]][cell[1]]


def plot(tables: dict[str, list[Row]], methods: list[str], path: pathlib.Path) -> None:
    """Means with intervals, a panel a part, a line a quantity, a colour a method."""
    shown = {title: rows for title, rows in tables.items() if " − " not in title}
    height = [len(rows) / len(methods) for rows in shown.values()]
    figure = matplotlib.figure.Figure(figsize=(9, 1.5 + 0.3 * sum(height)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(shown), 1, height_ratios=height))
    for axes, (title, rows) in zip(panels, shown.items(), strict=True):
        lines = np.arange(len(rows) // len(methods))
        for index, method in enumerate(methods):
            own = rows[index :: len(methods)]
            means, reach = bars(own)
            offset = 0.6 * (index / len(methods) - 0.4)
            axes.errorbar(
                means, lines + offset, xerr=reach, fmt="o", capsize=1, markersize=3, label=method
            )
        names = [row.name.removesuffix(f": {methods[0]}") for row in rows[:: len(methods)]]
        axes.set_yticks(lines, names, fontsize=7)
        axes.axvline(0.5, color="#bbbbbb", linewidth=1, zorder=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(lines) - 0.5, -0.5), title=title)
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


@experiment(Published("", 2534 / 90, "42 minutes for 90 units beside two to four jobs"))
@model_option
@functools.partial(source_options, first_seed=3)
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--methods", default=METHODS, show_default=True, help="Of harness/labellers.py.")
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: Source,
    quick: bool,
    parts: str,
    methods: str,
    **options: Any,
) -> None:
    """The command of this file."""
    options["parts"] = chosen(parts, list(PARTS), "--parts")
    known = [name for name in LABELLERS if name not in NOT_GIVEN]
    options["methods"] = chosen(methods, known, "--methods")
    if quick:
        options["methods"] = ["marginals", "bootstrap"]
        source = source._replace(keys=[source.keys[0], source.keys[-1]])
    world = source.require_world("stress")
    reader: Reader = load_reader(model, world, options["leave"])
    config = reader.config | source.config | options

    def run_unit(name: str, seed: int) -> dict[str, Any]:
        benches = {
            method: StressBench(method, reader, source, options | source.sizes, (name, seed))
            for method in options["methods"]
        }
        return {
            part: {method: PARTS[part](bench) for method, bench in benches.items()}
            for part in options["parts"]
        }

    units = run_units(out, config, source.keys, run_unit, source.num_together, cost)
    tables = analyse(units, options["methods"])
    publish(tables, out)
    plot(tables, options["methods"], out / "stress.png")


if __name__ == "__main__":
    main()
