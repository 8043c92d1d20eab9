"""Do labels found without gold steer a real language model towards real personas?

    python experiments/in_vivo.py --data FOLDER
    python experiments/in_vivo.py --data FOLDER --quick
    python experiments/in_vivo.py --model models/smollm2-135m-instruct --data FOLDER \\
        --wording "would say" --personas 8 --seeds 1 --out runs/in_vivo_smollm2

FOLDER holds public data of which `experiments/README.md` tells the layout: statements that a
persona would make or not, written by a model (Perez et al., arXiv:2212.09251). Protocol, fixed
before the first run, but for two things that are named:
  1. 24 of the 34 personas, drawn once; the others are never looked at here. Two seeds of each.
  2. N = 32 search items of the train file, M = 96 held-out ones of the test file, half of either
     label, in the wording that `wording.py` chose for the model. It chose by train items: for five
     personas that are here too, by the search items of seed 0.
  3. A unit is a persona, a seed and a part. The parts:
       zero-shot      no demonstrations; "calibrated" takes the bias off (its opposite, or the mean)
       gold           the gold labels as demonstrations, in S orders
       random labels  gold, with half of the items of either label turned round, D draws
       marginals, bootstrap, icm, ...   labels found by this method of harness/labellers.py, in the
                      same S orders; and, to match, D label sets that are wrong as often as these
                      on true and on false items, at random items
       dose           one label in four wrong: by chains that make errors coherent or incoherent,
                      and at random (`matched_accuracy.py`)
       feedback marginals, feedback bootstrapping
                      labels that the search finds (bootstrapping without bias) after the gold
                      labels of 2, 4 and 8 items: those of the highest zero-shot entropy, of the
                      highest one without bias, and random ones
       open           one more statement, in the model's own words, after those that a label set
                      calls True: greedy and sampled; judged by log P(True) of the same model after
                      gold labels of held-out items
  4. Held-out accuracy, the same without the bias towards one label ("calibrated accuracy": against
     a claim's opposite, or the mean of all, half of which are true), AUC, log-loss: means over
     orders or draws. Label accuracy: on the N items. "Calibrated accuracy" was added when zero-shot
     and two units of gold had been seen: their AUC was near 1 where accuracy was .7. The part open
     came then too.
Statistics are over personas, each the mean over its seeds: means with intervals; differences from
gold, from zero-shot, from calibrated, from random labels, from marginals, no two compared twice;
between found labels and random errors of the same number; between coherent errors and others;
between selectors and random answers; two-sided, paired, p by Holm over a table, and alone. Share of
the gap: (method − zero-shot) / (gold − zero-shot), a ratio of means. One family says whether the
search helps: labels right less calibrated ones, and four metrics less those of random labels. It
was made one when both seeds had been seen. Until then families held every two twice, the matched
errors and rows that are equal by construction, and one of these p stood as .051 and as .068.
Parts come one after another over all personas, and the second seed after the first. A command that
was broken off prints, with --parts and --seeds, the tables of what is done.
"""

import functools
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import click
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost
from harness.in_vivo_parts import (
    BUDGETS,
    FEEDBACK_SEARCHES,
    SELECTORS,
    Bench,
    constants,
    run_dose,
    run_feedback,
    run_found,
    run_gold,
    run_open,
    run_random,
    run_zero_shot,
)
from harness.labellers import LABELLERS
from harness.readers import load_reader
from harness.tables import (
    Comparison,
    Row,
    Unit,
    bars,
    comparison_rows,
    mean_row,
    publish,
    recovered_rows,
    size_of,
    value_of,
)
from harness.units import run_units
from harness.wordings import (
    STATEMENTS,
    check_statements,
    data_option,
    fingerprint_of,
    personas_option,
    real_model_option,
    require_folder,
    require_model,
    require_personas,
)

from icmjax.persona_world import make_world

DEFAULT_PARTS = "zero-shot,gold,marginals,bootstrap,random labels,icm"
BASES = ("gold", "zero-shot", "calibrated", "random labels", "marginals")  # of differences
METRICS = ("accuracy", "calibrated accuracy", "AUC", "log-loss")
SECONDS = {  # of a unit with Gemma 3 270M on two cores: experiments/pages/real_*.md
    "zero-shot": 22,
    "gold": 26,
    "random labels": 11,
    "marginals": 70,
    "bootstrap without bias": 75,
    "open": 270,
    "dose": 370,
    "feedback marginals": 420,
    "icm": 570,
}


