"""Prompts built on device from tokenised claims, so that labels stay traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.prompts import TokenizedClaims


def shown_lengths(claims: TokenizedClaims, labels: Any, xp: Any = jnp) -> Any:
    """Tokens of each claim as a demonstration, 0 where it is unlabelled.

    Args:
      labels: int8 `[..., N]`.
      xp: `jax.numpy`, or `numpy` on the host.

    Returns:
      int32 `[..., N]`.
    """
    known = xp.maximum(labels, 0).astype(np.int32)[..., None]
    lengths = xp.asarray(claims.demonstration_lengths)
    lengths = xp.broadcast_to(lengths, (*labels.shape, lengths.shape[1]))
    return xp.where(labels >= 0, xp.take_along_axis(lengths, known, axis=-1)[..., 0], 0)


def longest_lengths(claims: TokenizedClaims) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each claim with its longest label, and of each query, int32 `[N]`; on the host."""
    demonstrations = np.asarray(claims.demonstration_lengths)
    return demonstrations.max(axis=1), np.asarray(claims.query_lengths)


def build_context(
    claims: TokenizedClaims, labels: jax.Array, is_shown: jax.Array, order: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
    """The preamble and the shown claims with their labels, closed up.

    Args:
      labels: int8 `[N]`.
      is_shown: bool `[N]`; unlabelled claims are never shown.
      order: int32 `[N]`, a permutation: the claims in the order in which they are read.
      width: at least the context's length.

    Returns:
      tokens int32 `[width]`, padded on the right with 0, and the number of real ones, int32 `[]`.
    """
    preamble = jnp.asarray(claims.preamble)
    lengths = jnp.where(is_shown, shown_lengths(claims, labels), 0)[order]
    ends = preamble.shape[0] + jnp.cumsum(lengths, dtype=jnp.int32)
    column = jnp.arange(width, dtype=jnp.int32)
    piece = jnp.minimum(jnp.searchsorted(ends, column, side="right"), labels.shape[0] - 1)
    claim = order[piece]
    label = jnp.maximum(labels, 0).astype(jnp.int32)[claim]
    tokens = jnp.asarray(claims.demonstrations)[claim, label, column - (ends - lengths)[piece]]
    num_tokens = ends[-1]
    tokens = jnp.where(column < num_tokens, tokens, 0)
    if preamble.shape[0]:
        opening = preamble.at[column].get(mode="clip")
        tokens = jnp.where(column < preamble.shape[0], opening, tokens)
    return tokens, num_tokens


def add_query(
    claims: TokenizedClaims, tokens: jax.Array, num_tokens: jax.Array, query: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A context with a claim's text after it; arguments and results as of `build_context`."""
    column = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    text = jnp.asarray(claims.queries)[query]
    end = num_tokens + jnp.asarray(claims.query_lengths)[query]
    text = text.at[column - num_tokens].get(mode="clip")
    tokens = jnp.where(column < num_tokens, tokens, jnp.where(column < end, text, 0))
    return tokens, end
