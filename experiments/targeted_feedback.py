"""Do human answers help more on the claims that a model is least certain about?

    python experiments/targeted_feedback.py --out runs/targeted_feedback
    python experiments/targeted_feedback.py --quick --out runs/targeted_feedback_quick

Protocol, for every group and seed:
  1. Draw a task, and search labels without gold under hard pair rules: the result for K = 0.
  2. For every selector and K in 1, 2, 4, 8: choose K claims, at most one a pair, by the selector's
     uncertainty (`icmjax.feedback`). "Before": from the model's zero-shot labels alone. "After":
     from the search of step 1, by its leave-one-out entropy, its tempered marginals, the margin or
     the expected gain in U. "Random": the mean over D draws.
  3. Give those claims their gold labels and their opposites the other ones, clamp them, and search
     again with the same keys.
  4. Label accuracy over the claims that nobody was asked about and that no answer implies; and
     accuracy and log-loss on held-out claims of other topics with all labels in context.
A tier's effect is the paired difference of a selector from random over its units; p by Holm over
the table.
"""

import pathlib
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from harness import (
    Row,
    as_json,
    experiment,
    groups_of,
    mean_row,
    run_units,
    table,
    tier_of,
    write_json,
)
from readers import Reader, load_reader

from icmjax.claims import UNLABELLED
from icmjax.feedback import Evidence, choose_claims, expected_gain, implied_labels, uncertainty
from icmjax.persona_world.tasks import make_task
from icmjax.persona_world.world import World, make_world
from icmjax.search import ParallelTempering, search
from icmjax.statistics import compare_paired, holm, units_needed
from icmjax.steering import score_predictions

BUDGETS = (1, 2, 4, 8)
CHOSEN_AT = {
    "zero_shot_entropy": "before",
    "leave_one_out_entropy": "after",
    "marginal_entropy": "after",
    "margin": "after",
    "expected_gain": "after",
}
METRICS = ("label_accuracy", "accuracy", "log_loss")


