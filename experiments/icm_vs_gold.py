"""Do labels found without any label steer a model as well as gold labels do?

    python experiments/icm_vs_gold.py --out runs/icm_vs_gold
    python experiments/icm_vs_gold.py --quick --out runs/icm_vs_gold_quick
    python experiments/icm_vs_gold.py --model persona-world-acquiescent --out runs/acquiescent
    python experiments/icm_vs_gold.py --model FOLDER --claims CLAIMS --test TEST \\
        [--answers ANSWERS --judge FOLDER] --out runs/real

The paper's first comparison (Mahbub, Pei & Feng, arXiv:2606.03110, figure 1). A unit is a task: a
group and a seed of the persona world, or a persona of a claim file. For each:
  1. Zero-shot: the model's label of every held-out claim alone; calibrated, by the opposite claim
     or else by the mean log-odds; and, where the model has a chat template, asked as a user would.
  2. Search labels for the unit's claims without gold by each algorithm, under hard pair rules.
  3. Put each label set, uniformly random labels and gold labels in context, in S shuffled orders,
     and score the held-out claims; a unit's value is the mean over the orders.
The world is asked in three formats: claims; preferences between two responses, with a search of
their own; and open questions, answered greedily after the labelled claims and scored by stance.
With --answers, a real persona is asked openly too (see open_answers.py for the measures).
Percent of gold: a unit's accuracy over that of gold labels. Comparisons with gold and with
zero-shot are paired over units, and their p-values are corrected for the table (Holm).
"""

import pathlib
from collections.abc import Callable
from typing import Any

import click
import jax
import matplotlib.figure
import numpy as np
from bundled_model import stance
from harness import (
    Row,
    as_json,
    experiment,
    groups_of,
    mean_row,
    run_units,
    table,
    write_json,
)
from open_answers import read_answers, run_open_answers

from icmjax import (
    UNLABELLED,
    ClaimSet,
    GoldLabels,
    load_claims,
    load_gold,
    load_lm,
    make_scorer,
    make_steerer,
)
from icmjax.comparison import random_labels
from icmjax.errors import ClaimsError, Fault
from icmjax.generation import generate
from icmjax.lm.loading import LanguageModel
from icmjax.persona_world import text
from icmjax.persona_world.tasks import Task, make_open_task, make_preference_task, make_task
from icmjax.persona_world.world import World, make_world
from icmjax.search import ICM, Bootstrap, Gibbs, ParallelTempering, search
from icmjax.statistics import compare_paired, holm, units_needed
from icmjax.steering import calibrate, chat_zero_shot, score_predictions

ALGORITHMS = {
    "bootstrap": Bootstrap(),
    "gibbs": Gibbs(),
    "icm": ICM(),
    "tempering": ParallelTempering(),
}
METRICS = ("accuracy", "balanced_accuracy", "log_loss")
OPEN_METRICS = ("reference_log_prob", "judge_log_prob")  # where no stance can be read


