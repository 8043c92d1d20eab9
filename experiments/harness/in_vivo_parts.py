"""The parts of `in_vivo.py`: what is measured of one persona and seed."""

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.draws import matched_flips, orders_of, unit_key, unit_rng
from harness.labellers import LABELLERS, Labeller, entropy
from harness.readers import Reader
from harness.rules import hard_rules
from harness.together import search
from harness.wordings import Item, Wording, draw_items, read_statements, word
from icmjax.claims import UNLABELLED
from icmjax.errors import Fault, InputError
from icmjax.feedback import choose_claims, implied_labels
from icmjax.lm import LanguageModel
from icmjax.persona_world import Task
from icmjax.scoring import less_bias, mutual_predictability
from icmjax.search import ICM, Bootstrap, FixedAccuracy, Marginals, ParallelTempering
from icmjax.steering import auc, calibrate, generate, score_predictions

DOSE_BETAS = {"incoherent errors": -2.0, "coherent errors": 2.0}
DOSE_STEPS = 8  # swaps of a chain
DOSE_ERRORS = 0.25  # of the labels
SELECTORS = ("zero-shot entropy", "the same without bias", "random")
FEEDBACK_SEARCHES = {"marginals": Marginals(), "bootstrapping": Bootstrap(bias="clusters")}
BUDGETS = (2, 4, 8)
NUM_SAMPLED, TEMPERATURE, NEW_TOKENS = 8, 0.7, 40  # of open answers
NUM_JUDGED = 32  # held-out items that the judge has read


def constants(wording: Wording) -> dict[str, str]:
    """What units depend on besides the options of the command, as text of their configuration."""
    example = [Item("persona", "Who", "", (f"text {label}",), label) for label in (0, 1)]
    claims = word(example, wording).claims
    return {
        "searches": repr((Marginals(), Bootstrap(), ICM(), ParallelTempering())),
        "searches after answers": repr(FEEDBACK_SEARCHES),
        "selectors": f"{SELECTORS} of {BUDGETS} answers",
        "dose": f"{DOSE_BETAS}, {DOSE_STEPS} steps, {DOSE_ERRORS:g} wrong",
        "open": f"{NUM_SAMPLED} at {TEMPERATURE:g}, {NUM_JUDGED} judged, {NEW_TOKENS} tokens",
        "worded": f"{claims.preamble} {claims.claims[0].choice}",
    }


class Bench:
    """The claims of one persona and seed, and what reads them."""

    def __init__(
        self,
        reader: Reader,
        data: pathlib.Path,
        wording: Wording,
        options: dict[str, Any],
        persona: str,
        seed: int,
    ):
        self.reader, self.options, self.key = reader, options, (persona, seed)
        folder = data / "anthropic_personas"
        self.items, test_items = (
            draw_items(read_statements(folder / split / f"{persona}.jsonl"), num, rng)
            for split, num, rng in (
                ("train", options["num_items"], unit_rng(persona, seed, 0)),
                ("test", options["num_test"], unit_rng(persona, seed, 1)),
            )
        )
        self.wording = wording
        self.task, self.held_out = word(self.items, wording), word(test_items, wording)
        self.num = len(self.task.claims)
        self.orders = orders_of(self.num, options["num_orders"], unit_rng(persona, seed, 2))
        self.steer = reader.make_steerer(self.task.claims, self.held_out.claims)

    def scores(self, labels: np.ndarray) -> dict[str, float]:
        """Means of the metrics after labels `[N]` or `[S, N]`, in S orders."""
        labels = np.broadcast_to(labels, self.orders.shape)
        return mean_metrics(self.steer(labels, self.orders), self.held_out)

    def random_rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this persona and seed."""
        return unit_rng(*self.key, *purpose)


def mean_metrics(predictions: np.ndarray, task: Task) -> dict[str, float]:
    """Means of the metrics over predictions `[S, M, 2]`."""
    scores = [score_predictions(logp, task.gold) for logp in predictions]
    unbiased = [calibrate(logp, task.claims.rules) for logp in predictions]
    return {
        "accuracy": float(np.mean([one.accuracy for one in scores])),
        "calibrated accuracy": float(
            np.mean([score_predictions(logp, task.gold).accuracy for logp in unbiased])
        ),
        "AUC": float(np.mean([auc(logp, task.gold) for logp in predictions])),
        "log-loss": float(np.mean([one.log_loss for one in scores])),
    }


def run_zero_shot(bench: Bench) -> dict[str, Any]:
    """No demonstrations, as the model says it and without its bias; of the search claims too."""
    none, found = np.full(bench.num, UNLABELLED, np.int8), {}
    steer_search = bench.reader.make_steerer(bench.task.claims, bench.task.claims)
    for name, calibrate_fn in (("zero-shot", lambda logp, rules: logp), ("calibrated", calibrate)):
        held_out, own = (
            calibrate_fn(steer(none), task.claims.rules)
            for steer, task in ((bench.steer, bench.held_out), (steer_search, bench.task))
        )
        found[name] = mean_metrics(held_out[None], bench.held_out) | {
            "label accuracy": score_predictions(own, bench.task.gold).accuracy,
            "share of True": float(own.argmax(-1).mean()),
        }
    return found


def run_gold(bench: Bench) -> dict[str, Any]:
    """Gold labels."""
    return {"gold": bench.scores(bench.task.gold.labels)}


def run_random(bench: Bench) -> dict[str, Any]:
    """Labels that say nothing: gold, with half of the items of either label turned round."""
    gold = bench.task.gold.labels
    num = len(gold) // 4  # of either label, or of the pairs
    labels = with_errors(bench, num, num, bench.random_rng(3))
    return {"random labels": bench.scores(labels)}


def run_found(bench: Bench, method: str) -> dict[str, Any]:
    """A method's labels, and random errors of as many."""
    gold = bench.task.gold.labels
    unit = Labeller(bench.reader, bench.task.claims, unit_key(*bench.key))
    found = LABELLERS[method](unit)
    num_false = int(((found.labels == 1) & (gold == 0)).sum())
    num_missed = int(((found.labels == 0) & (gold == 1)).sum())
    if len(bench.task.claims.rules.pairs):
        num_false = num_missed = int((found.labels != gold).sum()) // 2
    matched = with_errors(bench, num_missed, num_false, bench.random_rng(4))
    return {
        method: bench.scores(found.labels)
        | {
            "label accuracy": float((found.labels == gold).mean()),
            "share of True": float((found.labels == 1).mean()),
            "tokens": found.num_tokens,
            "labels": found.labels.tolist(),
            "marginals": np.round(found.marginals[:, 1].astype(float), 4).tolist(),
        },
        f"errors as of {method}": bench.scores(matched),
    }