def run_unit(
    reader: Reader, world: World, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """Metrics by selector and K; "none" for K = 0."""
    task = make_task(world, group, seed, num_claims=options["num_claims"])
    held_out = make_task(world, group, seed, "test", num_claims=options["num_test"])
    rules = task.claims.rules._replace(is_hard=np.ones(len(task.claims.rules.pairs), bool))
    scorer, groups = reader.make_scorer(task.claims), task.claims.group_index
    steerer = reader.make_steerer(task.claims, held_out.claims)
    algorithm = ParallelTempering(num_iterations=options["num_iterations"])
    search_key, random_key = jax.random.split(jax.random.key(seed))

    def search_with(clamped: np.ndarray | None) -> Any:
        return search(scorer, rules, algorithm, search_key, clamped=clamped, progress=False)

    def measure(labels: np.ndarray, clamped: np.ndarray) -> dict[str, float]:
        is_free = clamped == UNLABELLED
        scores = score_predictions(steerer(labels), held_out.gold)
        is_right = (labels == task.gold.labels)[is_free]
        return {
            "label_accuracy": float(is_right.mean()),
            "accuracy": scores.accuracy,
            "log_loss": scores.log_loss,
        }

    def ask(values: np.ndarray, budget: int) -> dict[str, Any]:
        asked = choose_claims(values, groups, budget)
        answers = np.full(len(groups), UNLABELLED, np.int8)
        answers[asked] = task.gold.labels[asked]
        clamped = implied_labels(answers, rules)
        return {"asked": asked.tolist()} | measure(search_with(clamped).labels, clamped)

    first = search_with(None)
    unlabelled = np.full(len(groups), UNLABELLED, np.int8)
    evidence = Evidence(
        zero_shot=np.asarray(scorer(unlabelled)),
        leave_one_out=first.label_log_probs,
        marginals=first.marginals,
        expected_gain=expected_gain(scorer, first.labels, first.label_log_probs, rules),
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
        means = {metric: float(np.mean([one[metric] for one in draws])) for metric in METRICS}
        result["random"][str(budget)] = {"asked": [one["asked"] for one in draws]} | means
    return result


def analyse(world: World, units: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """By tier: metrics by selector and K, and paired differences from random."""
    tables: dict[str, list[Row]] = {}
    selectors = [name for name in units[0] if name not in ("key", "none")]
    budgets = list(units[0]["random"])
    for tier in world.tiers:
        members = [unit for unit in units if tier_of(world, unit["key"][0]) == tier]
        if not members:
            continue
        for metric in METRICS:
            rows = [mean_row("K = 0", (unit["none"][metric] for unit in members))]
            for selector in selectors:
                for budget in budgets:
                    values = (unit[selector][budget][metric] for unit in members)
                    rows.append(mean_row(f"K = {budget}, {selector}", values))
            tables[f"{tier}: {metric}"] = rows
        if len(members) > 1:
            tables[f"{tier}: accuracy over random, p by Holm (units for a power of 0.8)"] = (
                comparisons(members, [name for name in selectors if name != "random"], budgets)
            )
    return tables


def comparisons(units: list[dict[str, Any]], selectors: list[str], budgets: list[str]) -> list[Row]:
    """Selectors against random, paired over units."""
    found = {}
    for budget in budgets:
        random = np.array([unit["random"][budget]["accuracy"] for unit in units])
        for selector in selectors:
            values = np.array([unit[selector][budget]["accuracy"] for unit in units])
            if np.any(values != random):
                found[f"K = {budget}, {selector} ({CHOSEN_AT[selector]})"] = compare_paired(
                    values, random
                )
    if not found:
        return []
    adjusted = holm([comparison.p_value for comparison in found.values()])
    return [
        Row(f"{name} ({units_needed(each.mean, each.spread):.0f})", each, p_value)
        for (name, (each, _)), p_value in zip(found.items(), adjusted, strict=True)
    ]


def plot(world: World, units: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Held-out accuracy against K, a line a selector, a panel a tier."""
    tiers = {
        tier: [unit for unit in units if tier_of(world, unit["key"][0]) == tier]
        for tier in world.tiers
    }
    tiers = {tier: members for tier, members in tiers.items() if members}
    figure = matplotlib.figure.Figure(figsize=(3.6 * len(tiers), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tiers), sharey=True))
    budgets = list(units[0]["random"])
    for axes, (tier, members) in zip(panels, tiers.items(), strict=True):
        start = np.mean([unit["none"]["accuracy"] for unit in members])
        for selector in (name for name in units[0] if name not in ("key", "none")):
            means = [
                np.mean([unit[selector][budget]["accuracy"] for unit in members])
                for budget in budgets
            ]
            style = "--" if selector == "random" else "-"
            axes.plot([0, *map(int, budgets)], [start, *means], style, marker=".", label=selector)
        axes.set(title=tier, xlabel="K answers")
    panels[0].set_ylabel("held-out accuracy")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


@experiment
@click.option("--model", default="persona-world", show_default=True, help='Or "observer".')
@click.option("--seeds", "num_seeds", default=3, show_default=True, help="Tasks a group.")
@click.option("--selectors", default=",".join(CHOSEN_AT), show_default=True)
@click.option("--budgets", default=",".join(map(str, BUDGETS)), show_default=True, help="Of K.")
@click.option("--iterations", "num_iterations", default=60, show_default=True)
@click.option("--num-claims", default=32, show_default=True, help="Search claims a task.")
@click.option("--num-test", default=64, show_default=True, help="Held-out claims a task.")
@click.option("--draws", "num_draws", default=3, show_default=True, help="Of random claims.")
@click.option("--leave", default="group", show_default=True, type=click.Choice(["claim", "group"]))
def main(
    model: str,
    out: pathlib.Path,
    num_seeds: int,
    groups: str | None,
    quick: bool,
    selectors: str,
    budgets: str,
    **options: Any,
) -> None:
    """The command of this file."""
    world = make_world()
    options["selectors"] = selectors.split(",")
    options["budgets"] = [int(budget) for budget in budgets.split(",")]
    if quick:
        options |= {"budgets": options["budgets"][-2:], "num_draws": 1, "num_iterations": 20}
    reader = load_reader(model, world, options["leave"])
    names = groups_of(world, groups, quick)
    keys = [(name, seed) for name in names for seed in range(1 if quick else num_seeds)]
    units = run_units(
        out,
        {"model": model, **options},
        keys,
        lambda group, seed: run_unit(reader, world, options, group, seed),
    )
    tables = analyse(world, units)
    for title, rows in tables.items():
        if rows:
            click.echo(table(rows, title) + "\n")
    write_json(out / "report.json", {title: as_json(rows) for title, rows in tables.items()})
    plot(world, units, out / "targeted_feedback.png")


if __name__ == "__main__":
    main()
