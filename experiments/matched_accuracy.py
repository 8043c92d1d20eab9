"""Do coherent labels steer better than random errors, at exactly the same accuracy?

    python experiments/matched_accuracy.py
    python experiments/matched_accuracy.py --part phase
    python experiments/matched_accuracy.py --flips claims --out runs/broken_pairs
    python experiments/matched_accuracy.py --quick
    python experiments/matched_accuracy.py --model FOLDER --claims CLAIMS --test TEST \\
        [--personas NAME,NAME] --out runs/real

Protocol of the first part, for every group and seed (or persona of a claim file and seed):
  1. Draw a task: N search claims in N / 2 opposite pairs, M held-out claims from other topics.
  2. Search labels without gold, under the hard rule that exactly one label of a pair is true. Let k
     be the number of pairs whose labels are not gold; the label accuracy is a = 1 − 2k / N.
  3. Draw D label sets that flip the labels of k random pairs of gold.
  4. R ladders of chains, one a β, from below 0 to above it. A chain starts from k random wrong
     pairs, swaps one wrong pair for another, and exchanges labels with the chains of the β next to
     its own; its stationary law is exp(β U): coherent sets (β > 0) or incoherent ones (β < 0).
     The last labels of each chain are a set; the mean U of each β, over the second half of its
     chains, is reported, and marked where it does not rise with β: such chains have not mixed.
  5. Check for every set of 2 to 4: accuracy exactly a, one True a pair (so class balance and pair
     consistency are equal as well). A set that fails ends the experiment.
  6. Put each set in context and score the held-out claims.
  7. A unit's first effect: the search's labels minus the mean of its D flips. Its second: the slope
     of the held-out score on the mutual predictability of the sets of 4, least squares, per nat.
A group's effect is the mean over its seeds. Over groups: mean effect, 95 % bootstrap interval,
two-sided sign-flip test, Holm over the table. Units with k = 0 have nothing to compare; they are
counted and left out.

The docstring of `harness/phase_diagram.py` describes the second part, the phase diagram. That of
`harness/broken_pairs.py` describes `--flips claims`: random errors as published, which break pairs.
"""

import pathlib
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from harness import broken_pairs, phase_diagram
from harness.command import experiment
from harness.costs import Cost, Published
from harness.draws import matched_flips, unit_key, unit_rng
from harness.readers import Reader, leave_option, load_reader, model_option
from harness.rules import check_matched, check_pairs, hard_rules
from harness.sources import Source, source_options
from harness.tables import (
    Comparison,
    Row,
    Unit,
    bars,
    comparison_rows,
    group_means,
    mark_falls,
    mean_row,
    publish,
    size_of,
)
from harness.together import search
from harness.units import run_units

from icmjax.errors import Fault, InputError
from icmjax.persona_world import make_world
from icmjax.scoring import mutual_predictability
from icmjax.search import ICM, FixedAccuracy, ParallelTempering, with_fields
from icmjax.steering import score_predictions

ALGORITHMS = {"icm": ICM(), "tempering": ParallelTempering()}
METRICS = ("accuracy", "log_loss")
BETAS = (-2.0, -0.5, -0.1, 0.0, 0.1, 0.2, 0.5, 2.0)

PUBLISHED = (
    Published("", 63, "94 minutes for 90 units on one CPU core beside another job"),
    Published(
        "--part phase --repeats 1",
        63,
        "94 minutes for 90 units on one CPU core beside another job",
    ),
    Published(
        "--flips claims", 772 / 30, "13 minutes for 30 units on one CPU core beside other jobs"
    ),
    Published("--part phase --model observer", 240 / 90, "4 minutes for 90 units on one CPU core"),
    Published(
        "--part phase --model trusting-observer", 6, "3 minutes for 30 units on one CPU core"
    ),
    Published(
        "--part phase --model trusting-observer --num-claims 64",
        15,
        "3 minutes for 12 units on one CPU core",
    ),
    Published(
        "--part phase --repeats 1 --header group",
        65,
        "13 minutes for 12 units on one CPU core beside another job",
    ),
    Published(
        "--part phase --repeats 1 --num-claims 64",
        300,
        "an hour for 12 units on one CPU core beside another job",
    ),
)