def with_errors(
    bench: Bench, num_missed: int, num_false: int, rng: np.random.Generator
) -> np.ndarray:
    """Gold labels with so many true items called False and false ones True: int8 `[S, N]`.

    Of claims in pairs, so many whole pairs are turned round.
    """
    gold, pairs = bench.task.gold.labels, np.asarray(bench.task.claims.rules.pairs)
    if len(pairs):
        return matched_flips(rng, gold, pairs, num_missed, len(bench.orders))
    rows = np.repeat(gold[None], len(bench.orders), axis=0)
    for row in rows:
        for label, num in ((1, num_missed), (0, num_false)):
            row[rng.choice(np.flatnonzero(gold == label), num, replace=False)] = 1 - label
    return rows


def run_dose(bench: Bench) -> dict[str, Any]:
    """Label sets of one accuracy, of errors driven together, apart, and at random.

    One label in four is wrong, as many true as false ones. A chain swaps wrong labels for others,
    by `DOSE_STEPS` moves towards the law exp(β U) with β from `DOSE_BETAS`.
    """
    claims, gold = bench.task.claims, bench.task.gold.labels
    scorer = bench.reader.make_scorer(claims)
    num_errors = 2 * round(DOSE_ERRORS * len(gold) / 2)
    chains = FixedAccuracy(
        target=gold,
        num_errors=num_errors,
        inverse_temperatures=tuple(DOSE_BETAS.values()),
        num_iterations=DOSE_STEPS,
        exchanges=False,
    )
    trace = search(scorer, hard_rules(claims), chains, unit_key(*bench.key)).trace
    sets = dict(zip(DOSE_BETAS, trace.labels[-1], strict=True))
    sets["random errors"] = with_errors(
        bench, num_errors // 2, num_errors // 2, bench.random_rng(5)
    )
    found = {}
    for name, labels in sets.items():
        first = np.reshape(labels, (-1, len(gold)))[0]
        coherence = float(mutual_predictability(scorer(first), first))
        found[name] = bench.scores(labels) | {"mutual predictability": coherence}
    return found


