"""Which claims to ask a person about, each with the reason in words."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.special
from jax import Array

from icmjax.claims import UNLABELLED, Claim, ClaimSet
from icmjax.feedback.evidence import Found, gather
from icmjax.feedback.selectors import Evidence, choose_claims, entropy, uncertainty
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
    "(experiments/pages/real_answers.md).",
}


# Who or what doubts a claim, by selector: `{}` says how much.
DOUBTS = {
    "zero_shot_entropy": "Before it is shown any example, the model is {} here.",
    "unbiased_entropy": "Before it is shown any example, and with its habit of saying one label "
    "taken off, the model is {} here.",
    "leave_one_out_entropy": "Shown the labels of all other claims, the model is {} here.",
    "margin": "Shown the labels of all other claims, the model is {} here.",
    "marginal_entropy": "Over all that it read, the search is {} here.",
}
# By the entropy's share of an even guess's; of two labels these are .68, .85 and .95 for one.
DEGREES = ((0.9, "nearly undecided"), (0.6, "unsure"), (0.3, "fairly sure"), (0.0, "sure"))
LEAST_GAIN = 0.005  # of the utility, which is told to two digits


class Question(NamedTuple):
    """One claim to ask a person about."""

    claim_index: int
    claim: Claim
    uncertainty: float  # by the selector
    why: str  # in words
    measure: str  # the number behind these words; "" for none
    said: str  # of the claim by model and search; it would sway whoever reads it before answering


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
            *_reason(selector, float(values[index]), len(claims.options)),
            _said(selector, index, evidence, found, claims.options),
        )
        for index in asked
    ]
    return Questions(selector, tuple(questions))


def _reason(selector: str, value: float, num_options: int) -> tuple[str, str]:
    """Why a claim is asked about in words, and the number behind them; no label is named."""
    if selector == "expected_gain":
        why = "An answer here is expected to raise what the search maximises."
        if value < LEAST_GAIN:
            why = "No gain is expected of an answer here, nor more of one that is not asked for."
        return why, f"Expected gain of the utility: {value:+.2f}."
    if selector not in DOUBTS:
        return "It was drawn at random.", ""
    if selector == "margin":
        # The value is the gap of two log-probs, of which alone the share is a coin's.
        share = float(entropy(np.array([value, 0.0]) - np.logaddexp(value, 0.0)) / np.log(2))
        measure = f"Its two likeliest labels are {abs(value):.2f} nats apart."
    else:
        share = value / np.log(num_options)
        measure = f"Doubt: {share:.0%}, where 100% is an even guess."
    degree = next((name for least, name in DEGREES if share >= least), DEGREES[-1][1])
    return DOUBTS[selector].format(degree), measure


def _said(
    selector: str, index: int, evidence: Evidence, found: Found | None, options: Sequence[str]
) -> str:
    """What the model and the search said of a claim; "" where nothing is known."""
    sources = {
        "zero_shot_entropy": ("Without examples", evidence.zero_shot),
        "unbiased_entropy": ("Without examples, less its habit,", evidence.unbiased),
        "leave_one_out_entropy": ("Shown all other labels", evidence.leave_one_out),
        "margin": ("Shown all other labels", evidence.leave_one_out),
    }
    when, log_probs = sources.get(selector, ("", None))
    texts = []
    if log_probs is not None:
        shares = scipy.special.softmax(np.asarray(log_probs[index], np.float64))
        best = np.argsort(-shares, kind="stable")[:2]
        said = ", ".join(f"{options[label]} {shares[label]:.0%}" for label in best)
        texts.append(f"{when} the model says {said}.")
    if found is not None:
        label = int(found.labels[index])
        probability = f"{found.marginals[index, label]:.0%}"
        texts.append(f"The search labelled it {options[label]}, at a probability of {probability}.")
    return " ".join(texts)