def run_unit(
    reader: Reader, source: Source, options: dict[str, Any], name: str, seed: int
) -> dict[str, Any]:
    """One (group, seed): the search's labels, flips and sets of every β, on held-out claims."""
    task, held_out = source.draw(name, seed)
    check_pairs(task, name)
    rules = hard_rules(task.claims)
    scorer = reader.make_scorer(task.claims)
    algorithm = with_fields(
        ALGORITHMS[options["algorithm"]], num_iterations=options["num_iterations"]
    )
    search_key, chains_key = jax.random.split(unit_key(name, seed))
    found = search(scorer, rules, algorithm, search_key)

    gold, pairs = task.gold.labels, np.asarray(rules.pairs)
    num_wrong = int((found.labels[pairs[:, 0]] != gold[pairs[:, 0]]).sum())
    flips = matched_flips(unit_rng(name, seed), gold, pairs, num_wrong, options["num_draws"])
    betas = np.tile(BETAS, options["num_repeats"])
    chains = FixedAccuracy(
        target=gold,
        num_errors=2 * num_wrong,
        inverse_temperatures=tuple(betas),
        num_iterations=options["num_swaps"],
    )
    if num_wrong:
        trace = search(scorer, rules, chains, chains_key).trace
        dosed, utilities = trace.labels[-1], trace.utility[options["num_swaps"] // 2 :].mean(0)
    else:
        dosed = np.tile(gold, (len(betas), 1))
        utilities = np.full(len(betas), found.utility)
    labels = np.concatenate([found.labels[None], gold[None], flips, dosed]).astype(np.int8)
    check_matched(np.delete(labels, 1, axis=0), gold, pairs, num_wrong)
    coherence = np.asarray(mutual_predictability(scorer(labels), labels))
    predictions = reader.make_steerer(task.claims, held_out.claims)(labels)
    scores: list[dict[str, Any]] = []
    for logp, value, row in zip(predictions, coherence, labels, strict=True):
        score = score_predictions(logp, held_out.gold)._asdict()
        scores.append(score | {"mutual_predictability": float(value), "labels": row.tolist()})
    num_flips = len(flips)
    return {
        "num_wrong_pairs": num_wrong,
        "pairs": pairs.tolist(),
        "label_accuracy": float((found.labels == gold).mean()),
        "search": scores[0],
        "gold": scores[1],
        "flips": scores[2 : 2 + num_flips],
        "dosed": [
            {"beta": float(beta), "mean_utility": float(value)} | score
            for beta, value, score in zip(betas, utilities, scores[2 + num_flips :], strict=True)
        ],
    }


def slope(sets: list[dict[str, float]], metric: str) -> float:
    """Least squares of a metric on mutual predictability, per nat; 0 where all are as coherent."""
    coherence = np.array([one["mutual_predictability"] for one in sets])
    if np.ptp(coherence) < 1e-9:
        return 0.0
    return float(np.polyfit(coherence, [one[metric] for one in sets], 1)[0])


def mean_dosed(unit: Unit, beta: float, metric: str) -> float:
    """The mean of a metric over a unit's sets of one β."""
    return float(np.mean([one[metric] for one in unit["dosed"] if one["beta"] == beta]))


def mean_flips(unit: Unit, metric: str) -> float:
    """The mean of a metric over a unit's random flips."""
    return float(np.mean([one[metric] for one in unit["flips"]]))


def analyse(units: list[Unit]) -> dict[str, list[Row]]:
    """Means over all groups, and effects over those that have a wrong label."""
    comparable = [unit for unit in units if unit["num_wrong_pairs"]]
    means = [mean_row("label accuracy", units, lambda unit: unit["label_accuracy"])]
    for metric in METRICS:
        means += [
            mean_row(f"{name} {metric}", units, lambda unit, n=name, m=metric: unit[n][m])
            for name in ("search", "gold")
        ]
    title = f"all units, {size_of(units)}; {len(comparable)} have a wrong label"
    compared = [
        Comparison(
            f"search − gold, {metric}",
            units,
            lambda unit, m=metric: unit["search"][m],
            lambda unit, m=metric: unit["gold"][m],
        )
        for metric in METRICS
    ]
    tables = {title: means, "search − gold, p by Holm": comparison_rows(compared)}
    if not comparable:
        return tables
    size = size_of(comparable)
    tables[f"sets of one accuracy by β, {size} with a wrong label"] = dose_rows(comparable)
    effects = []
    for metric in ("mutual_predictability", *METRICS):
        effects.append(
            Comparison(
                f"search − flips, {metric}",
                comparable,
                lambda unit, m=metric: unit["search"][m],
                lambda unit, m=metric: mean_flips(unit, m),
            )
        )
    for metric in METRICS:
        effects.append(
            Comparison(
                f"slope of {metric} on coherence",
                comparable,
                lambda unit, m=metric: slope(unit["dosed"], m),
                lambda unit: 0.0,
            )
        )
    tables[f"effects, {size}, p by Holm"] = comparison_rows(effects)
    return tables


def dose_rows(units: list[Unit]) -> list[Row]:
    """U, coherence and scores by β; U is marked where it falls from one β to the next."""
    by_metric = [
        [
            mean_row(
                f"β = {beta:g}, {metric}",
                units,
                lambda unit, b=beta, m=metric: mean_dosed(unit, b, m),
            )
            for beta in BETAS
        ]
        for metric in ("mean_utility", "mutual_predictability", *METRICS)
    ]
    by_metric[0] = mark_falls(by_metric[0])
    return [row for rows in zip(*by_metric, strict=True) for row in rows]


def plot(units: list[Unit], path: pathlib.Path) -> None:
    """Left: search against flips, a point a group. Right: the dose–response curve."""
    figure = matplotlib.figure.Figure(figsize=(8.6, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    comparable = [unit for unit in units if unit["num_wrong_pairs"]]
    left.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
    left.set(xlabel="random flips of gold", ylabel="search labels", xlim=(0, 1.02), ylim=(0, 1.02))
    left.set_title("held-out accuracy at equal label accuracy")
    right.set_xticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    right.set(xlabel="β: incoherent to coherent", ylabel="held-out accuracy")
    right.set_title("errors driven together or apart")
    if comparable:
        flips = group_means(comparable, lambda unit: mean_flips(unit, "accuracy"))
        found = group_means(comparable, lambda unit: unit["search"]["accuracy"])
        left.scatter(flips, found, s=14, alpha=0.7)
        rows = [
            mean_row("", comparable, lambda unit, b=beta: mean_dosed(unit, b, "accuracy"))
            for beta in BETAS
        ]
        right.errorbar(range(len(BETAS)), *bars(rows), marker="o", capsize=3)
    figure.savefig(path, dpi=120)


def check_flips(flips: str, part: str) -> None:
    """Raises unless the part has random errors of the kind asked for.

    Raises:
      InputError: the phase diagram is asked to break pairs.
    """
    if flips == "claims" and part == "phase":
        rule = "The phase diagram turns whole pairs."
        remedy = "leave out --part phase, or --flips claims"
        raise InputError(Fault(rule, f"--flips {flips}", "--part phase", remedy))


@experiment(*PUBLISHED, part="part")
@model_option
@click.option("--part", default="labels", show_default=True, type=click.Choice(["labels", "phase"]))
@source_options
@click.option("--algorithm", default="tempering", show_default=True, type=click.Choice(ALGORITHMS))
@click.option("--iterations", "num_iterations", default=100, show_default=True)
@click.option("--draws", "num_draws", default=20, show_default=True, help="Random flips a unit.")
@click.option(
    "--flips",
    default="pairs",
    show_default=True,
    type=click.Choice(["pairs", "claims"]),
    help="What random errors turn: whole pairs, or single claims, which breaks pairs.",
)
@click.option(
    "--keep",
    default=0.8,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Chance that a gold label stays as it is; of --flips claims.",
)
@click.option("--repeats", "num_repeats", default=3, show_default=True, help="Chains a β.")
@click.option("--swaps", "num_swaps", default=64, show_default=True, help="Steps of a chain.")
@click.option(
    "--header",
    default="source",
    show_default=True,
    type=click.Choice(["source", "group"]),
    help="Of the phase diagram: names the kind of source alone, or the group as well.",
)
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    part: str,
    source: Source,
    quick: bool,
    flips: str,
    keep: float,
    **options: Any,
) -> None:
    """The command of this file."""
    check_flips(flips, part)
    if quick:
        options |= {"num_iterations": 40, "num_repeats": 1, "num_swaps": 16}
    reader = load_reader(model, source.world or make_world(), options["leave"])
    config = reader.config | source.config | {"part": part} | options
    if part == "phase":
        world = source.require_world("the phase diagram")
        readers = {model: reader, "observer": load_reader("observer", world, options["leave"])}
        tables = phase_diagram.run(readers, source, world, options, config, out, cost)
    elif flips == "claims":
        asked = {"flips": flips, "keep": keep}
        tables = broken_pairs.run(reader, source, options | asked, config | asked, out, cost)
    else:
        units = run_units(
            out,
            config,
            source.keys,
            lambda name, seed: run_unit(reader, source, options, name, seed),
            source.num_together,
            cost,
        )
        tables = analyse(units)
        plot(units, out / "matched_accuracy.png")
    publish(tables, out)


if __name__ == "__main__":
    main()