def run_feedback(bench: Bench, name: str) -> dict[str, Any]:
    """Labels that a search of this name finds after the gold labels of K items, held fast.

    Where a model favours one label, its zero-shot entropy is highest for the claims that it least
    doubts are of the other one. So the items are chosen by the entropy without that bias too.

    Raises:
      InputError: no item would be left without an answer.
    """
    if max(BUDGETS) >= len(bench.task.claims.groups):
        rule, found = (
            "Some items stay without an answer.",
            f"{len(bench.task.claims.groups)} to ask",
        )
        raise InputError(Fault(rule, found, "--num-items", f"make it more than {max(BUDGETS)}"))
    claims, rules = bench.task.claims, hard_rules(bench.task.claims)
    scorer, gold = bench.reader.make_scorer(claims), bench.task.gold.labels
    search_key, random_key = jax.random.split(unit_key(*bench.key))
    none = np.full(bench.num, UNLABELLED, np.int8)
    zero_shot = jnp.asarray(scorer(none))
    uncertain = {
        "zero-shot entropy": entropy(np.exp(np.asarray(zero_shot))),
        "the same without bias": entropy(np.exp(np.asarray(less_bias(zero_shot, "clusters")))),
        "random": np.asarray(jax.random.uniform(random_key, (bench.num,))),
    }
    algorithm = FEEDBACK_SEARCHES[name]
    first = search(scorer, rules, algorithm, search_key).labels
    found = {f"feedback, {name}: K = 0": measured(bench, first, none)}
    for selector, budget in itertools.product(SELECTORS, BUDGETS):
        asked = choose_claims(uncertain[selector], claims.group_index, budget)
        answers = none.copy()
        answers[asked] = gold[asked]
        clamped = implied_labels(answers, rules)
        result = search(scorer, rules, algorithm, search_key, clamped)
        key = f"feedback, {name}: K = {budget}, {selector}"
        found[key] = measured(bench, result.labels, clamped)
        if "log_prob_of_given" in result.diagnostics:
            found[key] |= result.diagnostics["log_prob_of_given"]
    return found


def run_open(bench: Bench) -> dict[str, Any]:
    """What the model says for the persona, judged by itself after gold labels of held-out items.

    Shown are the claims that a label set calls True, of the search items; then one more claim
    begins, and its statement is the model's own: one greedy, and `NUM_SAMPLED` sampled. The judge
    has read `NUM_JUDGED` held-out items with their gold labels; what counts is its log P(True).
    "copies" says how many of the texts are one of the statements shown, word for word.

    Raises:
      InputError: a claim of the wording is not one statement.
    """
    if bench.wording.rule != "none":
        rule, remedy = "Open answers go on with one statement a claim.", "choose such a wording"
        raise InputError(Fault(rule, "claims in pairs", "--wording", remedy))
    lm, claims = require_lm(bench), bench.task.claims
    found = LABELLERS["marginals"](Labeller(bench.reader, claims, unit_key(*bench.key)))
    random = with_errors(bench, *[bench.num // 4] * 2, bench.random_rng(6))[0]
    labellings = {
        "zero-shot": np.full(bench.num, UNLABELLED, np.int8),
        "random labels": random,
        "marginals": found.labels,
        "gold": bench.task.gold.labels,
    }
    judged = np.arange(min(NUM_JUDGED, len(bench.held_out.claims)))
    shown, gold = bench.held_out.claims.select(judged), bench.held_out.gold.labels[judged]
    key, results = jax.random.fold_in(unit_key(*bench.key), 1), {}
    for name, labels in labellings.items():
        before, begin = opening(bench, labels)
        shown_texts = {item.texts[0] for item, y in zip(bench.items, labels, strict=True) if y == 1}
        texts = generate(lm, [before], [begin], max_new_tokens=NEW_TOKENS, stop='"')
        texts += generate(
            lm,
            [before],
            [begin] * NUM_SAMPLED,
            rng_key=key,
            temperature=TEMPERATURE,
            max_new_tokens=NEW_TOKENS,
            stop='"',
        )
        said = [text.strip() for text in texts]
        items = [bench.items[0]._replace(texts=(text,), label=1) for text in said if text]
        # A claim set is of two or more, so that one that was not said goes along.
        claims_said = word([*items, *bench.items[:2]], bench.wording).claims
        logp = bench.reader.make_steerer(shown, claims_said)(gold)[: len(items), 1]
        results[f"open: {name}"] = {
            "greedy": float(logp[0]) if said[0] else None,
            "sampled": float(logp[bool(said[0]) :].mean()) if any(said[1:]) else None,
            "texts": said,
            "copies": sum(text in shown_texts for text in said),
        }
    return results


def opening(bench: Bench, labels: np.ndarray) -> tuple[str, str]:
    """The claims that are called True, a line each, and the beginning of one more."""
    begin, _, _ = bench.task.claims.claims[0].choice.partition(bench.items[0].texts[0])
    shown = [
        claim.choice
        for claim, label in zip(bench.task.claims.claims, labels, strict=True)
        if label == 1
    ]
    return "\n".join([bench.task.claims.preamble, *shown]).strip() + "\n", begin


def require_lm(bench: Bench) -> LanguageModel:
    """The model; every part of this file is of one."""
    assert bench.reader.lm is not None, "load_reader gave a model"
    return bench.reader.lm


def measured(bench: Bench, labels: np.ndarray, clamped: np.ndarray) -> dict[str, float]:
    """Held-out metrics after these labels, and how many of those that nobody gave are right."""
    is_free, is_right = clamped == UNLABELLED, labels == bench.task.gold.labels
    return bench.scores(labels) | {"accuracy of the rest": float(is_right[is_free].mean())}
