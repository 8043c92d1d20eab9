"""How well does the bundled model read its world, and how far is it from the Bayes observer?

    python experiments/bundled_model.py --out runs/bundled_model
    python experiments/bundled_model.py --quick --out runs/bundled_model_quick

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
from harness import experiment, groups_of, run_units, tier_of, unit_rng
from readers import model_config
from sources import world_config
from tables import Comparison, Row, comparison_rows, group_means, mean_row, publish, size_of

from icmjax import load_lm, make_steerer
from icmjax.lm import LanguageModel
from icmjax.persona_world import (
    World,
    make_observer_steerer,
    make_open_task,
    make_preference_task,
    make_task,
    make_world,
    text,
)
from icmjax.statistics import summarise
from icmjax.steering import generate

COUNTS = (0, 1, 2, 4, 8, 16, 32)
NUM_FORMAT_DEMOS = 16
NUM_PARTICLES = 2048


def shown(gold: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """The first k gold labels for each count, the others unlabelled: int8 `[counts, N]`."""
    return np.where(np.arange(len(gold)) < np.array(counts)[:, None], gold, -1).astype(np.int8)


def log_odds(label_log_probs: np.ndarray) -> np.ndarray:
    """log P(True) − log P(False) of `[..., 2]`."""
    return np.asarray(label_log_probs)[..., 1] - np.asarray(label_log_probs)[..., 0]


def run_claims(lm: LanguageModel, world: World, group: str, seed: int) -> dict:
    """Parts 1 and 2."""
    sets = [
        make_task(world, group, seed, split, num, is_paired=False)
        for split, num in (("search", 32), ("test", 64))
    ]
    labels = shown(sets[0].gold.labels, COUNTS)
    claims = [task.claims for task in sets]
    model = np.asarray(make_steerer(lm, *claims)(labels))
    observer = make_observer_steerer(
        world, *claims, knows_groups=False, num_particles=NUM_PARTICLES
    )(labels)
    unnamed = [
        make_task(world, group, seed, split, num, is_named=False, is_paired=False).claims
        for split, num in (("search", 32), ("test", 64))
    ]
    labels = shown(sets[0].gold.labels, (NUM_FORMAT_DEMOS,))
    pair = (
        make_steerer(lm, *unnamed)(labels),
        make_observer_steerer(world, *unnamed, num_particles=NUM_PARTICLES)(labels),
    )

    def accuracy(label_log_probs: np.ndarray) -> list[float]:
        return (label_log_probs.argmax(-1) == sets[1].gold.labels).mean(-1).tolist()

    return {
        "accuracy": accuracy(model),
        "observer_accuracy": accuracy(np.asarray(observer)),
        "log_odds": [log_odds(logp)[0].round(4).tolist() for logp in pair],
    }


def run_preferences(lm: LanguageModel, world: World, group: str, seed: int) -> dict:
    """Part 3."""
    queries, gold = make_preference_task(world, group, seed, "test", 32)
    demonstrations = {
        "preferences": make_preference_task(world, group, seed, "search", NUM_FORMAT_DEMOS),
        "claims": make_task(world, group, seed, num_claims=NUM_FORMAT_DEMOS, is_paired=False),
    }
    accuracy = {}
    for name, (claims, labels) in demonstrations.items():
        logp = make_steerer(lm, claims, queries)(labels.labels)
        accuracy[f"preferences after {name}"] = float((logp.argmax(-1) == gold.labels).mean())
    return accuracy


def has_stance_of(level: int | None, gold: int) -> bool:
    """Whether an answer can be read and takes the side that the gold level takes."""
    return level is not None and text.is_in_favor(level) == text.is_in_favor(gold)


def run_answers(lm: LanguageModel, world: World, group: str, seed: int) -> dict:
    """Part 4."""
    held_out = make_open_task(world, group, seed, "test")
    asked = make_open_task(world, group, seed, num_questions=NUM_FORMAT_DEMOS)
    claims, gold = make_task(world, group, seed, num_claims=NUM_FORMAT_DEMOS, is_paired=False)
    labelled = [
        text.claim_query(claim.choice) + text.LABELS[label]
        for claim, label in zip(claims.claims, gold.labels, strict=True)
    ]
    wording = int(unit_rng(group, seed).integers(2**31))  # which words each answer is told in
    result = {}
    for name, told in (("answers", asked.demonstrations(wording)), ("claims", labelled)):
        answers = generate(lm, (held_out.header, *told), held_out.queries)
        levels = [text.parse_answer(answer) for answer in answers]
        pairs = list(zip(levels, held_out.levels.tolist(), strict=True))
        result[f"answers after {name}"] = {
            "parse": float(np.mean([level is not None for level in levels])),
            "stance": float(np.mean([has_stance_of(a, b) for a, b in pairs])),
            "level": float(np.mean([a == b for a, b in pairs])),
            "texts": answers,
        }
    return result


def analyse(world: World, units: list[dict]) -> dict[str, list[Row]]:
    """Tables of means over groups, by tier where the tier matters."""
    by_tier = {
        tier: [unit for unit in units if tier_of(world, unit["key"][0]) == tier]
        for tier in world.tiers
    }
    by_tier = {tier: members for tier, members in by_tier.items() if members}
    curve, last, gains = [], [], []
    for tier, members in by_tier.items():
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
    for tier in world.tiers:
        members = [unit for unit in units if tier_of(world, unit["key"][0]) == tier]
        if not members:
            continue
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


@experiment
@click.option("--model", default="persona-world", show_default=True)
@click.option("--seeds", "num_seeds", default=3, show_default=True, help="Draws a group.")
def main(model: str, out: pathlib.Path, num_seeds: int, groups: str | None, quick: bool) -> None:
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
    units = run_units(out, model_config(lm) | world_config(world), keys, run_unit)
    publish(analyse(world, units), out)
    plot(world, units, out / "bundled_model.png")


if __name__ == "__main__":
    main()
