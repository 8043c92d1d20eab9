"""Few-shot evaluation as published: n claims of a shuffled pool, through a chat template or plain.

    python experiments/published_protocol.py
    python experiments/published_protocol.py --quick
    python experiments/published_protocol.py --model FOLDER --claims CLAIMS --test TEST \\
        --personas France,Japan --num-claims 56 --num-test 56 --out runs/published
    python experiments/published_protocol.py --alphas 50,40,70 --seed-labels 8,4 --out runs/alphas

It follows the code of Mahbub, Pei & Feng (arXiv:2606.03110): yd-pei/icm_for_pluralistic_alignment
at commit 5a82698. Protocol, for every group and seed (or persona of a claim file and seed):
  1. Search claims and held-out claims are one pool. It is dealt at random into F folds, by whole
     consistency groups.
  2. Each fold is labelled apart and without gold, by `--algorithm`, under soft pair rules: "found".
     With `--alphas` and `--seed-labels`, once for every α of U and number K of labelled seeds; the
     published runs have 40, 50 and 70, and 4 and 8. The first of each is compared with gold, with
     random labels and with the others.
  3. The claims of a fold are scored after the first n claims of all other folds, in one random
     order: with found labels, gold ones and random ones; and zero-shot. Where the other folds have
     fewer claims than n, after all of them.
  4. In each of the forms
       plain      a completion: claims under their template, each with its label (the published
                  persona evaluation, and its base model)
       message    a system prompt and one message of examples (the published OpinionQA evaluation)
       turns      the same system prompt, each example a turn of the user and of the assistant
     The last two go through the model's chat template; they are left out where it has none.
A unit's value is over all claims of the pool, each scored in its own fold. Statistics are over
groups or personas. p-values are corrected for the table (Holm). Folds of the persona world share
topics, as other experiments' held-out claims do not, so that labels help more here than there.

What differs from the published code: one order for all labels, where it shuffles gold and found
labels apart; and log-probs of the labels, where its chat evaluation reads the answer that a model
writes. Its searches had four parts of 28 claims for most countries, and its n were 30 to 80 for
OpinionQA and 10 to 40 for personas.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import matplotlib.figure
import numpy as np
from harness.chat_shots import CHAT_FORMS, chat_shots
from harness.command import chosen, experiment
from harness.costs import Cost, Published
from harness.draws import unit_key, unit_rng
from harness.readers import leave_option, model_config
from harness.rules import require_gold
from harness.sources import Source, source_options
from harness.tables import Comparison, Row, Unit, bars, comparison_rows, mean_row, publish, size_of
from harness.together import search
from harness.units import run_units

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels, PairRules, count_violations
from icmjax.errors import Fault, InputError
from icmjax.lm import LanguageModel, load_lm
from icmjax.persona_world import Task
from icmjax.scoring import make_scorer
from icmjax.search import ICM, Bootstrap, Marginals, ParallelTempering, with_fields
from icmjax.steering import make_steerer, random_labels, score_predictions

ALGORITHMS = {
    "icm": ICM(),
    "icm_reference": ICM(reference_deviations=True),
    "marginals": Marginals(),
    "bootstrap": Bootstrap(),
    "tempering": ParallelTempering(),
}
FORMS = ("plain", *CHAT_FORMS)
METRICS = ("accuracy", "log_loss")
# Accuracy on GlobalOpinionQA with two options, Llama 3.1 70B (arXiv:2606.03110).
PUBLISHED_NAMES = ("ICM", "gold", "chat zero-shot", "base zero-shot")
PUBLISHED_ACCURACY = {
    "US": (0.814, 0.757, 0.679, 0.714),
    "France": (0.686, 0.754, 0.750, 0.679),
    "Japan": (0.721, 0.814, 0.821, 0.571),
}
SAME_PERSONA = {"united states": "US", "the united states": "US", "america": "US"}


def pool_of(search_set: Task, test_set: Task) -> Task:
    """Both claim sets as one, rules and gold labels too.

    Raises:
      InputError: their options, preambles or templates differ.
    """
    first, second = search_set.claims, test_set.claims
    faults = [
        Fault(
            f"Claims of one pool have the same {name}.",
            f"{getattr(first, name)!r} and {getattr(second, name)!r}",
            name,
            "name claims of the same kind with --claims and --test",
        )
        for name in ("options", "preamble", "template")
        if getattr(first, name) != getattr(second, name)
    ]
    if faults:
        raise InputError(faults)
    # Files may count their consistency groups from the same number on.
    others = [one._replace(consistency_id=f"test {one.consistency_id}") for one in second.claims]
    rules = PairRules(
        np.concatenate([first.rules.pairs, np.asarray(second.rules.pairs) + len(first)]),
        np.concatenate([first.rules.penalties, second.rules.penalties]),
        np.concatenate([first.rules.is_hard, second.rules.is_hard]),
    )
    claims = dataclasses.replace(first, claims=(*first.claims, *others), rules=rules)
    gold = np.concatenate([search_set.gold.labels, test_set.gold.labels])
    return Task(claims, GoldLabels(gold))


def deal(claims: ClaimSet, num_folds: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Claims of each fold, int64 in rising order: whole consistency groups, dealt by turns.

    Raises:
      InputError: there are fewer groups than folds.
    """
    if len(claims.groups) < num_folds:
        rule, remedy = "Every fold has a consistency group.", "ask for fewer folds, or more claims"
        found = f"{len(claims.groups)} groups for {num_folds} folds"
        raise InputError(Fault(rule, found, "--folds", remedy))
    order = rng.permutation(len(claims.groups))
    return [
        np.sort([claim for group in order[fold::num_folds] for claim in claims.groups[group]])
        for fold in range(num_folds)
    ]


