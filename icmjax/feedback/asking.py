"""Which claims to ask a person about, each with the reason in words."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.special
from jax import Array

from icmjax.claims import UNLABELLED, Claim, ClaimSet
from icmjax.feedback.evidence import Found, gather
from icmjax.feedback.selectors import Evidence, choose_claims, uncertainty
from icmjax.search import Algorithm, Scorer

# What is known of each way to choose; of those that are not here no more than of random claims.
KNOWN = {
    "zero_shot_entropy": "Chosen are the claims that the model is least sure of before it is shown "
    "anything. Four answers to such claims did more than four to random ones: +.035 [.018, .056] "
    "held-out accuracy (p .005), on rare and unseen groups of the bundled model "
    "(experiments/pages/targeted_feedback.md). On real models no way to choose has been shown to "
    "be better than another.",
    "unbiased_entropy": "Without examples this model says one label of nearly all claims, and the "
    "search took that off. So did this choice: claims that lie nearest to the border between its "
    "two labels. With the habit in, the least sure claims would be those that it least doubts are "
    "of the other label. On real models no difference between the two has been shown "
    "(experiments/pages/real_models.md).",
}


class Question(NamedTuple):
    """One claim to ask a person about."""

    claim_index: int
    claim: Claim
    uncertainty: float  # by the selector
    why: str  # in words


class Questions(NamedTuple):
    """The claims to ask about, the most uncertain first, and how they were chosen."""

    selector: str
    questions: tuple[Question, ...]

    @property
    def about(self) -> str:
        """How they were chosen, and what is known of choosing so."""
        name = self.selector.replace("_", " ")
        return KNOWN.get(
            self.selector,
            f"Chosen by {name}. That this does more than asking about random claims is not shown.",
        )


def ask(
    scorer: Scorer | None,
    claims: ClaimSet,
    budget: int,
    selector: str | None = None,
    *,
    found: Found | None = None,
    algorithm: Algorithm | None = None,
    clamped: np.ndarray | None = None,
    first: Sequence[int] = (),
    without: Sequence[int] = (),
    rng_key: Array | None = None,
) -> Questions:
    """Choose claims to ask a person about: the most uncertain ones, one a consistency group.

    Args:
      scorer: of the claims; None where the selector asks no model.
      claims: the claims.
      budget: how many to ask about.
      selector: one of `icmjax.feedback.SELECTORS`. None is `zero_shot_entropy`, or
        `unbiased_entropy` where the model says one label of nearly all claims and the search took
        that off.
      found: what a search found of the claims; None before any.
      algorithm: of that search.
      clamped: int8 `[N]`, earlier answers, -1 where free; their groups are left out.
      first: claims to ask about before any other, whatever their uncertainty; they count.
      without: claims whose groups are left out too, such as those that nobody could answer.
      rng_key: a typed key, of the selector `random`; None for that of seed 0.

    Raises:
      InputError: the selector is unknown or its evidence cannot be had, the budget is below 1, or
        there are fewer claims and groups to ask about.
      ScoreError: a score is not finite.
    """
    selector, evidence = gather(selector, scorer, claims, found, algorithm, clamped)
    rng_key = jax.random.key(0) if rng_key is None else rng_key
    values = uncertainty(selector, evidence, len(claims), rng_key)
    closed = np.full(len(claims), UNLABELLED, np.int8) if clamped is None else clamped.copy()
    asked = list(first)[: max(budget, 0)]
    if not 1 <= budget <= len(first):
        closed[[*first, *without]] = 0
        asked += choose_claims(values, claims.group_index, budget, closed, len(first)).tolist()
    questions = [
        Question(
            index,
            claims.claims[index],
            float(values[index]),
            " ".join(filter(None, _reasons(selector, index, evidence, values, found, claims))),
        )
        for index in asked
    ]
    return Questions(selector, tuple(questions))


def _reasons(
    selector: str,
    index: int,
    evidence: Evidence,
    values: np.ndarray,
    found: Found | None,
    claims: ClaimSet,
) -> list[str]:
    """Why a claim is asked about, and what the search said of it, a sentence each."""
    value, options = values[index], claims.options
    share = f"{value / np.log(len(options)):.0%} of the uncertainty of an even guess"

    def said(log_probs: np.ndarray | None) -> str:
        assert log_probs is not None
        shares = scipy.special.softmax(np.asarray(log_probs[index], np.float64))
        best = np.argsort(-shares, kind="stable")[:2]
        return ", ".join(f"{options[label]} {shares[label]:.0%}" for label in best)

    if selector == "zero_shot_entropy":
        why = f"Without examples the model says {said(evidence.zero_shot)}: {share}."
    elif selector == "unbiased_entropy":
        why = (
            f"Without examples, less its habit, the model says {said(evidence.unbiased)}: {share}."
        )
    elif selector == "leave_one_out_entropy":
        others = said(evidence.leave_one_out)
        why = f"After the labels of all other claims the model says {others}: {share}."
    elif selector == "margin":
        others = said(evidence.leave_one_out)
        why = f"After the labels of all other claims the model says {others}, its likeliest labels."
    elif selector == "marginal_entropy":
        why = f"The search is unsure of it: {share}."
    elif selector == "expected_gain":
        why = f"An answer is expected to change the utility by {value:+.2f}."
    else:
        why = "It was drawn at random."
    if found is None:
        return [why]
    label = int(found.labels[index])
    probability = f"{found.marginals[index, label]:.0%}"
    return [why, f"The search labelled it {options[label]}, at a probability of {probability}."]