def merged(units: Sequence[Unit]) -> list[Unit]:
    """One unit a persona and seed, of all its parts."""
    by_key: dict[tuple[str, int], dict[str, Any]] = {}
    for unit in units:
        persona, seed, _ = unit["key"]
        own = by_key.setdefault((persona, seed), {"key": [persona, seed]})
        own |= {name: value for name, value in unit.items() if name != "key"}
    return list(by_key.values())


def analyse(units: Sequence[Unit]) -> dict[str, list[Row]]:
    """Means by condition, and the comparisons of the protocol."""
    whole = merged(units)
    everything = [name for name in whole[0] if name != "key"]
    names = [name for name in everything if not name.startswith(("feedback", "open"))]
    labelled = [name for name in names if "label accuracy" in whole[0][name]]
    methods = [name for name in names if f"errors as of {name}" in names]
    size, tables = size_of(whole).replace("groups", "personas"), {}
    for metric in ("label accuracy", "share of True"):
        value = functools.partial(value_of, metric=metric)
        tables[f"{metric}, {size}"] = [mean_row(n, whole, value(n)) for n in labelled]
    tables |= differences("label accuracy", "label accuracy", labelled, whole, size)
    if {"marginals", "calibrated", "random labels"} <= set(names):
        tables[f"does the search help? {size}, p by Holm"] = comparison_rows(helps(whole))
    compared = [name for name in names if name in (*BASES, *methods)]
    for metric in METRICS:
        value = functools.partial(value_of, metric=metric)
        tables[f"held-out {metric}, {size}"] = [mean_row(n, whole, value(n)) for n in names]
        is_same = metric in ("AUC", "calibrated accuracy")  # with the bias and without
        unlike = [name for name in compared if not (is_same and name == "calibrated")]
        tables |= differences(f"held-out {metric}", metric, unlike, whole, size)
        tables[f"held-out {metric}, found − random errors of the same number, p by Holm"] = (
            comparison_rows(
                [Comparison(n, whole, value(n), value(f"errors as of {n}")) for n in methods]
            )
        )
        doses = [name for name in ("incoherent errors", "random errors") if name in names]
        tables[f"held-out {metric}, coherent errors − others, p by Holm"] = comparison_rows(
            [Comparison(n, whole, value("coherent errors"), value(n)) for n in doses]
        )
        if metric != "log-loss" and {"zero-shot", "gold"} <= set(names):
            tables[f"share of the gap in {metric} from zero-shot to gold"] = recovered_rows(
                whole, {n: value(n) for n in names}, value("zero-shot"), value("gold")
            )
    tables |= feedback_tables(whole, size)
    for kind in ("greedy", "sampled"):
        # Where the model said nothing there is nothing to judge.
        told = {
            name: [unit for unit in whole if unit[name][kind] is not None]
            for name in everything
            if name.startswith("open")
        }
        tables[f"open answers, {kind}: log P(True) by the judge, nats"] = [
            mean_row(name, units, value_of(name, kind)) for name, units in told.items() if units
        ]
    if "coherent errors" in names:
        value = functools.partial(value_of, metric="mutual predictability")
        dosed = ("incoherent errors", "random errors", "coherent errors")
        tables["mutual predictability"] = [mean_row(n, whole, value(n)) for n in dosed]
    return tables


def helps(units: Sequence[Unit]) -> list[Comparison]:
    """What the default's labels have over those that cost nothing: one family of five."""
    more_right = [value_of(name, "label accuracy") for name in ("marginals", "calibrated")]
    return [Comparison("labels right, less calibrated", units, *more_right)] + [
        Comparison(
            f"held-out {metric}, less random labels",
            units,
            value_of("marginals", metric),
            value_of("random labels", metric),
        )
        for metric in METRICS
    ]


def differences(
    title: str, metric: str, names: Sequence[str], units: Sequence[Unit], size: str
) -> dict[str, list[Row]]:
    """A table a base, a family of its own: what differs from it. No two are compared twice."""
    value, left, tables = functools.partial(value_of, metric=metric), list(names), {}
    for base in BASES:
        if base in left:
            left.remove(base)
            rows = [Comparison(name, units, value(name), value(base)) for name in left]
            tables[f"{title} − that of {base}, {size}, p by Holm"] = comparison_rows(rows)
    return tables