def variants_of(algorithm: str, alphas: str | None, seed_labels: str | None) -> dict[str, Any]:
    """The algorithm by what its labels are called, once for every α and number of seeds asked for.

    Raises:
      InputError: the algorithm has no such field, or a value is out of its range.
    """
    base, asked = ALGORITHMS[algorithm], {}
    if alphas is not None:
        asked["alpha"] = [float(text) for text in alphas.split(",")]
    if seed_labels is not None:
        asked["num_seeds"] = [int(text) for text in seed_labels.split(",")]
    signs = {"alpha": "α", "num_seeds": "K"}
    found = {}
    for values in itertools.product(*asked.values()):
        fields = dict(zip(asked, values, strict=True))
        ending = ", ".join(f"{signs[name]} = {value:g}" for name, value in fields.items())
        found[f"found, {ending}" if ending else "found"] = with_fields(base, **fields)
    return found


def find_labels(
    lm: LanguageModel,
    pool: Task,
    folds: Sequence[np.ndarray],
    variants: Mapping[str, Any],
    key: tuple[str, int],
    leave: str,
) -> dict[str, np.ndarray]:
    """Labels of the pool by every variant of the search, int8 `[N]`, each fold for itself."""
    labels = {name: np.full(len(pool.claims), UNLABELLED, np.int8) for name in variants}
    for number, fold in enumerate(folds):
        claims = pool.claims.select(fold)
        rules = claims.rules._replace(is_hard=np.zeros(len(claims.rules.pairs), bool))
        scorer = make_scorer(lm, claims, leave=leave)  # type: ignore[arg-type]  # click has checked
        fold_key = unit_key(f"{key[0]} {number}", key[1])
        for name, algorithm in variants.items():
            labels[name][fold] = search(scorer, rules, algorithm, fold_key).labels
    return labels


def share_violated(labels: np.ndarray, rules: PairRules) -> float:
    """Share of the pairs under a rule whose labels violate it; 0 where there is no pair."""
    return float(count_violations(labels, rules)) / max(1, len(rules.pairs))


def score_shots(
    lm: LanguageModel,
    form: str,
    claims: ClaimSet,
    labels: np.ndarray,
    queries: ClaimSet,
    template: str | None,
) -> np.ndarray:
    """Label log-probs of held-out claims after labelled ones, in one form: float32 `[M, Y]`."""
    if form != "plain":
        return chat_shots(lm, form, claims, labels, queries, template)
    if not len(claims):
        return make_steerer(lm, queries, queries, template)(np.full(len(queries), UNLABELLED))
    return make_steerer(lm, claims, queries, template)(labels)


