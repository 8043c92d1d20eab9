"""Do labels found without any label steer a model as well as gold labels do?

    python experiments/icm_vs_gold.py
    python experiments/icm_vs_gold.py --quick
    python experiments/icm_vs_gold.py --model persona-world-acquiescent --out runs/acquiescent
    python experiments/icm_vs_gold.py --model FOLDER --claims CLAIMS --test TEST \\
        [--answers ANSWERS --judge FOLDER] --out runs/real

The paper's first comparison (Mahbub, Pei & Feng, arXiv:2606.03110, figure 1). A unit is a task: a
group and a seed of the persona world, or a persona of a claim file and a seed. For each:
  1. Label N search claims without gold, under hard pair rules, by every algorithm ("icm" is one
     chain, "icm_of_8" the one of highest U of eight); also draw random labels, D times, and take
     gold ones.
  2. Score held-out claims of other topics: zero-shot, calibrated zero-shot (each claim against its
     opposite), chat-style zero-shot where the model has a chat template.
  3. Put each set of labels in context as demonstrations, in S shuffled orders, the same for all,
     and score the held-out claims; a unit's value is the mean over the orders.
The world is asked in three formats: claims; preferences between two responses, with a search of
their own; and open questions, answered greedily after the labelled claims and scored by stance.
With --answers, a real persona is asked openly too; harness/open_answers.py has the measures. Open
questions are asked once: after the claims in their given order, and of random labels after the
first draw alone.
A file with more claims of a persona than --num-claims or --num-test is sampled anew for every seed,
by whole consistency groups; where it has no more, seeds would repeat one another, and there is one.

The utility U of each set of labels tells whether a search missed the gold labels or the objective
prefers others to them. Statistics are over groups (or personas), each the mean over its seeds.
Percent of gold: a group's accuracy over that of gold labels. Every condition is compared with gold,
and every one but gold with zero-shot, each comparison once; p-values are corrected for the table
(Holm). "By tier" has the differences from gold for groups that are frequent, middling, rare or
absent in the model's texts.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.conditions import METRICS, score_conditions
from harness.costs import Cost, Published
from harness.draws import orders_of, unit_key, unit_rng
from harness.open_answers import read_answers, run_open_answers
from harness.readers import leave_option, model_config
from harness.rules import hard_rules
from harness.sources import Source, short, source_options
from harness.tables import (
    Comparison,
    Row,
    Unit,
    bars,
    comparison_rows,
    group_means,
    mean_row,
    publish,
    recovered_rows,
    size_of,
)
from harness.together import search
from harness.units import run_units
from harness.world_readings import ask, told_claims

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.lm import LanguageModel, load_lm
from icmjax.persona_world import Task, World, make_open_task, make_preference_task
from icmjax.scoring import make_scorer, utility
from icmjax.search import ICM, Bootstrap, Gibbs, Marginals, ParallelTempering, Scorer
from icmjax.statistics import summarise
from icmjax.steering import random_labels

FORMATS = ("claims", "preferences", "open")
QUICK = "bootstrap,icm"  # each algorithm is some programs to compile for every format
ALGORITHMS = {
    "marginals": Marginals(),
    "bootstrap": Bootstrap(),
    "gibbs": Gibbs(),
    "icm": ICM(),
    "icm_of_8": ICM(num_chains=8),
    "tempering": ParallelTempering(),
}
OPEN_METRICS = ("reference_log_prob", "judge_log_prob")  # where no stance can be read


def search_labels(
    scorer: Scorer, claims: ClaimSet, rng_key: jax.Array, algorithms: Sequence[str]
) -> dict[str, np.ndarray]:
    """Labels of the claims by each algorithm, int8 `[N]`; none of them sees gold."""
    return {
        name: search(scorer, hard_rules(claims), ALGORITHMS[name], rng_key).labels
        for name in algorithms
    }


def mean_utility(scorer: Scorer, claims: ClaimSet, labels: np.ndarray) -> float:
    """Mean utility U of labellings `[draws, N]`."""
    return float(np.mean(utility(scorer(labels), labels, hard_rules(claims))))


def run_task(
    lm: LanguageModel,
    task: Task,
    held_out: Task,
    key: tuple[str, int],
    options: dict[str, Any],
) -> dict[str, Any]:
    """One claim set and its held-out claims: label accuracies and held-out metrics."""
    order_rng, random_rng = (unit_rng(*key, purpose) for purpose in range(2, 4))
    scorer = make_scorer(lm, task.claims, options["method"], leave=options["leave"])
    labellings = search_labels(scorer, task.claims, unit_key(*key), options["algorithms"])
    accuracy = {name: _accuracy(labels, task.gold) for name, labels in labellings.items()}
    random_seed = int(random_rng.integers(2**31))
    labellings["random"] = random_labels(random_seed, options["num_draws"], task.claims)
    labellings["gold"] = task.gold.labels
    orders = orders_of(len(task.claims), options["num_orders"], order_rng)
    metrics = score_conditions(lm, task.claims, labellings, held_out.claims, held_out.gold, orders)
    return {
        "label_accuracy": accuracy,
        "utility": {
            name: mean_utility(scorer, task.claims, np.reshape(labels, (-1, len(task.claims))))
            for name, labels in labellings.items()
        },
        "conditions": metrics,
        "labels": {name: labels.tolist() for name, labels in labellings.items()},
    }


def _accuracy(labels: np.ndarray, gold: GoldLabels) -> float:
    is_known = gold.labels != UNLABELLED
    return float((labels == gold.labels)[is_known].mean())


def run_open(
    lm: LanguageModel, world: World, group: str, seed: int, labellings: dict[str, Any], task: Task
) -> dict[str, dict[str, Any]]:
    """Open questions after labelled claims: the share of answers of the right stance."""
    held_out = make_open_task(world, group, seed, "test")
    result = {}
    for name, labels in {"zero-shot": None, **labellings}.items():
        first = None if labels is None else np.reshape(labels, (-1, len(task.claims)))[0]
        told = [] if first is None else told_claims(task.claims, first)
        answers = ask(lm, held_out, told)
        result[name] = {"accuracy": answers["stance"], "texts": answers["texts"]}
    return result


def run_world_unit(
    lm: LanguageModel, source: Source, world: World, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """All formats of one group and seed."""
    task, held_out = source.draw(group, seed)
    unit = {}
    formats = options["formats"]
    if "claims" in formats or "open" in formats:
        claims = run_task(lm, task, held_out, (group, seed), options)
    if "claims" in formats:
        unit["claims"] = claims
    if "preferences" in formats:
        unit["preferences"] = run_task(
            lm,
            make_preference_task(world, group, seed, num_claims=len(task.claims)),
            make_preference_task(world, group, seed, "test", min(32, len(held_out.claims))),
            (group, seed),
            options,
        )
    if "open" in formats:
        conditions = run_open(lm, world, group, seed, claims["labels"], task)
        unit["open"] = {"label_accuracy": claims["label_accuracy"], "conditions": conditions}
    return unit


def run_file_unit(
    lm: LanguageModel,
    judge: LanguageModel,
    source: Source,
    answers_path: str | None,
    options: dict[str, Any],
    persona: str,
    seed: int,
) -> dict[str, Any]:
    """One persona of a claim file."""
    search_set, test_set = source.draw(persona, seed)
    unit = {"claims": run_task(lm, search_set, test_set, (persona, seed), options)}
    if answers_path is not None:
        name = persona or search_set.claims.claims[0].persona
        labellings = unit["claims"]["labels"]
        unit["open"] = {
            "label_accuracy": unit["claims"]["label_accuracy"],
            "conditions": run_open_answers(
                lm,
                judge,
                search_set.claims,
                {label_set: np.array(labels, np.int8) for label_set, labels in labellings.items()},
                read_answers(answers_path, name, options["num_references"]),
                name,
                unit_key(persona, seed),
                options["temperature"],
                options["max_new_tokens"],
            ),
        }
    return unit


def value_of(form: str, name: str, metric: str) -> Callable[[Unit], float]:
    """A condition's metric in a unit."""
    return lambda unit: unit[form]["conditions"][name][metric]