def feedback_tables(units: Sequence[Unit], size: str) -> dict[str, list[Row]]:
    """After K answers: means of every selector, and differences from random answers."""
    tables = {}
    searches = [name for name in FEEDBACK_SEARCHES if f"feedback, {name}: K = 0" in units[0]]
    for search, metric in itertools.product(searches, ("accuracy of the rest", *METRICS)):
        value = functools.partial(value_of, metric=metric)
        start = f"feedback, {search}: K = "
        cells = {(k, name): f"{start}{k}, {name}" for k in BUDGETS for name in SELECTORS}
        tables[f"feedback, {search}: {metric}, {size}"] = [
            mean_row(name, units, value(name)) for name in (f"{start}0", *cells.values())
        ]
        tables[f"feedback, {search}: {metric} − that of random answers, {size}, p by Holm"] = (
            comparison_rows(
                [
                    Comparison(name, units, value(name), value(cells[k, "random"]))
                    for (k, selector), name in cells.items()
                    if selector != "random"
                ]
            )
        )
    return tables


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Held-out accuracy and AUC by condition."""
    panels = {
        title: rows
        for title, rows in tables.items()
        if rows
        and title.startswith(("held-out accuracy, ", "held-out AUC, "))
        and " − " not in title
    }
    if not panels:
        return  # feedback and open answers have tables alone
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    axes_of = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (title, rows) in zip(axes_of, panels.items(), strict=True):
        means, reach = bars(rows)
        axes.barh(range(len(rows)), means, xerr=reach, color="#4477aa")
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.axvline(0.5, color="#bbbbbb", linewidth=1)
        axes.set(title=title, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    figure.savefig(path, dpi=120)


@experiment(kinds=SECONDS, is_sized=False)
@real_model_option
@click.option("--dtype", default="float32", show_default=True, help="Of weights and activations.")
@data_option
@click.option("--wording", default="preamble", show_default=True, type=click.Choice(STATEMENTS))
@personas_option
@click.option("--parts", default=DEFAULT_PARTS, show_default=True, help="Of the protocol.")
@click.option("--seeds", "num_seeds", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--num-items", default=32, show_default=True, type=click.IntRange(min=4))
@click.option("--num-test", default=96, show_default=True, type=click.IntRange(min=4))
@click.option("--orders", "num_orders", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--quick", is_flag=True, help="Two personas, one seed, 12 and 16 items.")
def main(
    model: str,
    dtype: str,
    data: pathlib.Path | None,
    out: pathlib.Path,
    cost: Cost,
    wording: str,
    personas: list[str],
    parts: str,
    num_seeds: int,
    quick: bool,
    **options: Any,
) -> None:
    """The command of this file."""
    known = {
        "zero-shot": run_zero_shot,
        "gold": run_gold,
        "random labels": run_random,
        "dose": run_dose,
        "open": run_open,
    }
    known |= {
        name: functools.partial(run_found, method=name)
        for name in LABELLERS
        if name not in ("zero-shot", "calibrated", "contrast")
    }
    known |= {
        f"feedback {name}": functools.partial(run_feedback, name=name) for name in FEEDBACK_SEARCHES
    }
    asked = chosen(parts, list(known), "--parts")
    if quick:
        personas, num_seeds = personas[:2], 1
        options |= {"num_items": 12, "num_test": 16}
    data = require_folder(data, "anthropic_personas/train", "anthropic_personas/test")
    require_personas(data, personas)
    for name in personas:  # before the first unit, which may be hours before the last
        check_statements(data, name, options["num_items"], options["num_test"])
    reader = load_reader(require_model(model), make_world(), "group", dtype=dtype)

    def run_unit(persona: str, seed: int, part: str) -> dict[str, Any]:
        return known[part](Bench(reader, data, STATEMENTS[wording], options, persona, seed))

    config = reader.config | options | {"wording": wording, "dtype": dtype}
    config |= constants(STATEMENTS[wording])
    config |= {"data": fingerprint_of(data / "anthropic_personas")}
    keys = [(name, seed, part) for seed in range(num_seeds) for part in asked for name in personas]
    tables = analyse(run_units(out, config, keys, run_unit, cost=cost))
    publish(tables, out)
    plot(tables, out / "in_vivo.png")


if __name__ == "__main__":
    main()
