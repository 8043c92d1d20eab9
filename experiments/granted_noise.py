"""How much noise does a reader grant each kind of source, and when would it give up on one?

    python experiments/granted_noise.py
    python experiments/granted_noise.py --phase runs/matched_accuracy_phase
    python experiments/granted_noise.py --quick

The limits of `harness/phase_cells.py` hold for a reader that grants a source the error ε that it
has in the world. What a language model grants is measured here, from what it makes of random errors
alone; no effect of coherent ones goes into it. For every group, seed and kind of source:
  1. A task under a header that names the source and not the group. In gold, the labels of k random
     pairs are turned round: none, and the numbers of the phase diagram; D draws each.
  2. Label log-probs of held-out claims, by the reader and by Bayes observers that grant every
     source the error ε, over a grid of ε.
  3. The divergence KL(reader ‖ observer), mean over claims and draws. The granted ε is where it is
     least: the lowest point of a parabola in ln ε through the grid's best point and its neighbours.
  4. The limits f* and f*(n) at the granted ε.
With `--phase` the cells of a phase diagram are counted by the mean limits as well: how many of
those whose interval excludes zero have the sign of their side. Statistics are over groups, each the
mean over its seeds; comparisons are paired, p by Holm over the table.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import click
import matplotlib.figure
import numpy as np
from harness.command import experiment
from harness.costs import Cost, Published
from harness.draws import matched_flips, unit_rng
from harness.phase_cells import (
    METRICS,
    SOURCES,
    Cell,
    Limits,
    agreement,
    cell_rows,
    limits_at,
    wrong_pairs,
)
from harness.readers import Reader, load_reader, model_option
from harness.sources import Source as ClaimSource
from harness.sources import source_options
from harness.tables import Comparison, Row, Unit, bars, comparison_rows, mean_row, publish, size_of
from harness.units import CONFIG_FILE, UNITS_FILE, read_units, run_units

from icmjax.errors import Fault, RunError
from icmjax.persona_world import Source, World, make_observer_steerer, make_task

ERRORS = np.geomspace(0.004, 0.4, 20)  # of the observers; neighbours differ by a factor of 1.27


def with_errors(world: World, error: float) -> World:
    """The same world, whose observer grants every source this error."""
    config = dataclasses.replace(world.config, source_errors=(error,) * len(Source))
    return dataclasses.replace(world, config=config)


def run_unit(
    reader: Reader, observed: Sequence[World], options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """By source: the divergence from each observer, nats a claim, `[counts][errors]`."""
    counts = np.append(0, wrong_pairs(options["num_claims"]))
    unit = {}
    for source in SOURCES:
        task, held_out = (
            make_task(observed[0], group, seed, split, num, source=source, is_named=False)
            for split, num in (("search", options["num_claims"]), ("test", options["num_test"]))
        )
        rng, pairs = unit_rng(group, seed, int(source)), np.asarray(task.claims.rules.pairs)
        labels = np.stack(
            [matched_flips(rng, task.gold.labels, pairs, k, options["num_draws"]) for k in counts]
        )
        flat = labels.reshape(-1, labels.shape[-1])
        read = np.asarray(reader.make_steerer(task.claims, held_out.claims)(flat), np.float64)
        divergences = []
        for world in observed:
            steerer = make_observer_steerer(world, task.claims, held_out.claims, knows_groups=False)
            divergence = (np.exp(read) * (read - np.asarray(steerer(flat)))).sum(-1).mean(-1)
            divergences.append(divergence.reshape(labels.shape[:2]).mean(1))
        unit[source.name] = np.stack(divergences, axis=1).tolist()
    return unit


def lowest(divergences: np.ndarray) -> float:
    """The granted ε: where the divergence `[errors]` from an observer is least."""
    best = int(np.argmin(divergences))
    if best in (0, len(ERRORS) - 1):
        return float(ERRORS[best])
    before, least, after = divergences[best - 1 : best + 2]
    offset = 0.5 * (before - after) / (before - 2 * least + after)
    step = np.log(ERRORS[1] / ERRORS[0])
    return float(ERRORS[best] * np.exp(offset * step))


def granted(unit: Unit, source: Source, count: int | None = None) -> float:
    """The ε granted to a source, by the sets of one number of wrong pairs or by all of them."""
    divergences = np.asarray(unit[source.name])
    return lowest(divergences.mean(0) if count is None else divergences[count])


def divergence_at(unit: Unit, source: Source, error: float) -> float:
    """The divergence from the observer that grants the ε of the grid nearest to `error`."""
    nearest = int(np.argmin(abs(np.log(ERRORS / error))))
    return float(np.asarray(unit[source.name]).mean(0)[nearest])


def analyse(
    units: list[Unit], world: World, counts: np.ndarray, num_pairs: int
) -> dict[str, list[Row]]:
    """The tables: what is granted, how well that describes the reader, and what is compared."""
    errors = {source: world.config.source_errors[source] for source in SOURCES}
    size, rows = size_of(units), []
    is_end = [
        granted(unit, source, position) in (ERRORS[0], ERRORS[-1])
        for unit in units
        for source in SOURCES
        for position in range(len(counts))
    ]
    for source, error in errors.items():
        name = f"{source.name.lower()}, ε = {error:g}"
        rows.append(mean_row(name, units, lambda unit, s=source: granted(unit, s)))
        for position, count in enumerate(counts):
            title = f"{name}: f = {count / num_pairs:.4f} alone"
            rows.append(
                mean_row(title, units, lambda unit, s=source, c=position: granted(unit, s, c))
            )
    fits = [
        mean_row(
            f"{source.name.lower()}, from an observer that grants {what}",
            units,
            lambda unit, s=source, e=error: divergence_at(unit, s, e or granted(unit, s)),
        )
        for source in SOURCES
        for what, error in (("that ε", 0.0), ("the world's", errors[source]))
    ]
    compared = [
        Comparison(
            f"{second.name.lower()} − {first.name.lower()}",
            units,
            lambda unit, s=second: granted(unit, s),
            lambda unit, s=first: granted(unit, s),
        )
        for first, second in ((SOURCES[0], SOURCES[1]), (SOURCES[1], SOURCES[2]))
    ]
    compared += [
        Comparison(
            f"{source.name.lower()} − its ε in the world",
            units,
            lambda unit, s=source: granted(unit, s),
            lambda unit, e=error: e,
        )
        for source, error in errors.items()
    ]
    return {
        f"granted ε, {size}; {sum(is_end)} of {len(is_end)} lie at an end of the grid": rows,
        f"KL(reader ‖ observer), nats a claim, {size}": fits,
        f"granted ε compared, {size}, p by Holm": comparison_rows(compared),
    }


def limit_rows(units: list[Unit], world: World, num_pairs: int) -> list[Row]:
    """f* and f*(n) of each kind of source, at the ε that every group's labels were granted."""
    return [
        mean_row(
            f"{source.name.lower()}: {name}",
            units,
            lambda unit, s=source, p=position: limits_at(granted(unit, s), world, num_pairs)[p],
        )
        for source in SOURCES
        for position, name in enumerate(("f*", f"f*({num_pairs})"))
    ]


