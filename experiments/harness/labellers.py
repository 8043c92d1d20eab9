"""Ways to find labels without gold: each reads a unit's claims, and says what it makes of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harness.readers import Reader
from harness.rules import hard_rules
from harness.together import search
from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.errors import Fault, InputError
from icmjax.lm import LanguageModel
from icmjax.persona_world import Source as Poll
from icmjax.persona_world import text
from icmjax.scoring import (
    AnchoredScorer,
    confident_labels,
    contrast_features,
    make_contrast_scorer,
    make_scorer,
    make_unbiased_scorer,
    principal_probe,
)
from icmjax.search import (
    ICM,
    Bootstrap,
    Gibbs,
    Marginals,
    ParallelTempering,
    Scorer,
    SearchResult,
    assignment_scores,
    best_assignment,
    labels_of,
    make_units,
    with_fields,
)

ALPHA = 50.0  # of U
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)  # of conditionals, of which the one without overcount is taken
NUM_ORDERS = 8  # of a joint likelihood


class Found(NamedTuple):
    """Labels of N claims, and how sure the method is."""

    labels: np.ndarray  # int8 [N]
    marginals: np.ndarray  # float32 [N, Y]
    num_tokens: int


class Labeller:
    """One unit's claims, their reader and their random numbers; some labels may be given."""

    def __init__(
        self,
        reader: Reader,
        claims: ClaimSet,
        rng_key: jax.Array,
        clamped: np.ndarray | None = None,
    ):
        self.reader, self.claims, self.rng_key, self.clamped = reader, claims, rng_key, clamped
        self.rules, self.scorer = hard_rules(claims), reader.make_scorer(claims)

    def search(
        self, algorithm: Any, scorer: Scorer | None = None, clamped: np.ndarray | None = None
    ) -> SearchResult:
        """What an algorithm finds under hard rules."""
        scorer = self.scorer if scorer is None else scorer
        clamped = self.clamped if clamped is None else clamped
        return search(scorer, self.rules, algorithm, self.rng_key, clamped)

    def find(self, algorithm: Any, scorer: Scorer | None = None) -> Found:
        """The labels of an algorithm."""
        result = self.search(algorithm, scorer)
        return Found(result.labels, result.marginals, int(result.tokens.sum()))

    def tokens_of_a_pass(self) -> int:
        """Tokens of one pass over all claims, each given all others."""
        return self.scorer.tokens_per_pass(np.zeros(len(self.claims), np.int8))


def joint_posterior(unit: Labeller) -> Found:
    """The joint likelihood by the chain rule, sampled as it stands (Qiu et al., arXiv:2601.13566).

    U is ALPHA times a mean over N claims, so a temperature of ALPHA / N makes exp(U / T) the joint
    likelihood, averaged as a log over the orders.
    """
    temperature = ALPHA / len(unit.claims)
    algorithm = with_fields(
        ParallelTempering(),
        alpha=ALPHA,
        temperature=temperature,
        hot_temperature=4 * temperature,
    )
    result = unit.search(algorithm, unit.reader.make_joint_scorer(unit.claims, NUM_ORDERS))
    labels = result.marginals.argmax(axis=1).astype(np.int8)
    return Found(labels, result.marginals, int(result.tokens.sum()))


def joint_best(unit: Labeller) -> Found:
    """The labels of the highest joint likelihood."""
    return unit.find(ParallelTempering(), unit.reader.make_joint_scorer(unit.claims, NUM_ORDERS))


def without_overcount(unit: Labeller) -> Found:
    """Conditionals tempered until what a claim's own label loses is what the marginals leave open.

    Leave-one-out predictions that count the same agreement many times are surer than samples of
    them are of one another. Of TEMPERATURES the one is taken at which the leave-one-out log-loss of
    the labels found is nearest to the entropy of the marginals; no gold is needed.
    """
    results = [unit.search(Gibbs(num_iterations=32, temperature=t)) for t in TEMPERATURES]

    def excess(result: SearchResult) -> float:
        own = np.take_along_axis(result.label_log_probs, result.labels[:, None].astype(int), 1)
        return abs(-float(own.mean()) - float(entropy(result.marginals).mean()))

    best = min(results, key=excess)
    labels = best.marginals.argmax(axis=1).astype(np.int8)
    return Found(labels, best.marginals, sum(int(result.tokens.sum()) for result in results))


def contrast(unit: Labeller) -> Found:
    """Marginals of scores less those of the same claims without the group's name."""
    unnamed = dataclasses.replace(unit.claims, preamble=text.header(Poll.NATIONAL, None))
    scorer = make_contrast_scorer(unit.scorer, unit.reader.make_scorer(unnamed))
    return unit.find(Marginals(), scorer)


def cross_validated(unit: Labeller) -> Found:
    """Each half labelled so that it predicts the model's own surest labels of the other half.

    The surer half, by zero-shot, keeps those labels; the other half is searched for labels that
    predict them.
    """
    zero_shot = np.asarray(unit.scorer(np.full(len(unit.claims), UNLABELLED, np.int8)))
    start = unit.search(Marginals(num_iterations=2, bias="none"))
    anchors = confident_labels(zero_shot, 0.5, unit.claims.group_index)
    anchors = np.where(anchors == UNLABELLED, UNLABELLED, start.labels).astype(np.int8)
    result = unit.search(ParallelTempering(), AnchoredScorer(unit.scorer, anchors), anchors)
    tokens = int(start.tokens.sum()) + int(result.tokens.sum())
    return Found(result.labels, result.marginals, tokens)


