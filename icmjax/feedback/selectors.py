"""Which claims to ask a human about, and what their answers imply.

A selector turns what is known without the answers into an uncertainty of every claim; the most
uncertain ones are asked about, one a consistency group, and their labels never move again.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from icmjax.arrays import on_device
from icmjax.claims import UNLABELLED, PairRules
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.scoring import Objective, utility
from icmjax.search import Scorer

Selector = Literal[
    "zero_shot_entropy",  # of P(label | claim), before any search
    "unbiased_entropy",  # the same, less what the model says of all claims alike
    "leave_one_out_entropy",  # of P(label | claim, all other labels)
    "marginal_entropy",  # of how often a tempered search had each label
    "margin",  # how close the two most probable labels are, given all other labels
    "expected_gain",  # in U, from an answer and one relabelling after it
    "random",
]
SELECTORS: tuple[str, ...] = get_args(Selector)


class Evidence(NamedTuple):
    """What is known of N claims without asking; None where it was not computed."""

    zero_shot: np.ndarray | None = None  # float32 [N, Y], label log-probs without demonstrations
    unbiased: np.ndarray | None = None  # float32 [N, Y], the same less the border of the two labels
    leave_one_out: np.ndarray | None = None  # float32 [N, Y], label log-probs at the found labels
    marginals: np.ndarray | None = None  # float32 [N, Y], probabilities
    expected_gain: np.ndarray | None = None  # float32 [N], of `expected_gain`


# Which evidence a selector reads.
READS: dict[str, str | None] = {
    "zero_shot_entropy": "zero_shot",
    "unbiased_entropy": "unbiased",
    "leave_one_out_entropy": "leave_one_out",
    "marginal_entropy": "marginals",
    "margin": "leave_one_out",
    "expected_gain": "expected_gain",
    "random": None,
}


def entropy(label_log_probs: np.ndarray) -> np.ndarray:
    """Entropy in nats, `[..., Y]` → `[...]`."""
    return scipy.special.entr(np.exp(np.asarray(label_log_probs, np.float64))).sum(-1)


def uncertainty(
    selector: str, evidence: Evidence, num_claims: int, rng_key: jax.Array
) -> np.ndarray:
    """How much a claim is worth asking about: float64 `[N]`, the highest first.

    Args:
      rng_key: a typed key, of the random selector.

    Raises:
      InputError: an unknown selector, or one whose evidence is not there.
    """
    if selector not in SELECTORS:
        known = ", ".join(SELECTORS)
        raise InputError(
            Fault("A selector is known.", repr(selector), "selector", f"choose one of {known}")
        )
    name = READS[selector]
    if name is None:
        return np.asarray(jax.random.uniform(rng_key, (num_claims,)), np.float64)
    values = getattr(evidence, name)
    if values is None:
        remedy = "compute it, or choose another selector"
        raise InputError(Fault("A selector has its evidence.", "none", name, remedy))
    if selector == "expected_gain":
        return np.asarray(values, np.float64)
    if selector == "margin":
        ordered = np.sort(np.asarray(values, np.float64), axis=-1)
        return ordered[:, -2] - ordered[:, -1]
    with np.errstate(divide="ignore"):
        return entropy(np.log(values) if selector == "marginal_entropy" else values)


def choose_claims(
    uncertainty: np.ndarray,
    groups: np.ndarray,
    budget: int,
    clamped: np.ndarray | None = None,
    num_chosen: int = 0,
) -> np.ndarray:
    """The claims to ask about: the most uncertain ones, one a consistency group.

    The answer to one claim of a group tells much about the others, so that asking two would waste
    an answer. A group with a clamped label is left out. Of equals the earlier claim goes first.

    Args:
      uncertainty: float `[N]`.
      groups: int `[N]`.
      budget: K.
      clamped: int8 `[N]`, -1 where free.
      num_chosen: J, claims of other groups that are asked about already, and count.

    Returns:
      int64 `[K - J]`, the most uncertain first.

    Raises:
      InputError: K is below 1, or there are fewer than K - J groups to ask about.
    """
    is_clamped = np.zeros(len(groups), bool) if clamped is None else np.asarray(clamped) >= 0
    closed = set(np.asarray(groups)[is_clamped].tolist())
    chosen: list[int] = []
    for claim in np.argsort(-np.asarray(uncertainty), kind="stable"):
        if int(groups[claim]) not in closed:
            closed.add(int(groups[claim]))
            chosen.append(int(claim))
    num_all = num_chosen + len(chosen)
    if not 1 <= budget <= num_all:
        remedy = f"choose 1 to {num_all}" if num_all else "ask nothing: all groups have answers"
        open_ones = f"{num_chosen} open ones and " if num_chosen else ""
        raise InputError(
            Fault(
                "There is a consistency group for every question.",
                f"{budget} questions, {open_ones}{len(chosen)} groups without an answer",
                "budget",
                remedy,
            )
        )
    return np.array(chosen[: budget - num_chosen], np.int64)


def implied_labels(answers: np.ndarray, rules: PairRules) -> np.ndarray:
    """The answers, and every label that the pair rules, soft ones too, leave no choice about.

    Args:
      answers: int8 `[N]`, -1 where nobody was asked.

    Returns:
      int8 `[N]`.

    Raises:
      ClaimsError: two answers contradict each other, or leave a claim without a label.
    """
    labels = np.array(answers, np.int8)
    num_options = rules.penalties.shape[-1]
    pairs, is_allowed = np.asarray(rules.pairs), np.asarray(rules.penalties) <= 0
    possible = np.ones((len(labels), num_options), bool)
    known = labels >= 0
    possible[known] = np.arange(num_options) == labels[known, None]
    while True:
        before = possible.copy()
        for (first, second), allowed in zip(pairs, is_allowed, strict=True):
            possible[first] &= (allowed & possible[second]).any(1)
            possible[second] &= (allowed & possible[first][:, None]).any(0)
        impossible = np.flatnonzero(~possible.any(1))
        if len(impossible):
            raise ClaimsError(
                [
                    Fault(
                        "Answers go together under the pair rules.",
                        "no label is left",
                        f"claim {claim}",
                        "correct an answer, or take the rule away",
                    )
                    for claim in impossible
                ]
            )
        if (possible == before).all():
            break
    is_implied = possible.sum(1) == 1
    return np.where(is_implied, possible.argmax(1), UNLABELLED).astype(np.int8)


def expected_gain(
    scorer: Scorer,
    labels: np.ndarray,
    label_log_probs: np.ndarray,
    rules: PairRules,
    alpha: float = 50.0,
    objective: Objective = "log_prob",
    clamped: np.ndarray | None = None,
) -> np.ndarray:
    """What asking about each claim is expected to add to U: float32 `[N]`.

    For each other label y of claim i, with probability p_i(y) given all other labels: the answer y
    and what it implies are set, every free claim is relabelled by its most probable label given
    that, and U is compared with what it was. The answer that confirms a label adds nothing. Two
    passes for each of the N (Y − 1) answers; one that earlier answers rule out is none.

    Args:
      labels: int8 `[N]`, all set.
      label_log_probs: float32 `[N, Y]`, at those labels.
      clamped: int8 `[N]`, earlier answers, -1 where free.
    """
    num_claims, num_options = np.shape(label_log_probs)
    rules = jax.tree.map(np.asarray, rules)
    earlier = np.full(num_claims, UNLABELLED, np.int8) if clamped is None else np.asarray(clamped)
    earlier = implied_labels(earlier, rules)
    answers = {
        (claim, option): _with_answer(earlier, claim, option, rules)
        for claim in np.flatnonzero(earlier < 0).tolist()
        for option in range(num_options)
        if option != labels[claim]
    }
    known = {change: labels for change, labels in answers.items() if labels is not None}
    gains = np.zeros(num_claims, np.float32)
    if not known:
        return gains
    changes, fixed = list(known), np.stack(list(known.values()))
    answered = np.where(fixed >= 0, fixed, labels).astype(np.int8)
    device_rules = on_device(rules)
    logp = np.asarray(scorer(jnp.asarray(answered)))
    relabelled = np.where(fixed >= 0, fixed, logp.argmax(-1)).astype(np.int8)
    both = jnp.asarray(np.concatenate([relabelled, np.asarray(labels, np.int8)[None]]))
    utilities = np.asarray(utility(scorer(both), both, device_rules, alpha, objective))
    for (claim, option), reached in zip(changes, utilities[:-1], strict=True):
        share = np.exp(label_log_probs[claim, option])
        gains[claim] += share * (reached - utilities[-1])
    return gains


def _with_answer(
    earlier: np.ndarray, claim: int, option: int, rules: PairRules
) -> np.ndarray | None:
    """What an answer implies, int8 `[N]`; None where the rules and earlier answers forbid it."""
    answers = earlier.copy()
    answers[claim] = option
    try:
        return implied_labels(answers, rules)
    except ClaimsError:
        return None
