"""Do coherent labels steer better than random errors, at exactly the same accuracy?

    python experiments/matched_accuracy.py --out runs/matched_accuracy
    python experiments/matched_accuracy.py --part phase --out runs/phase_diagram
    python experiments/matched_accuracy.py --quick --out runs/matched_accuracy_quick

Protocol of the first part, for every group and seed:
  1. Draw a task: N search claims in N / 2 opposite pairs, M held-out claims from other topics.
  2. Search labels without gold, under the hard rule that exactly one label of a pair is true. Let k
     be the number of pairs whose labels are not gold; the label accuracy is a = 1 − 2k / N.
  3. Draw D label sets that flip the labels of k random pairs of gold.
  4. For every β of a ladder from below 0 to above it, and R times: start from k random wrong pairs
     and let a Markov chain swap one wrong pair for another, with stationary law exp(β U): sets that
     are coherent (β > 0) or incoherent (β < 0).
  5. Assert for every set of 2 to 4: accuracy exactly a, one True a pair (so class balance and pair
     consistency are equal as well).
  6. Put each set in context and score the held-out claims.
  7. A unit's first effect: the search's labels minus the mean of its D flips. Its second: the slope
     of the held-out score on the mutual predictability of the sets of 4, least squares, per nat.
Over units: mean effect, 95 % bootstrap interval, two-sided sign-flip test, Holm over the table.
Units with k = 0 have nothing to compare; they are counted and left out.

The second part, the phase diagram, is described in `phase_diagram.py`.
"""

import pathlib
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
import phase_diagram
from harness import Row, as_json, experiment, groups_of, mean_row, run_units, table, write_json
from readers import Reader, load_reader

from icmjax.persona_world.tasks import make_task
from icmjax.persona_world.world import World, make_world
from icmjax.search import ICM, FixedAccuracy, ParallelTempering, search
from icmjax.statistics import compare_paired, holm, units_needed
from icmjax.steering import score_predictions
from icmjax.utility import mutual_predictability

ALGORITHMS = {"icm": ICM, "tempering": ParallelTempering}
METRICS = ("accuracy", "log_loss")
BETAS = (-2.0, -0.5, 0.0, 0.5, 2.0)


def matched_flips(
    rng: np.random.Generator, gold: np.ndarray, pairs: np.ndarray, num_wrong: int, num_draws: int
) -> np.ndarray:
    """Gold labels with both labels of `num_wrong` random pairs flipped: int8 `[num_draws, N]`."""
    draws = np.repeat(gold[None], num_draws, axis=0)
    for draw in draws:
        wrong = pairs[rng.choice(len(pairs), num_wrong, replace=False)].ravel()
        draw[wrong] = 1 - draw[wrong]
    return draws


def assert_matched(labels: np.ndarray, gold: np.ndarray, pairs: np.ndarray, num_wrong: int) -> None:
    """All sets `[..., N]` have so many wrong pairs, and one True a pair."""
    assert (labels[..., pairs].sum(-1) == 1).all(), "a pair is not consistent"
    assert ((labels != gold).sum(-1) == 2 * num_wrong).all(), "matched sets differ in accuracy"