def search_labels(
    lm: LanguageModel, claims: ClaimSet, seed: int, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Labels of the claims by each algorithm, int8 `[N]`; none of them sees gold."""
    rules = claims.rules._replace(is_hard=np.ones(len(claims.rules.pairs), bool))
    scorer = make_scorer(lm, claims, options["method"], leave=options["leave"])
    return {
        name: search(
            scorer, rules, ALGORITHMS[name], rng_key=jax.random.key(seed), progress=False
        ).labels
        for name in options["algorithms"]
    }


def orders_of(num_claims: int, num_orders: int, seed: int) -> np.ndarray:
    """Shuffled orders of the demonstrations, int32 `[S, N]`."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(num_claims) for _ in range(num_orders)]).astype(np.int32)


def score_conditions(
    lm: LanguageModel,
    claims: ClaimSet,
    labellings: dict[str, np.ndarray],
    queries: ClaimSet,
    gold: GoldLabels,
    seed: int,
    num_orders: int,
) -> dict[str, dict[str, float]]:
    """Metrics of zero-shot and of every labelling `[draws, N]`, means over draws and orders."""
    steerer = make_steerer(lm, claims, queries)
    zero_shot = steerer(np.full(len(claims), UNLABELLED, np.int8))
    predictions = {
        "zero-shot": zero_shot[None],
        "calibrated zero-shot": calibrate(zero_shot, queries.rules)[None],
    }
    chat = chat_zero_shot(lm, queries)
    if chat is not None:
        predictions["chat zero-shot"] = chat[None]
    orders = orders_of(len(claims), num_orders, seed)
    for name, labels in labellings.items():
        draws = np.reshape(labels, (-1, 1, len(claims)))
        shape = (len(draws), num_orders, len(claims))
        logp = steerer(np.broadcast_to(draws, shape), np.broadcast_to(orders, shape))
        predictions[name] = logp.reshape(-1, *logp.shape[2:])
    return {name: mean_scores(logp, gold) for name, logp in predictions.items()}


def mean_scores(predictions: np.ndarray, gold: GoldLabels) -> dict[str, float]:
    """Means of the metrics over predictions `[draws, M, Y]`."""
    scores = [score_predictions(logp, gold) for logp in predictions]
    return {metric: float(np.mean([getattr(one, metric) for one in scores])) for metric in METRICS}


def run_task(
    lm: LanguageModel, task: Task, held_out: Task, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    """One claim set and its held-out claims: label accuracies and held-out metrics."""
    labellings = search_labels(lm, task.claims, seed, options)
    accuracy = {name: _accuracy(labels, task.gold) for name, labels in labellings.items()}
    labellings["random"] = random_labels(seed, options["num_draws"], task.claims)
    labellings["gold"] = task.gold.labels
    metrics = score_conditions(
        lm, task.claims, labellings, held_out.claims, held_out.gold, seed, options["num_orders"]
    )
    return {
        "label_accuracy": accuracy,
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
        told = (
            []
            if labels is None
            else [
                text.claim_query(claim.choice) + text.LABELS[label]
                for claim, label in zip(
                    task.claims.claims, np.reshape(labels, (-1, len(task.claims)))[0], strict=True
                )
            ]
        )
        answers = generate(lm, (held_out.header, *told), held_out.queries)
        levels = [text.parse_answer(answer) for answer in answers]
        is_right = [
            level is not None and stance(level) == stance(gold)
            for level, gold in zip(levels, held_out.levels.tolist(), strict=True)
        ]
        result[name] = {"accuracy": float(np.mean(is_right)), "texts": answers}
    return result


def run_world_unit(
    lm: LanguageModel, world: World, options: dict[str, Any], group: str, seed: int
) -> dict[str, Any]:
    """All formats of one group and seed."""
    num_claims, num_test = options["num_claims"], options["num_test"]
    task = make_task(world, group, seed, num_claims=num_claims)
    held_out = make_task(world, group, seed, "test", num_test)
    unit = {}
    claims = run_task(lm, task, held_out, seed, options)
    if "claims" in options["formats"]:
        unit["claims"] = claims
    if "preferences" in options["formats"]:
        unit["preferences"] = run_task(
            lm,
            make_preference_task(world, group, seed, num_claims=num_claims),
            make_preference_task(world, group, seed, "test", min(32, num_test)),
            seed,
            options,
        )
    if "open" in options["formats"]:
        conditions = run_open(lm, world, group, seed, claims["labels"], task)
        unit["open"] = {"label_accuracy": claims["label_accuracy"], "conditions": conditions}
    return unit


def run_file_unit(
    lm: LanguageModel,
    judge: LanguageModel,
    sources: tuple[str, str, str | None],
    options: dict[str, Any],
    persona: str,
    seed: int,
) -> dict[str, Any]:
    """One persona of a claim file."""
    name = persona or None
    search_set, test_set = (_read(source, name, options) for source in sources[:2])
    unit = {"claims": run_task(lm, search_set, test_set, seed, options)}
    if sources[2] is not None:
        name = name or search_set.claims.claims[0].persona
        labellings = unit["claims"]["labels"]
        unit["open"] = {
            "label_accuracy": unit["claims"]["label_accuracy"],
            "conditions": run_open_answers(
                lm,
                judge,
                search_set.claims,
                {label_set: np.array(labels, np.int8) for label_set, labels in labellings.items()},
                read_answers(sources[2], name, options["num_references"]),
                name,
                seed,
                options["temperature"],
                options["max_new_tokens"],
            ),
        }
    return unit


def _read(source: str, persona: str | None, options: dict[str, Any]) -> Task:
    limit = options["limit"]
    gold = load_gold(source, persona, limit)
    if gold is None:
        raise ClaimsError(
            Fault("A comparison with gold has gold labels.", "none", source, "add a column label")
        )
    return Task(load_claims(source, persona, limit=limit), gold)


def analyse(units: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """Tables by format: metrics by condition, percent of gold, and paired comparisons."""
    tables: dict[str, list[Row]] = {}
    for form in (name for name in units[0] if name != "key"):
        of_form = [unit[form] for unit in units]
        names = list(of_form[0]["conditions"])
        known = of_form[0]["conditions"]["gold"]
        metrics = [metric for metric in (*METRICS, *OPEN_METRICS) if metric in known]

        def values(name: str, metric: str, of_form: list = of_form) -> np.ndarray:
            return np.array([unit["conditions"][name][metric] for unit in of_form])

        tables[f"{form}: label accuracy"] = [
            mean_row(name, (unit["label_accuracy"][name] for unit in of_form))
            for name in of_form[0]["label_accuracy"]
        ]
        for metric in metrics:
            tables[f"{form}: {metric}"] = [mean_row(name, values(name, metric)) for name in names]
        gold = values("gold", metrics[0])
        if metrics[0] == "accuracy" and (gold > 0).any():
            tables[f"{form}: percent of gold"] = [
                mean_row(name, (100 * values(name, "accuracy") / gold)[gold > 0]) for name in names
            ]
        for metric in metrics if metrics[0] in OPEN_METRICS else metrics[:1]:
            if len(units) > 1:
                tables[f"{form}: paired differences in {metric}, p by Holm"] = comparisons(
                    {
                        f"{name} − {base}": (values(name, metric), values(base, metric))
                        for base in ("gold", "zero-shot")
                        for name in names
                    }
                )
    return tables


def comparisons(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Row]:
    """Paired comparisons of a table, with corrected p-values and the units that each needs."""
    pairs = {name: pair for name, pair in pairs.items() if np.any(pair[0] != pair[1])}
    compared = {name: compare_paired(*pair) for name, pair in pairs.items()}
    if not compared:
        return []
    adjusted = holm([comparison.p_value for comparison in compared.values()])
    return [
        Row(f"{name} (needs {units_needed(found.mean, found.spread):.0f})", found, p_value)
        for (name, (found, _)), p_value in zip(compared.items(), adjusted, strict=True)
    ]


def plot(tables: dict[str, list[Row]], path: pathlib.Path) -> None:
    """The paper's figure 1: held-out accuracy by condition, with intervals, a panel a format."""
    ends = tuple(f": {metric}" for metric in ("accuracy", *OPEN_METRICS))
    panels = {name: rows for name, rows in tables.items() if name.endswith(ends)}
    figure = matplotlib.figure.Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axes, (name, rows) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        means = [row.summary.mean for row in rows]
        below = [max(0.0, row.summary.mean - row.summary.low) for row in rows]
        above = [max(0.0, row.summary.high - row.summary.mean) for row in rows]
        axes.bar(range(len(rows)), means, yerr=np.nan_to_num([below, above]), color="#4477aa")
        axes.set_xticks(range(len(rows)), [row.name for row in rows], rotation=40, ha="right")
        axes.set_title(name)
        if name.endswith(": accuracy"):
            axes.set_ylim(0, 1.05)
    figure.savefig(path, dpi=120)


@experiment
@click.option("--model", default="persona-world", show_default=True)
@click.option("--claims", "claims_path", help="A claim file, in place of the persona world.")
@click.option("--test", "test_path", help="Its held-out claims.")
@click.option("--personas", help="Of the file, separated by commas; by default all together.")
@click.option("--answers", "answers_path", help="What people of these personas said openly.")
@click.option("--judge", help="Model that judges open answers; by default the model itself.")
@click.option("--references", "num_references", type=int, help="The most a question; default all.")
@click.option("--temperature", default=0.7, show_default=True, help="Of open answers.")
@click.option("--max-new-tokens", default=40, show_default=True, help="Of an open answer.")
@click.option("--limit", type=int, help="Take the first so many claims of each file.")
@click.option("--formats", default="claims,preferences,open", show_default=True)
@click.option("--algorithms", default=",".join(ALGORITHMS), show_default=True)
@click.option("--seeds", "num_seeds", default=3, show_default=True, help="Tasks a group.")
@click.option("--num-claims", default=32, show_default=True, help="Search claims a task.")
@click.option("--num-test", default=64, show_default=True, help="Held-out claims a task.")
@click.option("--orders", "num_orders", default=3, show_default=True, help="Shuffles a label set.")
@click.option("--draws", "num_draws", default=5, show_default=True, help="Of random labels.")
@click.option("--method", default="tree", show_default=True)
@click.option("--leave", default="group", show_default=True, type=click.Choice(["claim", "group"]))
def main(
    model: str,
    out: pathlib.Path,
    claims_path: str | None,
    test_path: str | None,
    answers_path: str | None,
    judge: str | None,
    personas: str | None,
    num_seeds: int,
    groups: str | None,
    quick: bool,
    **options: Any,
) -> None:
    """The command of this file."""
    for name in ("formats", "algorithms"):
        options[name] = options[name].split(",")
    if (claims_path is None) != (test_path is None):
        found = claims_path or test_path
        remedy = "give both"
        raise ClaimsError(Fault("--claims goes with --test.", f"{found}", "options", remedy))
    lm, num_seeds = load_lm(model), 1 if quick else num_seeds
    run_unit: Callable[[str, int], dict[str, Any]]
    if claims_path is None or test_path is None:
        world = make_world()
        names = groups_of(world, groups, quick)

        def run_unit(group: str, seed: int) -> dict[str, Any]:
            return run_world_unit(lm, world, options, group, seed)
    else:
        names, sources = (personas or "").split(","), (claims_path, test_path, answers_path)
        judge_lm = lm if judge is None else load_lm(judge)

        def run_unit(group: str, seed: int) -> dict[str, Any]:
            return run_file_unit(lm, judge_lm, sources, options, group, seed)

    keys = [(name, seed) for name in names for seed in range(num_seeds)]
    sources_of = {"claims": claims_path, "test": test_path, "answers": answers_path}
    config = {"model": model, "judge": judge, **sources_of, **options}
    units = run_units(out, config, keys, run_unit)
    tables = analyse(units)
    for title, rows in tables.items():
        if rows:
            click.echo(table(rows, title) + "\n")
    write_json(out / "report.json", {title: as_json(rows) for title, rows in tables.items()})
    plot(tables, out / "icm_vs_gold.png")


if __name__ == "__main__":
    main()
