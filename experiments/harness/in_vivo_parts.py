"""The parts of `in_vivo.py`: what is measured of one persona and seed."""

import pathlib
from typing import Any

import jax
import numpy as np

from harness.draws import orders_of, unit_key, unit_rng
from harness.labellers import LABELLERS, Labeller
from harness.readers import Reader
from harness.rules import hard_rules
from harness.together import search
from harness.wordings import Wording, draw_items, read_statements, word
from icmjax.claims import UNLABELLED
from icmjax.feedback import Evidence, choose_claims, implied_labels, uncertainty
from icmjax.persona_world import Task
from icmjax.scoring import mutual_predictability
from icmjax.search import FixedAccuracy, Marginals, SearchResult
from icmjax.steering import auc, calibrate, score_predictions

DOSE_BETAS = {"incoherent errors": -2.0, "coherent errors": 2.0}
DOSE_STEPS = 16  # swaps of a chain
DOSE_ERRORS = 0.25  # of the labels
SELECTORS = ("zero_shot_entropy", "marginal_entropy", "random")
BUDGETS = (2, 4, 8)


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
        self.task, self.held_out = (
            word(draw_items(items, num, unit_rng(persona, seed, split)), wording)
            for split, (items, num) in enumerate(
                (
                    (read_statements(folder / "train" / f"{persona}.jsonl"), options["num_items"]),
                    (read_statements(folder / "test" / f"{persona}.jsonl"), options["num_test"]),
                )
            )
        )
        self.num = len(self.task.claims)
        self.orders = orders_of(self.num, options["num_orders"], unit_rng(persona, seed, 2))
        self.steer = reader.make_steerer(self.task.claims, self.held_out.claims)

    def scores(self, labels: np.ndarray) -> dict[str, float]:
        """Means of the metrics after labels `[N]` or `[S, N]`, in S orders."""
        labels = np.broadcast_to(labels, self.orders.shape)
        return mean_scores(self.steer(labels, self.orders), self.held_out)

    def random_rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this persona and seed."""
        return unit_rng(*self.key, *purpose)


def mean_scores(predictions: np.ndarray, task: Task) -> dict[str, float]:
    """Means of the metrics over predictions `[S, M, 2]`."""
    scores = [score_predictions(logp, task.gold) for logp in predictions]
    return {
        "accuracy": float(np.mean([one.accuracy for one in scores])),
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
        found[name] = mean_scores(held_out[None], bench.held_out) | {
            "label accuracy": score_predictions(own, bench.task.gold).accuracy,
            "share of True": float(own.argmax(-1).mean()),
        }
    return found


def run_gold(bench: Bench) -> dict[str, Any]:
    """Gold labels."""
    return {"gold": bench.scores(bench.task.gold.labels)}


def run_random(bench: Bench) -> dict[str, Any]:
    """Labels that say nothing, half of them true: gold, of half of the items of either label."""
    gold, rules = bench.task.gold.labels, bench.task.claims.rules
    num = len(gold) // (4 if len(rules.pairs) else 2) // (1 if len(rules.pairs) else 2)
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
    rows = np.repeat(gold[None], len(bench.orders), axis=0)
    for row in rows:
        if len(pairs):
            wrong = pairs[rng.choice(len(pairs), num_missed, replace=False)].ravel()
        else:
            wrong = np.concatenate(
                [
                    rng.choice(np.flatnonzero(gold == label), num, replace=False)
                    for label, num in ((1, num_missed), (0, num_false))
                ]
            )
        row[wrong] = 1 - row[wrong]
    return rows


def run_dose(bench: Bench) -> dict[str, Any]:
    """Label sets of one accuracy, of errors driven together, apart, and at random.

    One label in four is wrong, as many true as false ones. A chain swaps wrong labels for others;
    its law is exp(β U) with β from `DOSE_BETAS`.
    """
    claims, gold = bench.task.claims, bench.task.gold.labels
    scorer = bench.reader.make_scorer(claims)
    num_errors = 4 * round(DOSE_ERRORS * len(gold) / 4)
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


def run_feedback(bench: Bench) -> dict[str, Any]:
    """Marginals after the gold labels of K items, chosen by each selector.

    All selectors know what the model says without any answer: its zero-shot label log-probs, its
    marginals, or nothing.
    """
    claims, rules = bench.task.claims, hard_rules(bench.task.claims)
    scorer, gold = bench.reader.make_scorer(claims), bench.task.gold.labels
    search_key, random_key = jax.random.split(unit_key(*bench.key))
    none = np.full(bench.num, UNLABELLED, np.int8)

    def find(clamped: np.ndarray) -> SearchResult:
        return search(scorer, rules, Marginals(), search_key, clamped)

    first = find(none)
    evidence = Evidence(
        zero_shot=np.asarray(scorer(none)),
        leave_one_out=first.label_log_probs,
        marginals=first.marginals,
        expected_gain=None,
    )
    found = {"feedback: K = 0": measured(bench, first.labels, none)}
    for selector in SELECTORS:
        values = uncertainty(selector, evidence, bench.num, random_key)
        for budget in BUDGETS:
            asked = choose_claims(values, claims.group_index, budget)
            answers = none.copy()
            answers[asked] = gold[asked]
            clamped = implied_labels(answers, rules)
            labels = find(clamped).labels
            found[f"feedback: K = {budget}, {selector}"] = measured(bench, labels, clamped)
    return found


def measured(bench: Bench, labels: np.ndarray, clamped: np.ndarray) -> dict[str, float]:
    """Held-out metrics after these labels, and how many of those that nobody gave are right."""
    is_free, is_right = clamped == UNLABELLED, labels == bench.task.gold.labels
    return bench.scores(labels) | {"accuracy of the rest": float(is_right[is_free].mean())}
