"""What the selectors read, computed where a model has to be asked, and the selector that fits."""

from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.errors import Fault, InputError
from icmjax.feedback.selectors import READS, Evidence, expected_gain
from icmjax.scoring import FEWEST_READ, checked_scores, less_bias, share_border, without_bias
from icmjax.search import ONE_SIDED, Algorithm, Scorer

NEEDS_MODEL = ("zero_shot", "unbiased", "expected_gain")  # fields of `Evidence`


class Found(Protocol):
    """What a search found of N claims: a `SearchResult`, or a `RunRecord`."""

    @property
    def labels(self) -> np.ndarray:
        """The labels, int8 `[N]`."""
        ...

    @property
    def marginals(self) -> np.ndarray:
        """Probabilities, float32 `[N, Y]`."""
        ...

    @property
    def label_log_probs(self) -> np.ndarray:
        """Of every claim given all other labels, float32 `[N, Y]`, nats."""
        ...


def gather(
    selector: str | None,
    scorer: Scorer | None,
    claims: ClaimSet,
    found: Found | None,
    algorithm: Algorithm | None,
    clamped: np.ndarray | None,
) -> tuple[str, Evidence]:
    """The selector, chosen where it is None, and the evidence that it reads.

    Args:
      scorer: of the claims; None where the selector asks no model.
      found: by the search; None before any.
      algorithm: of that search, which says whether a favoured label was taken off, and what U is.
      clamped: int8 `[N]`, earlier answers, -1 where free.

    Raises:
      InputError: the scorer is not there and needed, or no border can be taken of the claims.
      ScoreError: a score is not finite.
    """
    evidence = Evidence()
    if found is not None:
        evidence = Evidence(leave_one_out=found.label_log_probs, marginals=found.marginals)
    reads = "zero_shot" if selector is None else READS.get(selector)
    if reads not in NEEDS_MODEL:
        return selector or "", evidence
    if scorer is None:
        rule, remedy = "A selector that asks the model has a scorer.", "give one"
        raise InputError(Fault(rule, f"none, {selector}", "scorer", remedy))
    if reads == "expected_gain":
        if found is None or algorithm is None:
            rule, remedy = "Expected gain is over the labels of a search.", "give both"
            raise InputError(Fault(rule, "none, or no algorithm", "found, algorithm", remedy))
        objective: Any = algorithm
        gains = expected_gain(
            scorer,
            found.labels,
            found.label_log_probs,
            claims.rules,
            objective.alpha,
            objective.objective,
            clamped,
        )
        checked = checked_scores(jnp.asarray(gains)[:, None], claims)
        return "expected_gain", evidence._replace(expected_gain=checked[:, 0])
    nothing = jnp.full(len(claims), UNLABELLED, jnp.int8)
    evidence = evidence._replace(zero_shot=checked_scores(scorer(nothing), claims))
    selector = selector or default_selector(evidence, algorithm)
    if selector == "unbiased_entropy":
        evidence = evidence._replace(unbiased=_unbiased(evidence, algorithm))
    return selector, evidence


def default_selector(evidence: Evidence, algorithm: Algorithm | None) -> str:
    """`zero_shot_entropy`, or `unbiased_entropy` of a one-sided model whose search saw to that.

    Where a model says one label of nearly all claims, its zero-shot entropy is highest for those
    that it least doubts are of the other one. A search that took the border between its two labels
    off, and said that the model is one-sided, has its claims chosen less that border too.

    Args:
      evidence: with `zero_shot`.
      algorithm: of the search.
    """
    assert evidence.zero_shot is not None
    num_claims, num_options = evidence.zero_shot.shape
    if num_options != 2 or num_claims < FEWEST_READ or not _takes_off(algorithm):
        return "zero_shot_entropy"
    share = float(np.mean(evidence.zero_shot[:, 1] > evidence.zero_shot[:, 0]))
    return "unbiased_entropy" if max(share, 1 - share) > ONE_SIDED else "zero_shot_entropy"


def _takes_off(algorithm: Algorithm | None) -> bool:
    """Whether a search takes a favoured label off."""
    return getattr(algorithm, "bias", "none") != "none" or _balance(algorithm) is not None


def _balance(algorithm: Algorithm | None) -> float | None:
    return getattr(algorithm, "balance", None)


def _unbiased(evidence: Evidence, algorithm: Algorithm | None) -> np.ndarray:
    """Zero-shot label log-probs less the border between the labels: float32 `[N, 2]`, nats."""
    logp = jnp.asarray(evidence.zero_shot)
    num_claims, num_options = logp.shape
    if num_options != 2 or num_claims < FEWEST_READ:
        rule = f"A border between two labels is taken of {FEWEST_READ} binary claims or more."
        found, remedy = f"{num_claims} claims of {num_options} options", "choose zero_shot_entropy"
        raise InputError(Fault(rule, found, "selector", remedy))
    balance = _balance(algorithm)
    if balance is None:
        return np.asarray(less_bias(logp, "clusters"))
    return np.asarray(without_bias(logp, share_border(logp[:, 1] - logp[:, 0], balance)))
