"""Which way to find labels without gold finds the right ones, and knows how sure it may be?

    python experiments/labels.py
    python experiments/labels.py --quick
    python experiments/labels.py --model observer --methods zero-shot,marginals,bootstrap,tempering
    python experiments/labels.py --part exact
    python experiments/labels.py --model FOLDER --claims CLAIMS --test TEST --personas A,B

A unit is a group of the persona world and a seed, or a persona of a claim file and a seed. Every
method of harness/labellers.py labels the unit's N search claims, under hard pair rules where there
are any; none sees gold. Measured are
  label accuracy   share of right labels,
  label log-loss   nats a claim, of the method's marginals; and of these within the pair rules,
                   where the method itself reads the claims of a pair apart,
  ECE              expected calibration error: the probability of True in ten equal bins, all claims
                   of all groups and seeds together; |share of True − mean probability|, weighted;
                   of preferences also against what respondents, of whom some err, would say,
  passes           tokens read, over those of one tree pass of all claims,
  held-out         accuracy and log-loss on claims of other topics after the labels as
                   demonstrations, means over S orders, the same for all methods;
                   "marginals, sure ones" shows only labels of a marginal above SURE, and
                   "marginals, drawn" takes the mean probability after DRAWS labellings drawn from
                   the marginals, so that an unsure claim is shown under both labels,
  gap recovered    (method − zero-shot) / (gold − zero-shot), of mean held-out accuracies.
The protocol was fixed before any number was seen of seeds 3 to 5: methods and their settings are
chosen on seeds 0 to 2, and reported on seeds 3 to 5, the default. Comparisons are two-sided, paired
over groups, p by Holm over a table.

`--part exact` takes N = 12 claims in pairs, which have 64 labellings, and enumerates them: the
labels of the highest U, of the highest joint likelihood, and the marginals of the joint law. It
separates an objective that is wrong from a search that missed it. `--model observer` with
`--knows-groups` is the Bayes observer that knows what a model could have learned of every group
that its texts name: its marginals are exact, and no method can be right more often on average.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.draws import orders_of, unit_key, unit_rng
from harness.labellers import ALPHA, BUDGETS, LABELLERS, NUM_ORDERS, SHOTS, Found, Labeller
from harness.readers import OBSERVERS, Reader, leave_option, load_reader, model_option
from harness.rules import hard_rules
from harness.sources import Source, source_options
from harness.tables import (
    Comparison,
    Row,
    Unit,
    comparison_rows,
    mean_row,
    publish,
    recovered_rows,
    size_of,
    write_json,
)
from harness.units import run_units

from icmjax.claims import UNLABELLED, ClaimSet, PairRules, violated_pairs
from icmjax.errors import Fault, InputError
from icmjax.persona_world import Source as Poll
from icmjax.persona_world import Style, Task, World, make_preference_task, make_world
from icmjax.scoring import utility
from icmjax.steering import random_labels, score_predictions

FORMATS = ("claims", "preferences")
DEFAULT_METHODS = (
    "zero-shot,calibrated,marginals,bootstrap,votes,icm,tempering"  # the others by --methods
)
BASE = "bootstrap"
METHODS = LABELLERS | BUDGETS | SHOTS
SURE = 0.75  # least marginal of a label that is shown
DRAWS = 8
BINS = 10
NUM_EXACT = 12  # claims whose labellings are enumerated
STEERED = ("marginals",)  # whose marginals are used in context in other ways too


def run_task(reader: Reader, task: Task, held_out: Task, key: tuple[str, int], options: Any) -> Any:
    """All methods on one claim set."""
    unit = Labeller(reader, task.claims, unit_key(*key))
    found = {name: METHODS[name](unit) for name in options["methods"]}
    scores = steering_scores(reader, task, held_out, found, key, options["num_orders"])
    gold = task.gold.labels
    methods = {
        name: {
            "label accuracy": float((one.labels == gold).mean()),
            "label log-loss": log_loss(one.marginals, gold),
            "label log-loss within the rules": log_loss(
                marginals_within(one.marginals, unit.rules), gold
            ),
            "passes": one.num_tokens / max(unit.tokens_of_a_pass(), 1),
            "share of True": float((one.labels == 1).mean()),
            "marginals": np.round(one.marginals[:, 1].astype(float), 5).tolist(),
        }
        for name, one in found.items()
    }
    return {"methods": methods, "steering": scores, "gold": gold.tolist()}


def marginals_within(marginals: np.ndarray, rules: PairRules) -> np.ndarray:
    """Marginals `[N, Y]` of which those of pairs with one True are read together.

    A method that reads every claim alone gives the two claims of a pair probabilities of True that
    need not add up to 1. Two opposites say one thing twice, so the mean of their log-odds counts.
    """
    result = np.array(marginals, np.float64)
    is_one_true = (np.asarray(rules.penalties) == [[1, 0], [0, 1]]).all(axis=(1, 2))
    first, second = np.asarray(rules.pairs)[is_one_true].T
    logp = np.log(np.maximum(result, 1e-6))
    log_odds = logp[:, 1] - logp[:, 0]
    mean = (log_odds[first] - log_odds[second]) / 2
    result[first, 1] = result[second, 0] = 1 / (1 + np.exp(-mean))
    result[first, 0], result[second, 1] = 1 - result[first, 1], 1 - result[first, 1]
    return result


def log_loss(marginals: np.ndarray, gold: np.ndarray) -> float:
    """Mean −log P(gold), nats; a probability of 0 counts as one in a million."""
    own = np.take_along_axis(np.asarray(marginals, np.float64), gold[:, None].astype(int), 1)
    return float(-np.log(np.maximum(own, 1e-6)).mean())


def steering_scores(
    reader: Reader,
    task: Task,
    held_out: Task,
    found: Mapping[str, Found],
    key: tuple[str, int],
    num_orders: int,
) -> dict[str, dict[str, float]]:
    """Held-out accuracy and log-loss after each method's labels, and after its baselines."""
    claims, rng = task.claims, unit_rng(*key, 0)
    orders = orders_of(len(claims), num_orders, rng)
    steerer = reader.make_steerer(claims, held_out.claims)
    none = np.full(len(claims), UNLABELLED, np.int8)
    labellings = {"zero-shot": none, "gold": task.gold.labels}
    labellings |= {f"{name} labels": one.labels for name, one in found.items()}
    predictions = {
        name: steerer(np.broadcast_to(labels, orders.shape), orders)
        for name, labels in labellings.items()
    }
    random = random_labels(int(rng.integers(2**31)), num_orders, claims)
    predictions["random labels"] = steerer(random, orders)
    for name in found.keys() & set(STEERED):
        marginals = found[name].marginals
        is_sure = marginals.max(axis=1) >= SURE
        sure = np.where(is_sure, found[name].labels, UNLABELLED).astype(np.int8)
        predictions[f"{name}, sure ones"] = steerer(np.broadcast_to(sure, orders.shape), orders)
        drawn = drawn_labels(rng, claims, marginals)
        many = orders_of(len(claims), DRAWS, rng)
        probabilities = np.exp(steerer(drawn, many)).mean(axis=0, keepdims=True)
        predictions[f"{name}, drawn"] = np.log(np.maximum(probabilities, 1e-30))
    return {name: mean_score(logp, held_out.gold) for name, logp in predictions.items()}


