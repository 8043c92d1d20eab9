"""The utility U(D) of a labelling, from label log-probs, labels and pair rules."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from icmjax.claims import PairRules, count_violations

Objective = Literal["log_prob", "log_odds"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


def label_log_odds(logp: Array) -> Array:
    """Log-odds of every label option against all the others together, in nats.

    With two options the log-odds of the second is log P(True) − log P(False).

    Args:
      logp: float32 `[..., Y]`, label log-probs.

    Returns:
      float32 `[..., Y]`.
    """
    is_same = jnp.eye(logp.shape[-1], dtype=bool)
    rest = jnp.where(is_same, -jnp.inf, logp[..., None, :])
    return logp - jax.nn.logsumexp(rest, axis=-1)


def claim_scores(logp: Array, objective: Objective) -> Array:
    """What mutual predictability averages: the score of every claim for every label, in nats.

    Args:
      logp: float32 `[..., Y]`, label log-probs.
      objective: see `mutual_predictability`.

    Returns:
      float32 `[..., Y]`.

    Raises:
      ValueError: there is no such objective.
    """
    match objective:
        case "log_prob":
            return logp
        case "log_odds":
            return label_log_odds(logp)
    raise ValueError(f"objective must be one of {OBJECTIVES}, found {objective!r}")


def mutual_predictability(logp: Array, labels: Array, objective: Objective = "log_prob") -> Array:
    """Mean score, over the labelled claims, of their own label given all the other labelled claims.

    A mean and not a sum: a sum over a growing set would punish every new label.

    Args:
      logp: float32 `[..., N, Y]`, label log-probs in nats.
      labels: int8 `[..., N]`, `UNLABELLED` (-1) where there is no label yet.
      objective: "log_prob", the label log-prob (Wen et al., arXiv:2506.10139, equation 1), or
        "log_odds", the log-odds of the own label against the rest, which its reference code has.

    Returns:
      float32 `[...]` in nats; 0 where no claim is labelled.
    """
    scores = claim_scores(logp, objective)
    is_labelled = labels >= 0
    index = jnp.where(is_labelled, labels, 0).astype(jnp.int32)[..., None]
    own = jnp.take_along_axis(scores, index, axis=-1)[..., 0]
    num_labelled = jnp.sum(is_labelled, axis=-1, dtype=jnp.float32)
    return jnp.sum(jnp.where(is_labelled, own, 0.0), axis=-1) / jnp.maximum(num_labelled, 1.0)


def utility(
    logp: Array,
    labels: Array,
    rules: PairRules,
    alpha: float = 50.0,
    objective: Objective = "log_prob",
) -> Array:
    """Utility U = alpha · mutual predictability − number of violated pairs (arXiv:2506.10139).

    Args:
      logp: float32 `[..., N, Y]`, label log-probs in nats.
      labels: int8 `[..., N]`, `UNLABELLED` (-1) where there is no label yet.
      rules: the pair rules; a pair with an unlabelled claim is not violated.
      alpha: weight of the mutual predictability.
      objective: see `mutual_predictability`.

    Returns:
      float32 `[...]`.
    """
    coherence = mutual_predictability(logp, labels, objective)
    return alpha * coherence - count_violations(labels, rules)
