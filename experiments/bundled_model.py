"""How well does the bundled model read its world, and how far is it from the Bayes observer?

    python experiments/bundled_model.py
    python experiments/bundled_model.py --quick

For every group and seed, under the header of a national poll that names the group, on held-out
claims of topics that no demonstration is about:
  1. Accuracy after k = 0, 1, 2, 4, 8, 16, 32 gold demonstrations, claims without their opposites;
     of the model, of the Bayes observer that does not know the groups' values, and the ratio.
  2. The correlation of the model's log-odds with that observer's after 16 gold demonstrations,
     over all held-out queries, under a header without the group's name, so that both read the same.
  3. Preferences: accuracy after 16 gold preferences, and after 16 gold claims.
  4. Open questions, answered greedily after 16 answered ones, and after 16 gold claims: the share
     of answers that parse, that have the right stance (in favour or against), and that have
     exactly the right level of four.
Statistics are over groups, each the mean over its seeds. An observer that knows a named group's
values is right always, by construction.
"""

import pathlib

import click
import matplotlib.figure
import numpy as np
from harness.command import experiment
from harness.costs import Cost, Published
from harness.readers import model_config
from harness.sources import groups_of, members_of, world_config
from harness.tables import (
    Comparison,
    Row,
    comparison_rows,
    group_means,
    mean_row,
    publish,
    size_of,
)
from harness.units import run_units
from harness.world_readings import (
    COUNTS,
    NUM_FORMAT_DEMOS,
    run_answers,
    run_claims,
    run_preferences,
)

from icmjax.lm import load_lm
from icmjax.persona_world import World, make_world
from icmjax.statistics import summarise


def analyse(world: World, units: list[dict]) -> dict[str, list[Row]]:
    """Tables of means over groups, by tier where the tier matters."""
    curve, last, gains = [], [], []
    for tier, members in members_of(world.tiers, units).items():
        for column, count in enumerate(COUNTS):
            name = f"{tier}, {count} demonstrations"
            curve.append(mean_row(name, members, lambda unit, c=column: unit["accuracy"][c]))
        model, observer = (
            group_means(members, lambda unit, w=who: unit[w][-1])
            for who in ("accuracy", "observer_accuracy")
        )
        last.append(Row(f"{tier}, observer", summarise(observer)))
        last.append(Row(f"{tier}, model / observer", summarise(model / observer)))
        gains.append(
            Comparison(
                f"{tier}, gold − zero-shot",
                members,
                lambda unit: unit["accuracy"][-1],
                lambda unit: unit["accuracy"][0],
            )
        )
    agreement = mean_row(
        "within a unit", units, lambda unit: float(np.corrcoef(unit["log_odds"])[0, 1])
    )
    names = ("preferences after preferences", "preferences after claims")
    formats = [mean_row(name, units, lambda unit, n=name: unit[n]) for name in names]
    for name in ("answers after answers", "answers after claims"):
        formats += [
            mean_row(f"{name}, {metric}", units, lambda unit, n=name, m=metric: unit[n][m])
            for metric in ("parse", "stance", "level")
        ]
    odds = np.array([unit["log_odds"] for unit in units])  # [units, 2, M]
    pooled = float(np.corrcoef(*(odds[:, who].ravel() for who in range(2)))[0, 1])
    size = size_of(units)
    return {
        f"accuracy after k gold demonstrations, {size}": curve,
        f"after 32, {size}": last,
        f"gold − zero-shot, {size}, p by Holm": comparison_rows(gains),
        f"correlation with the observer's log-odds, {size} (pooled: {pooled:.3f})": [agreement],
        f"formats, {NUM_FORMAT_DEMOS} gold demonstrations, {size}": formats,
    }


def plot(world: World, units: list[dict], path: pathlib.Path) -> None:
    """Accuracy by demonstrations, and the model's log-odds against the observer's."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for tier, members in members_of(world.tiers, units).items():
        means = [
            np.mean([unit[who] for unit in members], axis=0)
            for who in ("accuracy", "observer_accuracy")
        ]
        (line,) = left.plot(means[0], marker="o", label=tier)
        left.plot(means[1], linestyle=":", color=line.get_color())
    left.set_xticks(range(len(COUNTS)), [str(count) for count in COUNTS])
    left.set(xlabel="gold demonstrations", ylabel="held-out accuracy (dotted: observer)")
    left.legend()
    odds = np.array([unit["log_odds"] for unit in units])
    right.scatter(odds[:, 1], odds[:, 0], s=3, alpha=0.3)
    right.axline((0, 0), slope=1, color="#bbbbbb", linewidth=1, zorder=0)
    right.set(xlabel="observer's log-odds (nats)", ylabel="model's log-odds (nats)")
    figure.savefig(path, dpi=120)


@experiment(Published("", 60 / 90, "1 minute for 90 units on one CPU core"))
@click.option("--model", default="persona-world", show_default=True)
@click.option("--seeds", "num_seeds", default=3, show_default=True, help="Draws a group.")
def main(
    model: str, out: pathlib.Path, cost: Cost, num_seeds: int, groups: str | None, quick: bool
) -> None:
    """The command of this file."""
    world, lm = make_world(), load_lm(model)

    def run_unit(group: str, seed: int) -> dict:
        return (
            run_claims(lm, world, group, seed)
            | run_preferences(lm, world, group, seed)
            | run_answers(lm, world, group, seed)
        )

    names = groups_of(world, groups, quick)
    keys = [(name, seed) for name in names for seed in range(1 if quick else num_seeds)]
    config = model_config(lm) | world_config(world)
    units = run_units(out, config, keys, run_unit, cost=cost)
    publish(analyse(world, units), out)
    plot(world, units, out / "bundled_model.png")


if __name__ == "__main__":
    main()