def agreement(unit: Labeller) -> Found:
    """Bootstrapped labels shown in NUM_ORDERS orders, and a vote of what the model then says.

    A claim's marginal is the share of orders that say so, one vote being cast for either label.

    Raises:
      InputError: the reader is an observer, to whom orders are all the same.
    """
    lm = require_lm(unit, "agreement")
    start = unit.search(Bootstrap())
    scorer = make_scorer(lm, unit.claims, "tree", leave="group", num_orders=NUM_ORDERS)
    scores = np.asarray(scorer.by_order(start.labels))  # [K, N, Y]
    within = np.stack([read_within_rules(unit, logp) for logp in scores])
    share = (within.sum(axis=0) + 1) / (NUM_ORDERS + 2)
    marginals = np.stack([1 - share, share], axis=-1).astype(np.float32)
    tokens = int(start.tokens.sum()) + scorer.tokens_per_pass(start.labels)
    return Found(read_within_rules(unit, np.log(marginals)), marginals, tokens)


def read_within_rules(unit: Labeller, label_log_probs: np.ndarray) -> np.ndarray:
    """The most probable labels within the pair rules: float32 `[N, Y]` → int8 `[N]`."""
    none = np.full(len(unit.claims), UNLABELLED, np.int8)
    units = make_units(unit.rules, none, 2)
    scores = assignment_scores(units, jnp.asarray(label_log_probs), 1.0)
    return np.asarray(labels_of(units, best_assignment(scores), len(none)))


def require_lm(unit: Labeller, method: str) -> LanguageModel:
    """The model that reads the unit.

    Raises:
      InputError: an observer reads it.
    """
    if unit.reader.lm is None:
        rule, remedy = "This method asks a language model.", f"leave the method {method} out"
        raise InputError(Fault(rule, unit.reader.name, "--model", remedy))
    return unit.reader.lm


def probe(unit: Labeller) -> Found:
    """The first principal component of hidden states, one deviation of it worth one nat.

    Raises:
      InputError: the reader is an observer, who has no hidden states.
    """
    lm = require_lm(unit, "probe")
    none = np.full(len(unit.claims), UNLABELLED, np.int8)
    zero_shot = np.asarray(unit.scorer(none))
    features = contrast_features(lm, unit.claims)
    score = principal_probe(features, zero_shot[:, 1] - zero_shot[:, 0])
    score = score / max(float(score.std()), 1e-9)
    logp = -np.logaddexp(0, np.stack([score, -score], axis=-1)).astype(np.float32)
    labels = read_within_rules(unit, logp)
    return Found(labels, np.exp(logp), 3 * unit.scorer.tokens_per_pass(none))


def unbiased(algorithm: Any) -> Callable[[Labeller], Found]:
    """The labels of an algorithm, the label that the model favours taken off in every pass."""
    return lambda unit: unit.find(algorithm, make_unbiased_scorer(unit.scorer))


def entropy(marginals: np.ndarray) -> np.ndarray:
    """Entropy of each row of probabilities, nats: `[..., Y]` → `[...]`."""
    p = np.clip(np.asarray(marginals, np.float64), 1e-12, 1)
    return -(p * np.log(p)).sum(axis=-1)


def of(algorithm: Any) -> Callable[[Labeller], Found]:
    """The labels of one algorithm."""
    return lambda unit: unit.find(algorithm)


LABELLERS: dict[str, Callable[[Labeller], Found]] = {
    "zero-shot": of(Marginals(num_iterations=2, bias="none")),
    "calibrated": of(Marginals(num_iterations=2)),
    "marginals": of(Marginals()),
    "marginals with bias": of(Marginals(bias="none")),
    "bootstrap": of(Bootstrap()),
    "votes": of(Gibbs()),
    "without overcount": without_overcount,
    "contrast": contrast,
    "cross-validated": cross_validated,
    "agreement": agreement,
    "joint posterior": joint_posterior,
    "joint best": joint_best,
    "probe": probe,
    "icm": of(ICM()),
    "tempering": of(ParallelTempering()),
    "bootstrap without bias": of(Bootstrap(bias="clusters")),
    "icm without bias": unbiased(ICM()),
    "tempering without bias": unbiased(ParallelTempering()),
}
NOT_GIVEN = ("probe", "cross-validated", "agreement")  # that heed no labels that are given
# The same method at more and more tokens: contexts of 1 ×, 3 ×, 10 × and 30 × the default.
BUDGETS = {f"marginals × {k}": of(Marginals(num_iterations=2 + 16 * k)) for k in (3, 10, 30)}
# And with contexts of more claims and of fewer; half of the claims is the most there is.
SHOTS = {f"marginals of {k} shots": of(Marginals(num_shots=k)) for k in (2, 8, 16)}
