"""What a model says of all claims alike: the log-odds at which its labels change over.

A language model that favours one label says it of nearly every claim, and ranks the claims well
all the same. Batch calibration (Zhou et al., arXiv:2309.17249) takes the mean off, which takes for
granted that half of the claims are true. Prototypical calibration (Han et al., arXiv:2205.10183)
looks for two clusters instead, of whatever sizes. The clusters here are Otsu's (1979): the border
that leaves the least variance within its two sides.
"""

import jax
import jax.numpy as jnp
from jax import Array


def cluster_border(log_odds: Array) -> Array:
    """The border between the two clusters of log-odds with the least variance inside them.

    Halfway between the two sides. Log-odds that are all the same are their own border.

    Args:
      log_odds: float32 `[..., N]`, nats.

    Returns:
      float32 `[...]`, nats.
    """
    num_claims = log_odds.shape[-1]
    ordered = jnp.sort(log_odds, axis=-1)
    num_below = jnp.arange(1, num_claims, dtype=ordered.dtype)
    below = jnp.cumsum(ordered, axis=-1)[..., :-1]
    above = jnp.sum(ordered, axis=-1, keepdims=True) - below
    difference = above / (num_claims - num_below) - below / num_below
    between = num_below * (num_claims - num_below) * difference**2
    split = jnp.argmax(between, axis=-1)[..., None]
    ends = [jnp.take_along_axis(ordered, split + side, axis=-1)[..., 0] for side in (0, 1)]
    return (ends[0] + ends[1]) / 2


def share_border(log_odds: Array, share: float) -> Array:
    """The border above which that share of the log-odds lies.

    Args:
      log_odds: float32 `[..., N]`, nats.
      share: of claims that are true, from 0 to 1.

    Returns:
      float32 `[...]`, nats.
    """
    return jnp.quantile(log_odds, 1 - share, axis=-1)


def without_bias(label_log_probs: Array, border: Array) -> Array:
    """Label log-probs of binary claims whose log-odds have the border taken off.

    Args:
      label_log_probs: float32 `[..., N, 2]`, nats.
      border: float32 `[...]`, nats.

    Returns:
      float32 `[..., N, 2]`, nats, normalised.
    """
    log_odds = label_log_probs[..., 1] - label_log_probs[..., 0] - border[..., None]
    return jax.nn.log_sigmoid(jnp.stack([-log_odds, log_odds], axis=-1))