def utility_of(form: str, name: str) -> Callable[[Unit], float]:
    """The utility U of a condition's labels in a unit."""
    return lambda unit: unit[form]["utility"][name]


def analyse(units: list[dict[str, Any]], source: Source) -> dict[str, list[Row]]:
    """Tables by format: metrics by condition, percent of gold, and paired comparisons."""
    tables: dict[str, list[Row]] = {}
    size, tiers = size_of(units), source.members(units)
    for form in (name for name in units[0] if name != "key"):
        first = units[0][form]
        names = list(first["conditions"])
        known = first["conditions"]["gold"]
        metrics = [metric for metric in (*METRICS, *OPEN_METRICS) if metric in known]
        tables[f"{form}: label accuracy, {size}"] = [
            mean_row(name, units, lambda unit, n=name, f=form: unit[f]["label_accuracy"][n])
            for name in first["label_accuracy"]
        ]
        if "utility" in first:
            tables[f"{form}: U, {size}"] = [
                mean_row(name, units, utility_of(form, name)) for name in first["utility"]
            ]
            tables[f"{form}: differences in U, {size}, p by Holm"] = comparison_rows(
                [
                    Comparison(
                        f"{name} − gold", units, utility_of(form, name), utility_of(form, "gold")
                    )
                    for name in first["utility"]
                    if name != "gold"
                ]
            )
        for metric in metrics:
            value = functools.partial(value_of, form, metric=metric)
            tables[f"{form}: {metric}, {size}"] = [
                mean_row(name, units, value(name)) for name in names
            ]
            tables[f"{form}: differences in {metric}, {size}, p by Holm"] = comparison_rows(
                [
                    Comparison(f"{name} − {base}", units, value(name), value(base))
                    for base, others in (("gold", {"gold"}), ("zero-shot", {"gold", "zero-shot"}))
                    for name in names
                    if name not in others
                ]
            )
            if len(tiers) > 1:
                tables[f"{form}: differences in {metric} by tier, {size}, p by Holm"] = (
                    comparison_rows(
                        [
                            Comparison(
                                f"{name} − gold, {tier}", members, value(name), value("gold")
                            )
                            for tier, members in tiers.items()
                            for name in names
                            if name != "gold"
                        ]
                    )
                )
        if "accuracy" in metrics:
            accuracy = functools.partial(value_of, form, metric="accuracy")
            tables[f"{form}: share of the gap from zero-shot to gold, {size}"] = recovered_rows(
                units,
                {name: accuracy(name) for name in names},
                accuracy("zero-shot"),
                accuracy("gold"),
            )
            for kind, rows in percent_rows(units, form, names, tiers).items():
                tables[f"{form}: percent of gold, {kind}, {size}"] = rows
    return tables


