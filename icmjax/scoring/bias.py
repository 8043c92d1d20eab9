"""What a model says of all claims alike: the log-odds at which its labels change over.

A language model that favours one label says it of nearly every claim, and ranks the claims well
all the same. Batch calibration (Zhou et al., arXiv:2309.17249) takes the mean off, which takes for
granted that half of the claims are true. Prototypical calibration (Han et al., arXiv:2205.10183)
looks for two clusters instead, of whatever sizes. The clusters here are Otsu's (1979): the border
that leaves the least variance within its two sides.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

Bias = Literal["clusters", "none"]
BIASES: tuple[str, ...] = get_args(Bias)
FEWEST_READ = 8  # claims of which a border is taken: of fewer it would be what these claims say


def less_bias(label_log_probs: Array, bias: Bias) -> Array:
    """Label log-probs less the border between the two clusters, where that is asked for.

    Args:
      label_log_probs: float32 `[..., N, Y]`, nats; of other than two options, and of fewer claims
        than `FEWEST_READ`, they stay as they are.
      bias: "clusters" or "none".

    Returns:
      float32 `[..., N, Y]`, nats.
    """
    num_claims, num_options = label_log_probs.shape[-2:]
    if bias == "none" or num_options != 2 or num_claims < FEWEST_READ:
        return label_log_probs
    log_odds = label_log_probs[..., 1] - label_log_probs[..., 0]
    return without_bias(label_log_probs, cluster_border(log_odds))


def cluster_border(log_odds: Array, is_read: Array | None = None) -> Array:
    """The border between the two clusters of log-odds with the least variance inside them.

    Halfway between the two sides. Log-odds that are all the same are their own border.

    Args:
      log_odds: float32 `[..., N]`, nats.
      is_read: bool `[..., N]`, the claims that count, one at least; None for all.

    Returns:
      float32 `[...]`, nats.
    """
    if log_odds.shape[-1] == 1:
        return log_odds[..., 0]
    is_read = jnp.ones_like(log_odds, bool) if is_read is None else is_read
    num_read = jnp.sum(is_read, axis=-1, keepdims=True, dtype=log_odds.dtype)
    ordered = jnp.sort(jnp.where(is_read, log_odds, jnp.inf), axis=-1)
    column = jnp.arange(log_odds.shape[-1], dtype=log_odds.dtype)
    ordered = jnp.where(column < num_read, ordered, 0.0)
    num_below = column[:-1] + 1
    num_above = jnp.maximum(num_read - num_below, 1.0)
    below = jnp.cumsum(ordered, axis=-1)[..., :-1]
    above = jnp.sum(ordered, axis=-1, keepdims=True) - below
    between = num_below * num_above * (above / num_above - below / num_below) ** 2
    is_split = num_below < num_read
    split = jnp.argmax(jnp.where(is_split, between, -1.0), axis=-1)[..., None]
    ends = [
        jnp.take_along_axis(ordered, split + side, axis=-1)[..., 0]
        for side in (0, jnp.any(is_split, axis=-1, keepdims=True).astype(split.dtype))
    ]
    return (ends[0] + ends[1]) / 2


def share_border(log_odds: Array, share: float, is_read: Array | None = None) -> Array:
    """The border above which that share of the log-odds lies.

    Args:
      log_odds: float32 `[..., N]`, nats.
      share: of claims that are true, from 0 to 1.
      is_read: bool `[..., N]`, the claims that count, one at least; None for all.

    Returns:
      float32 `[...]`, nats.
    """
    is_read = jnp.ones_like(log_odds, bool) if is_read is None else is_read
    return jnp.nanquantile(jnp.where(is_read, log_odds, jnp.nan), 1 - share, axis=-1)


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
