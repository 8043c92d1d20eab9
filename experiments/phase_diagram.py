"""The phase diagram of matched accuracy: where coherent errors steer better than random ones.

    python experiments/matched_accuracy.py --part phase --out runs/phase_diagram

Protocol, for every group and seed, every kind of source that the header names (its error ε), and
every share f of wrong pairs:
  1. Draw a task under a header that names the source and not the group: all that is known of the
     group is in the labels.
  2. Coherent sets: chains that swap one wrong pair for another with stationary law exp(β U), β > 0.
     Random sets: the same chains with β = 0. All have exactly the share f of wrong pairs, and one
     True a pair; asserted.
  3. The effect: mean held-out accuracy after the coherent sets, minus that after the random ones.
The language model and the Bayes observer, who does not know the groups, are measured side by side,
each with its own coherence.

Theory: a reader who believes in sources of error ε, or else in an unreliable one whose labels are
coin flips, gives up on a context whose share of random errors exceeds
f* = ln(2 (1 − ε)) / ln((1 − ε) / ε). Below f* random errors are recognised as such, and coherent
ones mislead: the effect is negative. Above it coherent ones alone are believed: it is positive.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import matplotlib.figure
import numpy as np
from harness import Row, mean_row, run_units
from readers import Reader

from icmjax.persona_world.config import Source
from icmjax.persona_world.tasks import make_task
from icmjax.persona_world.world import World
from icmjax.search import FixedAccuracy, search

SOURCES = (Source.NATIONAL, Source.WEB, Source.STREET)
ERROR_SHARES = (0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375)
COHERENT_BETA = 2.0


def critical_share(error: float) -> float:
    """f*, the share of random errors that a reader of sources with this error gives up at."""
    return float(np.log(2 * (1 - error)) / np.log((1 - error) / error))


def run_unit(
    readers: Mapping[str, Reader], world: World, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """Effects by reader and source, a list over `ERROR_SHARES` each."""
    unit: dict[str, Any] = {name: {} for name in readers}
    num_repeats = options["num_repeats"]
    for source in SOURCES:
        task, held_out = (
            make_task(world, group, seed, split, num, source=source, is_named=False)
            for split, num in (("search", options["num_claims"]), ("test", options["num_test"]))
        )
        rules = task.claims.rules._replace(is_hard=np.ones(len(task.claims.rules.pairs), bool))
        num_pairs, gold = len(rules.pairs), task.gold.labels
        wrong_pairs = np.round(np.array(ERROR_SHARES) * num_pairs).astype(int)
        betas = np.repeat([COHERENT_BETA, 0.0], num_repeats)
        num_errors = np.repeat(2 * wrong_pairs, len(betas))
        chains = FixedAccuracy(
            target=gold,
            num_errors=num_errors,
            inverse_temperatures=tuple(np.tile(betas, len(wrong_pairs))),
            num_iterations=options["num_swaps"],
        )
        for name, reader in readers.items():
            scorer = reader.make_scorer(task.claims)
            found = search(scorer, rules, chains, jax.random.key(seed), progress=False)
            labels = np.asarray(found.trace.labels[-1])
            assert ((labels != gold).sum(-1) == num_errors).all(), "sets differ in accuracy"
            assert (labels[:, rules.pairs].sum(-1) == 1).all(), "a pair is not consistent"
            predictions = reader.make_steerer(task.claims, held_out.claims)(labels)
            accuracy = (predictions.argmax(-1) == held_out.gold.labels).mean(-1)
            by_beta = accuracy.reshape(len(wrong_pairs), 2, num_repeats).mean(-1)
            unit[name][source.name] = by_beta.tolist()
    return unit


def run(
    readers: Mapping[str, Reader],
    world: World,
    options: dict[str, Any],
    keys: Sequence[Sequence[Any]],
    out: pathlib.Path,
) -> dict[str, list[Row]]:
    """Runs all units, draws the diagram and returns the tables."""
    config = {"part": "phase", "readers": list(readers), **options}
    units = run_units(
        out, config, keys, lambda group, seed: run_unit(readers, world, options, group, seed)
    )
    tables = {}
    for name in readers:
        rows = cells(units, name, world)
        signed = [(row, side) for row, side in rows if row.summary.low > 0 or row.summary.high < 0]
        agree = sum(np.sign(row.summary.mean) == side for row, side in signed)
        title = (
            f"{name}: coherent − random, held-out accuracy; {agree} of {len(signed)} cells whose "
            "interval excludes zero agree with theory"
        )
        tables[title] = [row for row, _ in rows]
    plot(units, list(readers), world, out / "phase_diagram.png")
    return tables


def cells(units: list[dict[str, Any]], reader: str, world: World) -> list[tuple[Row, int]]:
    """The effect in every cell, and the sign that theory gives it."""
    rows = []
    for source in SOURCES:
        error = world.config.source_errors[source]
        limit = critical_share(error)
        values = np.array([unit[reader][source.name] for unit in units])  # [units, f, 2]
        for column, share in enumerate(ERROR_SHARES):
            effect = values[:, column, 0] - values[:, column, 1]
            side = 1 if share > limit else -1
            name = f"ε = {error:g}, f = {share:.4f} ({'above' if side > 0 else 'below'} f*)"
            rows.append((mean_row(name, effect), side))
    return rows


def plot(
    units: list[dict[str, Any]], readers: Sequence[str], world: World, path: pathlib.Path
) -> None:
    """Effect by share of errors, a line a source; f* as a vertical line of the same colour."""
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(readers), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(readers), sharey=True))
    for axes, reader in zip(panels, readers, strict=True):
        rows = [row for row, _ in cells(units, reader, world)]
        for index, source in enumerate(SOURCES):
            of_source = rows[index * len(ERROR_SHARES) : (index + 1) * len(ERROR_SHARES)]
            means = np.array([row.summary.mean for row in of_source])
            low = np.array([row.summary.low for row in of_source])
            high = np.array([row.summary.high for row in of_source])
            error = world.config.source_errors[source]
            spread = np.nan_to_num([means - low, high - means])
            line = axes.errorbar(
                ERROR_SHARES, means, np.maximum(spread, 0), marker="o", label=f"ε = {error:g}"
            )
            axes.axvline(critical_share(error), color=line[0].get_color(), linestyle=":")
        axes.axhline(0, color="#bbbbbb", linewidth=1, zorder=0)
        axes.set(title=reader, xlabel="share of wrong pairs f (dotted: f*)")
    panels[0].set_ylabel("coherent − random, held-out accuracy")
    panels[0].legend()
    figure.savefig(path, dpi=120)