def percent_rows(
    units: list[Unit], form: str, names: list[str], tiers: dict[str, list[Unit]]
) -> dict[str, list[Row]]:
    """Each group's accuracy over that of gold labels, in percent: by tier, and group by group."""

    def rows_of(members: list[Unit], ending: str = "") -> list[Row]:
        gold = group_means(members, value_of(form, "gold", "accuracy"))
        if not (gold > 0).all():
            return []
        return [
            Row(
                name + ending,
                summarise(100 * group_means(members, value_of(form, name, "accuracy")) / gold),
            )
            for name in names
        ]

    by_tier = [row for tier, members in tiers.items() for row in rows_of(members, f", {tier}")]
    people = list(dict.fromkeys(unit["key"][0] for unit in units))
    by_group = [
        row
        for who in people
        for row in rows_of(
            [unit for unit in units if unit["key"][0] == who], f", {who}" if who else ""
        )
    ]
    return {"all": rows_of(units), "by tier": by_tier, "one by one": by_group}


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """The paper's figure 1: held-out accuracy in percent by condition, a panel a format."""
    panels = {
        title: rows
        for title, rows in tables.items()
        if any(f": {metric}, " in title for metric in ("accuracy", *OPEN_METRICS))
    }
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axes, (title, rows) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        is_share = ": accuracy, " in title
        means, reach = bars(rows, 100 if is_share else 1)
        axes.bar(range(len(rows)), means, yerr=reach, color="#4477aa")
        axes.set_xticks(range(len(rows)), [row.name for row in rows], rotation=40, ha="right")
        axes.set_title(title, fontsize="medium")
        if is_share:
            axes.set(ylim=(0, 105), ylabel="held-out accuracy (%)")
    figure.savefig(path, dpi=120)


@experiment(
    Published(
        "--formats claims --algorithms bootstrap,icm,icm_of_8,tempering",
        39 * 60 / 90,
        "39 minutes for 90 units on one CPU core",
    ),
    Published(
        "--formats preferences,open --algorithms bootstrap,icm,tempering",
        49 * 60 / 90,
        "49 minutes for 90 units on one CPU core beside another job",
    ),
)
@click.option("--model", default="persona-world", show_default=True)
@source_options
@click.option("--answers", "answers_path", help="What people of these personas said openly.")
@click.option("--judge", help="Model that judges open answers; by default the model itself.")
@click.option("--references", "num_references", type=int, help="The most a question; default all.")
@click.option("--temperature", default=0.7, show_default=True, help="Of open answers.")
@click.option("--max-new-tokens", default=40, show_default=True, help="Of an open answer.")
@click.option("--formats", default=",".join(FORMATS), show_default=True, help="Of the world.")
@click.option("--algorithms", help=f"Of {', '.join(ALGORITHMS)}; default all, quick {QUICK}.")
@click.option("--orders", "num_orders", default=3, show_default=True, help="Shuffles a label set.")
@click.option("--draws", "num_draws", default=5, show_default=True, help="Of random labels.")
@click.option("--method", default="tree", show_default=True)
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: Source,
    quick: bool,
    answers_path: str | None,
    judge: str | None,
    formats: str,
    algorithms: str | None,
    **options: Any,
) -> None:
    """The command of this file."""
    algorithms = algorithms or (QUICK if quick else ",".join(ALGORITHMS))
    options["formats"] = chosen(formats, FORMATS, "--formats")
    options["algorithms"] = chosen(algorithms, list(ALGORITHMS), "--algorithms")
    lm = load_lm(model)
    config = model_config(lm) | source.config | options
    run_unit: Callable[[str, int], dict[str, Any]]
    if source.world is not None:
        run_unit = functools.partial(run_world_unit, lm, source, source.world, options)
    else:
        judge_lm = lm if judge is None else load_lm(judge)
        config["judge"] = model_config(judge_lm)
        if answers_path is not None:
            content = pathlib.Path(answers_path).read_bytes()
            config["answers"] = f"{short(answers_path)} {hashlib.sha256(content).hexdigest()}"
        run_unit = functools.partial(run_file_unit, lm, judge_lm, source, answers_path, options)
    units = run_units(out, config, source.keys, run_unit, source.num_together, cost)
    tables = analyse(units, source)
    publish(tables, out)
    plot(tables, out / "icm_vs_gold.png")


if __name__ == "__main__":
    main()