def run_unit(
    reader: Reader, world: World, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """One (group, seed): the search's labels, flips and sets of every β, on held-out claims."""
    task = make_task(world, group, seed, num_claims=options["num_claims"])
    held_out = make_task(world, group, seed, "test", num_claims=options["num_test"])
    rules = task.claims.rules._replace(is_hard=np.ones(len(task.claims.rules.pairs), bool))
    scorer = reader.make_scorer(task.claims)
    algorithm = ALGORITHMS[options["algorithm"]](num_iterations=options["num_iterations"])
    search_key, chains_key = jax.random.split(jax.random.key(seed))
    found = search(scorer, rules, algorithm, search_key, progress=False)

    gold, pairs = task.gold.labels, np.asarray(rules.pairs)
    num_wrong = int((found.labels[pairs[:, 0]] != gold[pairs[:, 0]]).sum())
    rng = np.random.default_rng((seed, world.group_index(group)))
    flips = matched_flips(rng, gold, pairs, num_wrong, options["num_draws"])
    betas = np.repeat(BETAS, options["num_repeats"])
    chains = FixedAccuracy(
        target=gold,
        num_errors=2 * num_wrong,
        inverse_temperatures=tuple(betas),
        num_iterations=options["num_swaps"],
    )
    dosed = np.asarray(
        search(scorer, rules, chains, chains_key, progress=False).trace.labels[-1]
        if num_wrong
        else np.tile(gold, (len(betas), 1))
    )
    labels = np.concatenate([found.labels[None], gold[None], flips, dosed]).astype(np.int8)
    assert_matched(np.delete(labels, 1, axis=0), gold, pairs, num_wrong)
    coherence = np.asarray(mutual_predictability(scorer(labels), labels))
    predictions = reader.make_steerer(task.claims, held_out.claims)(labels)
    scores = [score_predictions(logp, held_out.gold)._asdict() for logp in predictions]
    for score, value in zip(scores, coherence, strict=True):
        score["mutual_predictability"] = float(value)
    num_flips = len(flips)
    return {
        "num_wrong_pairs": num_wrong,
        "label_accuracy": float((found.labels == gold).mean()),
        "search": scores[0],
        "gold": scores[1],
        "flips": scores[2 : 2 + num_flips],
        "dosed": [
            {"beta": float(beta)} | score
            for beta, score in zip(betas, scores[2 + num_flips :], strict=True)
        ],
    }


def slope(sets: list[dict[str, float]], metric: str) -> float:
    """Least squares of a metric on mutual predictability, per nat; 0 where all are as coherent."""
    coherence = np.array([one["mutual_predictability"] for one in sets])
    if np.ptp(coherence) < 1e-9:
        return 0.0
    return float(np.polyfit(coherence, [one[metric] for one in sets], 1)[0])


def analyse(units: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """Means over all units, and effects over those that have a wrong label."""
    comparable = [unit for unit in units if unit["num_wrong_pairs"]]
    means = [mean_row("label accuracy", (unit["label_accuracy"] for unit in units))]
    for metric in METRICS:
        means += [
            mean_row(f"{name} {metric}", (unit[name][metric] for unit in units))
            for name in ("search", "gold")
        ]
    tables = {f"all units ({len(comparable)} of {len(units)} have a wrong label)": means}
    if len(comparable) < 2:
        return tables
    doses = []
    for beta in BETAS:
        of_beta = [[s for s in unit["dosed"] if s["beta"] == beta] for unit in comparable]
        for metric in ("mutual_predictability", *METRICS):
            values = (np.mean([one[metric] for one in sets]) for sets in of_beta)
            doses.append(mean_row(f"β = {beta:g}, {metric}", values))
    tables["sets of one accuracy by β, units with a wrong label"] = doses

    effects = {}
    for metric in ("mutual_predictability", *METRICS):
        flips = np.array([np.mean([one[metric] for one in u["flips"]]) for u in comparable])
        first = np.array([unit["search"][metric] for unit in comparable])
        effects[f"search − flips, {metric}"] = compare_paired(first, flips)
    for metric in METRICS:
        slopes = np.array([slope(unit["dosed"], metric) for unit in comparable])
        effects[f"slope of {metric} on coherence"] = compare_paired(slopes, np.zeros(len(slopes)))
    adjusted = holm([effect.p_value for effect in effects.values()])
    tables["effects, p by Holm (units for a power of 0.8)"] = [
        Row(f"{name} ({units_needed(found.mean, found.spread):.0f})", found, p_value)
        for (name, (found, _)), p_value in zip(effects.items(), adjusted, strict=True)
    ]
    return tables


def plot(units: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Left: search against flips, a point a unit. Right: the dose–response curve."""
    figure = matplotlib.figure.Figure(figsize=(8.6, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    comparable = [unit for unit in units if unit["num_wrong_pairs"]]
    flips = [np.mean([draw["accuracy"] for draw in unit["flips"]]) for unit in comparable]
    left.scatter(flips, [unit["search"]["accuracy"] for unit in comparable], s=14, alpha=0.7)
    left.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
    left.set(xlabel="random flips of gold", ylabel="search labels", xlim=(0, 1.02), ylim=(0, 1.02))
    left.set_title("held-out accuracy at equal label accuracy")
    means, errors = [], []
    for beta in BETAS:
        values = [
            np.mean([s["accuracy"] for s in unit["dosed"] if s["beta"] == beta])
            for unit in comparable
        ]
        means.append(np.mean(values) if values else np.nan)
        errors.append(1.96 * np.std(values) / max(len(values), 1) ** 0.5 if values else np.nan)
    right.errorbar(range(len(BETAS)), means, errors, marker="o", capsize=3)
    right.set_xticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    right.set(xlabel="β: incoherent to coherent", ylabel="held-out accuracy")
    right.set_title("errors driven together or apart")
    figure.savefig(path, dpi=120)


@experiment
@click.option("--model", default="persona-world", show_default=True, help='Or "observer".')
@click.option("--part", default="labels", show_default=True, type=click.Choice(["labels", "phase"]))
@click.option("--seeds", "num_seeds", default=3, show_default=True, help="Tasks a group.")
@click.option("--algorithm", default="tempering", show_default=True, type=click.Choice(ALGORITHMS))
@click.option("--iterations", "num_iterations", default=100, show_default=True)
@click.option("--num-claims", default=32, show_default=True, help="Search claims a task.")
@click.option("--num-test", default=64, show_default=True, help="Held-out claims a task.")
@click.option("--draws", "num_draws", default=20, show_default=True, help="Random flips a unit.")
@click.option("--repeats", "num_repeats", default=3, show_default=True, help="Chains a β.")
@click.option("--swaps", "num_swaps", default=48, show_default=True, help="Steps of a chain.")
@click.option("--leave", default="group", show_default=True, type=click.Choice(["claim", "group"]))
def main(
    model: str,
    out: pathlib.Path,
    part: str,
    num_seeds: int,
    groups: str | None,
    quick: bool,
    **options: Any,
) -> None:
    """The command of this file."""
    world = make_world()
    names, num_seeds = groups_of(world, groups, quick), 1 if quick else num_seeds
    keys = [(name, seed) for name in names for seed in range(num_seeds)]
    reader = load_reader(model, world, options["leave"])
    if part == "phase":
        readers = {model: reader, "observer": load_reader("observer", world, options["leave"])}
        tables = phase_diagram.run(readers, world, options, keys, out)
    else:
        config = {"model": model, "part": part, **options}
        units = run_units(
            out, config, keys, lambda group, seed: run_unit(reader, world, options, group, seed)
        )
        tables = analyse(units)
        plot(units, out / "matched_accuracy.png")
    for title, rows in tables.items():
        click.echo(table(rows, title) + "\n")
    write_json(out / "report.json", {title: as_json(rows) for title, rows in tables.items()})


if __name__ == "__main__":
    main()