def read_phase(
    folder: pathlib.Path, reader: Reader, num_claims: int, keys: Sequence[tuple[str, int]]
) -> list[Unit]:
    """The units of a reader's phase diagram, of these groups and seeds and in their order.

    Raises:
      RunError: the folder holds no phase diagram of this reader, under a header that names no
        group, with so many claims and with all of these units.
    """
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text()) if path.exists() else {}
    wanted = reader.config | {
        "part": "phase",
        "num_claims": num_claims,
        "header": "source",
        "metrics": list(METRICS),
    }
    found = {name: config.get(name) for name in wanted}
    units = {tuple(unit["key"]): unit for unit in read_units(folder / UNITS_FILE)}
    num_missing = sum(key not in units for key in keys)
    if found != wanted or num_missing:
        rule = "Cells are those of a phase diagram of the same reader, claims, groups and seeds."
        remedy = "name the folder of such a run, or ask for the groups and seeds that it has"
        raise RunError(Fault(rule, f"{found}, {num_missing} units missing", str(folder), remedy))
    return [units[key] for key in keys]


def count_cells(
    units: list[Unit], reader: Reader, world: World, limits: dict[Source, Limits], num_pairs: int
) -> list[str]:
    """How many cells of a reader's phase diagram agree with these limits, by metric."""
    cells = [
        Cell(reader.name, source, int(wrong), num_pairs)
        for source in SOURCES
        for wrong in wrong_pairs(2 * num_pairs)
    ]
    return [
        f"{metric}: {agreement(cells, cell_rows(cells, units, world, metric), limits)}"
        for metric in ("accuracy", "sampled_accuracy")
    ]


def plot(units: list[Unit], world: World, shares: np.ndarray, path: pathlib.Path) -> None:
    """The granted ε by share of wrong pairs, a line a source; dotted, its ε in the world."""
    figure = matplotlib.figure.Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for source in SOURCES:
        rows = [
            mean_row("", units, lambda unit, s=source, c=position: granted(unit, s, c))
            for position in range(len(shares))
        ]
        line = axes.errorbar(shares, *bars(rows), marker="o", capsize=3, label=source.name.lower())
        axes.axhline(world.config.source_errors[source], color=line[0].get_color(), linestyle=":")
    axes.set_yscale("log")
    axes.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2], ["0.01", "0.02", "0.05", "0.1", "0.2"])
    axes.minorticks_off()
    axes.set(xlabel="share of wrong pairs f", ylabel="granted ε (dotted: the world's)")
    axes.legend()
    figure.savefig(path, dpi=120)


@experiment(Published("", 240 / 90, "4 minutes for 90 units on one CPU core"))
@model_option
@source_options
@click.option("--draws", "num_draws", default=4, show_default=True, help="Label sets a share.")
@click.option(
    "--phase",
    type=click.Path(path_type=pathlib.Path),
    help="A phase diagram of this model, whose cells are counted by the granted limits.",
)
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: ClaimSource,
    quick: bool,
    phase: pathlib.Path | None,
    **options: Any,
) -> None:
    """The command of this file."""
    world = source.require_world("granted noise")
    reader = load_reader(model, world)
    observed = [with_errors(world, float(error)) for error in ERRORS]
    config = reader.config | source.config | {"errors": ERRORS.tolist()} | options
    options |= source.sizes
    num_claims = options["num_claims"]
    counts, num_pairs = np.append(0, wrong_pairs(num_claims)), num_claims // 2
    phase_units = read_phase(phase, reader, num_claims, source.keys) if phase else []
    units = run_units(
        out,
        config,
        source.keys,
        lambda group, seed: run_unit(reader, observed, options, group, seed),
        source.num_together,
        cost,
    )
    tables = analyse(units, world, counts, num_pairs)
    rows, title = limit_rows(units, world, num_pairs), f"limits at the granted ε, {size_of(units)}"
    if phase_units:
        means = iter(row.summary.mean for row in rows)
        limits = {kind: Limits(next(means), next(means)) for kind in SOURCES}
        counted = count_cells(phase_units, reader, world, limits, num_pairs)
        title = "; ".join([title, *counted])
    tables[title] = rows
    plot(units, world, counts / num_pairs, out / "granted_noise.png")
    publish(tables, out)


if __name__ == "__main__":
    main()
