"""Do human answers help more on the claims that a model is least certain about?

    python experiments/targeted_feedback.py
    python experiments/targeted_feedback.py --quick
    python experiments/targeted_feedback.py --model FOLDER --claims CLAIMS --test TEST \\
        [--personas NAME,NAME] --out runs/real

Protocol, for every group and seed (or persona of a claim file and seed):
  1. Draw a task, and search labels without gold under hard pair rules: the result for K = 0.
  2. For every selector and K in 1, 2, 4, 8: choose K claims, at most one a pair, by the selector's
     uncertainty (`icmjax.feedback`). "Before": from the model's zero-shot labels alone. "After":
     from the search of step 1, by its leave-one-out entropy, its tempered marginals, the margin or
     the expected gain in U. "Random": the mean over D draws.
  3. Give those claims their gold labels and their opposites the other ones, clamp them, and search
     again with the same keys.
  4. Label accuracy over all claims, and over those that nobody was asked about and that no answer
     implies (none of them where K is all pairs); accuracy and log-loss on held-out claims of other
     topics with all labels in context.
Statistics are over groups, each the mean over its seeds. The effect in a tier, and in all tiers
together, is the difference of a selector from random, paired over groups; p by Holm over the table.
"""

import pathlib
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.draws import unit_key
from harness.readers import Reader, leave_option, load_reader, model_option
from harness.rules import hard_rules, require_gold
from harness.sources import Source, source_options
from harness.tables import (
    Comparison,
    Row,
    Unit,
    Value,
    comparison_rows,
    group_means,
    mean_row,
    publish,
    size_of,
)
from harness.together import search
from harness.units import run_units

from icmjax.claims import UNLABELLED
from icmjax.errors import Fault, InputError
from icmjax.feedback import Evidence, choose_claims, expected_gain, implied_labels, uncertainty
from icmjax.persona_world import make_world
from icmjax.search import ParallelTempering, with_fields
from icmjax.steering import score_predictions

BUDGETS = (1, 2, 4, 8)
CHOSEN_AT = {
    "zero_shot_entropy": "before",
    "leave_one_out_entropy": "after",
    "marginal_entropy": "after",
    "margin": "after",
    "expected_gain": "after",
}
METRICS = ("label_accuracy", "label_accuracy_of_rest", "accuracy", "log_loss")


def run_unit(
    reader: Reader, source: Source, options: dict[str, Any], name: str, seed: int
) -> dict[str, Any]:
    """Metrics by selector and K; "none" for K = 0."""
    task, held_out = source.draw(name, seed)
    require_gold(task, name)
    rules = hard_rules(task.claims)
    scorer, groups = reader.make_scorer(task.claims), task.claims.group_index
    check_budgets(options["budgets"], len(task.claims.groups))
    steerer = reader.make_steerer(task.claims, held_out.claims)
    algorithm = with_fields(ParallelTempering(), num_iterations=options["num_iterations"])
    search_key, random_key = jax.random.split(unit_key(name, seed))

    def search_with(clamped: np.ndarray | None) -> Any:
        return search(scorer, rules, algorithm, search_key, clamped)

    def measure(labels: np.ndarray, clamped: np.ndarray) -> dict[str, float | None]:
        is_free, is_right = clamped == UNLABELLED, labels == task.gold.labels
        scores = score_predictions(steerer(labels), held_out.gold)
        return {
            "label_accuracy": float(is_right.mean()),
            "label_accuracy_of_rest": float(is_right[is_free].mean()) if is_free.any() else None,
            "accuracy": scores.accuracy,
            "log_loss": scores.log_loss,
        }

    def ask(values: np.ndarray, budget: int) -> dict[str, Any]:
        asked = choose_claims(values, groups, budget)
        answers = np.full(len(groups), UNLABELLED, np.int8)
        answers[asked] = task.gold.labels[asked]
        clamped = implied_labels(answers, rules)
        is_all = (clamped != UNLABELLED).all()
        labels = clamped if is_all else search_with(clamped).labels
        return {"asked": asked.tolist()} | measure(labels, clamped)

    first = search_with(None)
    unlabelled = np.full(len(groups), UNLABELLED, np.int8)
    evidence = Evidence(
        zero_shot=np.asarray(scorer(unlabelled)),
        leave_one_out=first.label_log_probs,
        marginals=first.marginals,
        expected_gain=expected_gain(scorer, first.labels, first.label_log_probs, rules)
        if "expected_gain" in options["selectors"]
        else None,  # two passes for every other answer
    )
    result: dict[str, Any] = {"none": measure(first.labels, unlabelled)}
    for selector in options["selectors"]:
        values = uncertainty(selector, evidence, len(groups), random_key)
        result[selector] = {str(budget): ask(values, budget) for budget in options["budgets"]}
    result["random"] = {}
    for budget in options["budgets"]:
        draws = []
        for draw in range(options["num_draws"]):
            draw_key = jax.random.fold_in(random_key, draw)
            draws.append(ask(uncertainty("random", evidence, len(groups), draw_key), budget))
        means = {
            metric: None if draws[0][metric] is None else float(np.mean([d[metric] for d in draws]))
            for metric in METRICS
        }
        result["random"][str(budget)] = {"asked": [one["asked"] for one in draws]} | means
    return result