def run_unit(
    lm: LanguageModel,
    source: Source,
    options: dict[str, Any],
    variants: Mapping[str, Any],
    name: str,
    seed: int,
) -> dict[str, Any]:
    """One persona and seed: metrics by form, labels and number of shots."""
    pool = pool_of(*source.draw(name, seed))
    require_gold(pool, name)
    deal_rng, order_rng, random_rng = (unit_rng(name, seed, purpose) for purpose in range(3))
    folds = deal(pool.claims, options["num_folds"], deal_rng)
    labellings = find_labels(lm, pool, folds, variants, (name, seed), options["leave"])
    labellings["random"] = random_labels(int(random_rng.integers(2**31)), 1, pool.claims)[0]
    labellings["gold"] = pool.gold.labels
    order = order_rng.permutation(len(pool.claims))
    none = {"zero-shot": (pool.gold.labels, 0)}
    shown = none | {
        f"{label_set}, {num} shots": (labels, num)
        for label_set, labels in labellings.items()
        for num in options["shots"]
    }
    conditions: dict[str, Any] = {}
    for form in options["forms"]:
        for condition, (labels, num_shots) in shown.items():
            logp = np.zeros((len(pool.claims), len(pool.claims.options)), np.float32)
            for fold in folds:
                first = order[~np.isin(order, fold)][:num_shots]
                logp[fold] = score_shots(
                    lm,
                    form,
                    pool.claims.select(first),
                    labels[first],
                    pool.claims.select(fold),
                    options["template"],
                )
            conditions[f"{form}: {condition}"] = score_predictions(logp, pool.gold)._asdict()
    return {
        "label_accuracy": {
            label_set: float((labels == pool.gold.labels).mean())
            for label_set, labels in labellings.items()
        },
        "share_broken": {
            label_set: share_violated(labels, pool.claims.rules)
            for label_set, labels in labellings.items()
        },
        "conditions": conditions,
        "folds": [fold.tolist() for fold in folds],
        "labels": {label_set: labels.tolist() for label_set, labels in labellings.items()},
    }


def value_of(condition: str, metric: str = "accuracy") -> Callable[[Unit], float]:
    """A condition's metric in a unit."""
    return lambda unit: unit["conditions"][condition][metric]


def compared(variants: Sequence[str], shots: Sequence[int]) -> list[tuple[str, str]]:
    """The conditions that are compared in each form, as planned.

    The first variant with gold and with random labels, and gold with zero-shot, for every n; the
    other variants with the first one, for the largest n.
    """
    first, *others = variants
    pairs = [
        (f"{one}, {num} shots", f"{base}, {num} shots")
        for one, base in ((first, "gold"), (first, "random"))
        for num in shots
    ]
    pairs += [(f"gold, {num} shots", "zero-shot") for num in shots]
    return pairs + [
        (f"{one}, {max(shots)} shots", f"{first}, {max(shots)} shots") for one in others
    ]


def analyse(units: list[Unit], options: dict[str, Any]) -> dict[str, list[Row]]:
    """Metrics of every condition by form, and what was planned to be compared."""
    size = size_of(units)
    tables = {
        f"{title}, {size}": [
            mean_row(name, units, lambda unit, n=name, m=measure: unit[m][n])
            for name in units[0][measure]
        ]
        for title, measure in (
            ("label accuracy", "label_accuracy"),
            ("share of pairs that contradict themselves", "share_broken"),
        )
    }
    for form, metric in itertools.product(options["forms"], METRICS):
        tables[f"{form}: {metric}, {size}"] = [
            mean_row(name.removeprefix(f"{form}: "), units, value_of(name, metric))
            for name in units[0]["conditions"]
            if name.startswith(f"{form}: ")
        ]
    for form in options["forms"]:
        tables[f"{form}: differences in accuracy, {size}, p by Holm"] = comparison_rows(
            [
                Comparison(
                    f"{first} − {second}",
                    units,
                    value_of(f"{form}: {first}"),
                    value_of(f"{form}: {second}"),
                )
                for first, second in compared(list(options["variants"]), options["shots"])
            ]
        )
    return tables


