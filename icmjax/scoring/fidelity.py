"""How far an approximate scorer is from an exact one, in all that a search asks of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from icmjax.arrays import on_device
from icmjax.claims import PairRules
from icmjax.scoring.objectives import Objective, utility


class Fidelity(NamedTuple):
    """An approximate scorer against an exact one, over B labellings and their flips."""

    argmax_agreement: float  # share of claims with the same most probable label
    rank_correlation: float  # Spearman's, of the label log-probs of all claims and options
    log_prob_error: float  # nats, root mean square over label log-probs
    utility_error: float  # root mean square of the difference of U over the labellings
    flip_error: float  # root mean square of the difference of ΔU over the flips
    flip_rank_correlation: float  # Spearman's, of ΔU over the flips
    flip_sign_agreement: float  # share of flips of which both say that U rises, or both not
    num_labellings: int
    num_flips: int

    def __str__(self) -> str:
        return (
            f"argmax agreement {self.argmax_agreement:.3f}, rank correlation "
            f"{self.rank_correlation:.3f}; rms error of log-probs {self.log_prob_error:.3g} nats, "
            f"of U {self.utility_error:.3g}, of ΔU {self.flip_error:.3g} (rank correlation "
            f"{self.flip_rank_correlation:.3f}, same sign {self.flip_sign_agreement:.3f}) over "
            f"{self.num_labellings} labellings and {self.num_flips} flips"
        )


def measure_fidelity(
    approximate: Callable[[jax.Array], jax.Array],
    exact: Callable[[jax.Array], jax.Array],
    labels: np.ndarray,
    rules: PairRules,
    rng_key: jax.Array,
    num_flips: int = 16,
    alpha: float = 50.0,
    objective: Objective = "log_prob",
) -> Fidelity:
    """Compare two scorers of the same N claims.

    Args:
      approximate: a scorer.
      exact: the scorer that it stands in for.
      labels: int8 `[B, N]`, labellings such as a search meets.
      rules: the pair rules of U.
      rng_key: draws the flips.
      num_flips: for each labelling so many single claims get another label, or a first one.
      alpha: weight of mutual predictability in U.
      objective: what mutual predictability averages.
    """
    labels = np.atleast_2d(np.asarray(labels, np.int8))
    rules = on_device(rules)
    is_flipped = _flips(rng_key, labels, num_flips, approximate(labels[0]).shape[-1])
    states = jnp.asarray(np.concatenate([labels[:, None], is_flipped], axis=1))
    logp, utilities = [], []
    for scorer in (approximate, exact):
        scores = scorer(states)  # [B, 1 + flips, N, Y]
        logp.append(np.asarray(scores[:, 0], np.float64))
        values = utility(scores, states, rules, alpha, objective)
        utilities.append(np.asarray(values, np.float64))
    gains = [each[:, 1:] - each[:, :1] for each in utilities]
    return Fidelity(
        argmax_agreement=float((logp[0].argmax(-1) == logp[1].argmax(-1)).mean()),
        rank_correlation=_rank_correlation(*logp),
        log_prob_error=_rms(logp[0] - logp[1]),
        utility_error=_rms(utilities[0][:, 0] - utilities[1][:, 0]),
        flip_error=_rms(gains[0] - gains[1]),
        flip_rank_correlation=_rank_correlation(*gains),
        flip_sign_agreement=float(((gains[0] > 0) == (gains[1] > 0)).mean()),
        num_labellings=len(labels),
        num_flips=gains[0].size,
    )


def _flips(rng_key: jax.Array, labels: np.ndarray, num_flips: int, num_options: int) -> np.ndarray:
    """Labellings with one claim's label changed: int8 `[B, num_flips, N]`."""
    claim_key, step_key, first_key = jax.random.split(rng_key, 3)
    shape = (len(labels), num_flips)
    claims = np.asarray(jax.random.randint(claim_key, shape, 0, labels.shape[1]))
    steps = np.asarray(jax.random.randint(step_key, shape, 1, num_options))
    first = np.asarray(jax.random.randint(first_key, shape, 0, num_options))
    flipped = np.repeat(labels[:, None], num_flips, axis=1)
    known = np.take_along_axis(labels, claims, axis=1).astype(np.int32)
    new = np.where(known < 0, first, (known + steps) % num_options)
    np.put_along_axis(flipped, claims[..., None], new[..., None].astype(np.int8), axis=2)
    return flipped


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(scipy.stats.spearmanr(first.ravel(), second.ravel()).statistic)