def check_budgets(budgets: list[int], num_groups: int) -> None:
    """Raises unless every K asks about one to all consistency groups.

    Raises:
      InputError: a K is out of that range.
    """
    faults = [
        Fault("K claims are of K pairs.", f"K = {budget}", "--budgets", f"choose 1 to {num_groups}")
        for budget in budgets
        if not 1 <= budget <= num_groups
    ]
    if faults:
        raise InputError(faults)


def value_of(selector: str, budget: str, metric: str) -> Value:
    """A metric after K answers that a selector chose; "none" for K = 0."""
    if selector == "none":
        return lambda unit: unit["none"][metric]
    return lambda unit: unit[selector][budget][metric]


def analyse(source: Source, units: list[Unit]) -> dict[str, list[Row]]:
    """By tier, and of several together: metrics by selector and K, differences from random."""
    tables: dict[str, list[Row]] = {}
    selectors = [name for name in units[0] if name not in ("key", "none")]
    tiers = source.members(units)
    for tier, members in (tiers | ({"all": units} if len(tiers) > 1 else {})).items():
        size = size_of(members)
        for metric in METRICS:
            # Where all pairs were asked about there is no rest.
            budgets = [
                budget
                for budget in units[0]["random"]
                if all(unit["random"][budget][metric] is not None for unit in members)
            ]
            cells = [(selector, budget) for selector in selectors for budget in budgets]
            tables[f"{tier}: {metric}, {size}"] = [
                mean_row("K = 0", members, value_of("none", "0", metric)),
                *(
                    mean_row(
                        f"K = {budget}, {selector}", members, value_of(selector, budget, metric)
                    )
                    for selector, budget in cells
                ),
            ]
            tables[f"{tier}: {metric} over random, {size}, p by Holm"] = comparison_rows(
                [
                    Comparison(
                        f"K = {budget}, {selector} ({CHOSEN_AT[selector]})",
                        members,
                        value_of(selector, budget, metric),
                        value_of("random", budget, metric),
                    )
                    for selector, budget in cells
                    if selector != "random"
                ]
            )
    return tables


def plot(source: Source, units: list[Unit], path: pathlib.Path) -> None:
    """Held-out accuracy against K, a line a selector, a panel a tier."""
    tiers = source.members(units)
    figure = matplotlib.figure.Figure(figsize=(3.6 * len(tiers), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tiers), sharey=True))
    budgets = list(units[0]["random"])
    for axes, (tier, members) in zip(panels, tiers.items(), strict=True):
        start = group_means(members, value_of("none", "0", "accuracy")).mean()
        for selector in (name for name in units[0] if name not in ("key", "none")):
            means = [
                group_means(members, value_of(selector, budget, "accuracy")).mean()
                for budget in budgets
            ]
            style = "--" if selector == "random" else "-"
            axes.plot([0, *map(int, budgets)], [start, *means], style, marker=".", label=selector)
        axes.set(title=tier, xlabel="K answers")
    panels[0].set_ylabel("held-out accuracy")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


@experiment(
    Published("", 220, "of 18 units on one CPU core beside another job"),
    Published(
        "--selectors zero_shot_entropy,leave_one_out_entropy --budgets 4",
        37,
        "of 42 units on one CPU core beside another job",
    ),
)
@model_option
@source_options
@click.option("--selectors", default=",".join(CHOSEN_AT), show_default=True)
@click.option("--budgets", default=",".join(map(str, BUDGETS)), show_default=True, help="Of K.")
@click.option("--iterations", "num_iterations", default=60, show_default=True)
@click.option("--draws", "num_draws", default=3, show_default=True, help="Of random claims.")
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: Source,
    quick: bool,
    selectors: str,
    budgets: str,
    **options: Any,
) -> None:
    """The command of this file."""
    options["selectors"] = chosen(selectors, list(CHOSEN_AT), "--selectors")
    options["budgets"] = [int(budget) for budget in budgets.split(",")]
    if quick:
        options |= {"budgets": options["budgets"][-1:], "num_draws": 1, "num_iterations": 12}
    reader = load_reader(model, source.world or make_world(), options["leave"])
    units = run_units(
        out,
        reader.config | source.config | options,
        source.keys,
        lambda name, seed: run_unit(reader, source, options, name, seed),
        source.num_together,
        cost,
    )
    publish(analyse(source, units), out)
    plot(source, units, out / "targeted_feedback.png")


if __name__ == "__main__":
    main()