def anchor_lines(units: list[Unit], options: dict[str, Any]) -> list[str]:
    """What was published of the personas asked here, beside the same numbers of this model."""
    lines, most = [], f"{max(options['shots'])} shots"
    chat = next((form for form in options["forms"] if form != "plain"), None)
    first = next(iter(options["variants"]))
    for persona in dict.fromkeys(unit["key"][0] for unit in units):
        known = SAME_PERSONA.get(persona.lower(), persona)
        if known not in PUBLISHED_ACCURACY:
            continue
        members = [unit for unit in units if unit["key"][0] == persona]
        lines.append(
            _anchor_line(f"{known}, published (70B)", PUBLISHED_NAMES, PUBLISHED_ACCURACY[known])
        )
        for form in options["forms"]:
            asked = {
                "found": f"{form}: {first}, {most}",
                "gold": f"{form}: gold, {most}",
                "chat zero-shot": f"{chat}: zero-shot" if chat else None,
                "base zero-shot": "plain: zero-shot" if "plain" in options["forms"] else None,
            }
            there = {name: condition for name, condition in asked.items() if condition}
            values = [np.mean([value_of(one)(unit) for unit in members]) for one in there.values()]
            lines.append(_anchor_line(f"{known}, here, {form}, {most}", list(there), values))
    return lines


def _anchor_line(title: str, names: Sequence[str], values: Sequence[Any]) -> str:
    pairs = (f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))
    return f"{title}: {', '.join(pairs)}"


def plot(units: list[Unit], options: dict[str, Any], path: pathlib.Path) -> None:
    """Held-out accuracy by number of shots, a panel a form."""
    forms, shots = options["forms"], options["shots"]
    figure = matplotlib.figure.Figure(figsize=(4.4 * len(forms), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(forms), sharey=True))
    for axes, form in zip(panels, forms, strict=True):
        for name in units[0]["label_accuracy"]:
            rows = [
                mean_row("", units, value_of(f"{form}: {condition}"))
                for condition in ("zero-shot", *(f"{name}, {num} shots" for num in shots))
            ]
            axes.errorbar([0, *shots], *bars(rows), marker="o", capsize=3, label=name)
        axes.set(title=form, xlabel="shots", ylabel="held-out accuracy")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def forms_of(asked: str | None, lm: LanguageModel) -> list[str]:
    """The forms asked for, or all that the model has.

    Raises:
      InputError: an unknown form, or one that takes a chat template, which the model has not.
    """
    has_chat = bool(lm.tokenizer.chat_template)
    forms = chosen(asked or ",".join(FORMS if has_chat else FORMS[:1]), FORMS, "--forms")
    if forms != ["plain"] and not has_chat:
        rule, remedy = "A chat form goes through a chat template.", "ask for plain alone"
        raise InputError(Fault(rule, "a tokenizer without one", "--forms", remedy))
    return forms


@experiment(
    Published(
        "--alphas 50,40,70 --seed-labels 8,4 --num-claims 56 --num-test 56",
        958 / 12,
        "16 minutes for 12 units on one CPU core beside other jobs",
    ),
)
@click.option("--model", default="persona-world", show_default=True)
@source_options
@click.option("--shots", default="10,20,40,80", show_default=True, help="Claims shown.")
@click.option(
    "--folds",
    "num_folds",
    default=4,
    show_default=True,
    type=click.IntRange(min=2),
    help="Parts of the pool; each is scored after the others.",
)
@click.option("--forms", help=f"Of {', '.join(FORMS)}; default all that the model has.")
@click.option("--template", help="Of the claims, such as reference; default the model's or data's.")
@click.option("--algorithm", default="icm", show_default=True, type=click.Choice(ALGORITHMS))
@click.option("--alphas", help="Of U, separated by commas; default the algorithm's own.")
@click.option("--seed-labels", help="Numbers of labelled seeds; default the algorithm's own.")
@leave_option
def main(
    model: str,
    out: pathlib.Path,
    cost: Cost,
    source: Source,
    quick: bool,
    shots: str,
    forms: str | None,
    algorithm: str,
    alphas: str | None,
    seed_labels: str | None,
    **options: Any,
) -> None:
    """The command of this file."""
    lm = load_lm(model)
    variants = variants_of(algorithm, alphas, seed_labels)
    options |= {
        "shots": [int(text) for text in ("10,20" if quick else shots).split(",")],
        "forms": forms_of(forms, lm),
        "algorithm": algorithm,
        "variants": {name: repr(variant) for name, variant in variants.items()},
    }
    units = run_units(
        out,
        model_config(lm) | source.config | options,
        source.keys,
        functools.partial(run_unit, lm, source, options, variants),
        source.num_together,
        cost,
    )
    tables = analyse(units, options)
    publish(tables, out)
    for line in anchor_lines(units, options):
        click.echo(line)
    plot(units, options, out / "published_protocol.png")


if __name__ == "__main__":
    main()