def drawn_labels(rng: np.random.Generator, claims: ClaimSet, marginals: np.ndarray) -> np.ndarray:
    """Labellings drawn by the marginals, of which none breaks a rule: int8 `[DRAWS, N]`."""
    rules, rows = hard_rules(claims), []
    pairs = np.asarray(rules.pairs)
    for _ in range(DRAWS):
        row = (rng.random(len(claims)) < marginals[:, 1]).astype(np.int8)
        is_broken = np.asarray(violated_pairs(jnp.asarray(row), rules))
        row[pairs[is_broken, 1]] = 1 - row[pairs[is_broken, 0]]
        rows.append(row)
    return np.stack(rows)


def mean_score(predictions: np.ndarray, gold: Any) -> dict[str, float]:
    """Means over predictions `[draws, M, Y]`."""
    scores = [score_predictions(logp, gold) for logp in predictions]
    return {
        "accuracy": float(np.mean([one.accuracy for one in scores])),
        "log-loss": float(np.mean([one.log_loss for one in scores])),
    }


def run_unit(
    reader: Reader, source: Source, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """All formats of one group and seed."""
    task, held_out = source.draw(group, seed)
    unit = {}
    if "claims" in options["formats"]:
        unit["claims"] = run_task(reader, task, held_out, (group, seed), options)
    if "preferences" in options["formats"]:
        world = source.require_world("preferences")
        unit["preferences"] = run_task(
            reader,
            make_preference_task(world, group, seed, num_claims=len(task.claims)),
            make_preference_task(world, group, seed, "test", min(32, len(held_out.claims))),
            (group, seed),
            options,
        )
    return unit


def run_exact(reader: Reader, source: Source, group: str, seed: int) -> dict[str, Any]:
    """The best labels and the marginals of U and of the joint law, by enumeration."""
    task, _ = source.draw(group, seed)
    first = range(min(NUM_EXACT, len(task.claims)))
    claims, gold = task.claims.select(first), task.gold.select(first).labels
    labellings = consistent_labellings(claims)
    rules = hard_rules(claims)
    logp = np.concatenate(
        [np.asarray(reader.make_scorer(claims)(part)) for part in np.array_split(labellings, 8)]
    )
    by_u = np.asarray(utility(logp, labellings, rules, ALPHA), np.float64)
    scorer = reader.make_joint_scorer(claims, NUM_ORDERS)
    own = np.concatenate(
        [
            np.take_along_axis(
                np.asarray(scorer.by_order(part)),
                part[None, ..., None].astype(int),
                -1,
            )[..., 0].sum(-1)
            for part in np.array_split(labellings, 8)
        ],
        axis=1,
    )  # [K, labellings]
    joint = own.mean(axis=0)
    law = np.exp(joint - joint.max()) / np.exp(joint - joint.max()).sum()
    marginals = law @ (labellings == 1)
    unit = Labeller(reader, claims, unit_key(group, seed))
    found = {name: LABELLERS[name](unit).labels for name in ("marginals", "bootstrap", "tempering")}
    found |= {
        "highest U": labellings[by_u.argmax()],
        "highest joint likelihood": labellings[joint.argmax()],
        "marginals of the joint law": (marginals > 0.5).astype(np.int8),
    }
    at = {row.tobytes(): index for index, row in enumerate(labellings)}
    return {
        name: {
            "label accuracy": float((labels == gold).mean()),
            "U less the highest": float(by_u[at[labels.tobytes()]] - by_u.max()),
            "joint log-likelihood less the highest": float(
                joint[at[labels.tobytes()]] - joint.max()
            ),
        }
        for name, labels in {**found, "gold": gold}.items()
    } | {"joint marginals": marginals.tolist(), "gold labels": gold.tolist()}


def consistent_labellings(claims: ClaimSet) -> np.ndarray:
    """All labellings that keep the rules: int8 `[S, N]`."""
    every = np.array(list(itertools.product((0, 1), repeat=len(claims))), np.int8)
    is_broken = np.asarray(violated_pairs(jnp.asarray(every), hard_rules(claims)))
    return every[~is_broken.any(axis=1)]


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of the probability of True, over `BINS` equal bins."""
    return float(sum(row["weight"] * abs(row["gap"]) for row in bins_of(probabilities, labels)))


def bins_of(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """The reliability of each bin that has any claims."""
    index = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    rows = []
    for one in np.unique(index):
        members = index == one
        mean, share = float(probabilities[members].mean()), float(labels[members].mean())
        weight = float(members.mean())
        rows.append({"mean": mean, "share": share, "gap": share - mean, "weight": weight})
    return rows


def value_of(form: str, table: str, name: str, metric: str) -> Callable[[Unit], float]:
    """A quantity of a unit."""
    return lambda unit: unit[form][table][name][metric]


def analyse(units: list[dict[str, Any]], tiers: Mapping[str, list[Unit]]) -> dict[str, list[Row]]:
    """Tables by format: means, and comparisons with bootstrapping, zero-shot and gold."""
    tables: dict[str, list[Row]] = {}
    for form in (name for name in units[0] if name != "key"):
        first, size = units[0][form], size_of(units)
        methods, steering = list(first["methods"]), list(first["steering"])
        losses = ("label log-loss", "label log-loss within the rules")
        for metric in ("label accuracy", *losses, "passes", "share of True"):
            value = functools.partial(value_of, form, "methods", metric=metric)
            tables[f"{form}: {metric}, {size}"] = [mean_row(n, units, value(n)) for n in methods]
        accuracy = functools.partial(value_of, form, "methods", metric="label accuracy")
        for metric in ("label accuracy", *losses) if BASE in methods else ():
            value = functools.partial(value_of, form, "methods", metric=metric)
            tables[f"{form}: {metric} − that of {BASE}, {size}, p by Holm"] = comparison_rows(
                [Comparison(n, units, value(n), value(BASE)) for n in methods if n != BASE]
            )
        for tier, members in tiers.items():
            tables[f"{form}: label accuracy, {tier}"] = [
                mean_row(n, members, accuracy(n)) for n in methods
            ]
        for metric in ("accuracy", "log-loss"):
            value = functools.partial(value_of, form, "steering", metric=metric)
            tables[f"{form}: held-out {metric}, {size}"] = [
                mean_row(n, units, value(n)) for n in steering
            ]
            if metric == "accuracy":
                tables[f"{form}: share of the gap from zero-shot to gold, {size}"] = recovered_rows(
                    units, {n: value(n) for n in steering}, value("zero-shot"), value("gold")
                )
            bases = [n for n in ("gold", "zero-shot", f"{BASE} labels") if n in steering]
            for base in bases:
                tables[f"{form}: held-out {metric} − that of {base}, {size}, p by Holm"] = (
                    comparison_rows(
                        [Comparison(n, units, value(n), value(base)) for n in steering if n != base]
                    )
                )
    return tables


def said_share(share: float, world: World) -> float:
    """Share of a national poll's respondents who say True, where it is true for that share.

    Some err, and some answer by habit: at random, or always the same.
    """
    config = world.config
    error, by_values = config.source_errors[Poll.NATIONAL], config.style_shares[Style.SUBSTANTIVE]
    always_true = config.style_shares[Style.ALWAYS_TRUE]
    always_false = config.style_shares[Style.ALWAYS_FALSE]
    by_coin = 1 - by_values - always_true - always_false
    return by_values * (share + error * (1 - 2 * share)) + always_true + by_coin / 2


def pooled(units: Sequence[Unit], world: World | None = None) -> dict[str, Any]:
    """Calibration of each method's marginals, over all groups and seeds together.

    Of the world's preferences also against what respondents would say. Of a claim of a pair they
    would say another share: there those cancel who always say the same.
    """
    result: dict[str, Any] = {}
    for form in (name for name in units[0] if name != "key"):
        gold = np.concatenate([unit[form]["gold"] for unit in units])
        calibration = {}
        for name in units[0][form]["methods"]:
            probabilities = np.concatenate(
                [unit[form]["methods"][name]["marginals"] for unit in units]
            )
            bins = bins_of(probabilities, gold)
            calibration[name] = {"ECE": calibration_error(probabilities, gold), "bins": bins}
            if world is not None and form == "preferences":
                calibration[name]["ECE of what respondents say"] = sum(
                    row["weight"] * abs(said_share(row["share"], world) - row["mean"])
                    for row in bins
                )
        result[form] = {"calibration": calibration}
    return result


def plot(found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Reliability of the marginals, a panel a format."""
    figure = matplotlib.figure.Figure(figsize=(4.4 * len(found), 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(found)))
    for axes, (form, result) in zip(panels, found.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        for name, one in result["calibration"].items():
            points = [(row["mean"], row["share"]) for row in one["bins"]]
            axes.plot(*zip(*points, strict=True), marker=".", label=f"{name}: {one['ECE']:.3f}")
        axes.set(xlabel="marginal of True", ylabel="share that is True", title=form)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(title="ECE", fontsize=7, title_fontsize=7)
    figure.savefig(path, dpi=120)


def report(units: list[dict[str, Any]], source: Source, out: pathlib.Path) -> None:
    """Tables, calibration and the figure."""
    publish(analyse(units, source.members(units)), out)
    found = pooled(units, source.world)
    for form, result in found.items():
        click.echo(f"{form}: expected calibration error of the marginals")
        for name, one in result["calibration"].items():
            values = [f"{kind} {value:.3f}" for kind, value in one.items() if "ECE" in kind]
            click.echo(f"  {name:24} {', '.join(values)}")
    write_json(out / "calibration.json", found)
    plot(found, out / "labels.png")


def report_exact(units: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Means over groups of what was enumerated."""
    names = [name for name in units[0] if name not in ("key", "joint marginals", "gold labels")]
    tables = {}
    for metric in units[0][names[0]]:

        def value(name: str, metric: str = metric) -> Callable[[Unit], float]:
            return lambda unit: unit[name][metric]

        tables[f"{metric}, {size_of(units)}"] = [mean_row(n, units, value(n)) for n in names]
        base = "marginals of the joint law"
        if metric == "label accuracy":
            tables[f"{metric} − that of {base}, {size_of(units)}, p by Holm"] = comparison_rows(
                [
                    Comparison(n, units, value(n), value(base))
                    for n in names
                    if n not in (base, "gold")
                ]
            )
    publish(tables, out)
    gold = np.concatenate([unit["gold labels"] for unit in units])
    ece = calibration_error(np.concatenate([unit["joint marginals"] for unit in units]), gold)
    click.echo(f"marginals of the joint law: ECE {ece:.3f}")


@experiment(
    Published(
        "--methods zero-shot,calibrated,marginals,bootstrap,votes",
        1232 / 90,
        "21 minutes for 90 units on one CPU core beside two other jobs",
    ),
    Published(
        "--formats claims --methods 'bootstrap,without overcount,"
        "cross-validated,joint posterior,joint best,icm,tempering'",
        1566 / 30,
        "26 minutes for 30 units on one CPU core beside another job",
    ),
    Published("--part exact", 223 / 30, "4 minutes for 30 units on one CPU core beside two jobs"),
    part="part",
)
@model_option
@functools.partial(source_options, first_seed=3)
@click.option("--part", default="labels", show_default=True, type=click.Choice(["labels", "exact"]))
@click.option("--formats", default=",".join(FORMATS), show_default=True, help="Of the world.")
@click.option("--methods", help=f"Of {'; '.join(METHODS)}; default the cheap ones.")
@click.option("--orders", "num_orders", default=3, show_default=True, help="Shuffles a label set.")
@click.option("--knows-groups", is_flag=True, help="observer: knows the groups of the texts.")
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: Source,
    quick: bool,
    part: str,
    formats: str,
    methods: str | None,
    knows_groups: bool,
    **options: Any,
) -> None:
    """The command of this file."""
    options["formats"] = chosen(formats, FORMATS, "--formats")
    if source.world is None:
        options["formats"] = ["claims"]
    options["methods"] = chosen(methods or DEFAULT_METHODS, list(METHODS), "--methods")
    if quick and methods is None:
        options["methods"] = ["zero-shot", "marginals", "bootstrap"]
    if knows_groups and model not in OBSERVERS:
        rule, remedy = "It is an observer that may know the groups.", "leave --knows-groups out"
        raise InputError(Fault(rule, model, "--knows-groups", remedy))
    reader = load_reader(model, source.world or make_world(), options["leave"], knows_groups)
    config = reader.config | source.config | options | {"part": part, "knows_groups": knows_groups}
    if part == "exact":
        run = functools.partial(run_exact, reader, source)
        report_exact(run_units(out, config, source.keys, run, source.num_together, cost), out)
        return
    run = functools.partial(run_unit, reader, source, options)
    report(run_units(out, config, source.keys, run, source.num_together, cost), source, out)


if __name__ == "__main__":
    main()
