"""What was read before, and which of it a query sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NO_WINDOW = NEVER = int(jnp.iinfo(jnp.int32).max)


class KeyValues(NamedTuple):
    """Keys, already rotated to their positions, and values of tokens that were read."""

    keys: jax.Array  # [L, B, T, K, head_dim]
    values: jax.Array  # [L, B, T, K, head_dim]


class Tempering(NamedTuple):
    """How attention to a segment of parallel blocks is sharpened (APE, arXiv:2502.05431, 4.3-4.4).

    Scores are divided by the temperature T, and their log-sum-exp, by which the segment is weighed
    against the rest, is multiplied by T and by the scale. At (1, 1) nothing changes.
    """

    temperature: jax.Array  # float32 []
    scale: jax.Array  # float32 []


class Segment(NamedTuple):
    """Tokens already read, that the rows of a later batch of B attend to.

    B' divides B; rows `b * B // B'` to `(b + 1) * B // B' - 1` read segment row b. In the same way
    B'' divides B and is a multiple of B': each row of `is_read` serves consecutive rows.
    """

    key_values: KeyValues  # [L, B', S, K, head_dim]
    positions: jax.Array  # int32 [B', S]
    is_real: jax.Array  # bool [B', S]
    is_read: jax.Array | None = None  # bool [B'', S], what each row may see; None for all
    tempering: Tempering | None = None


class Sight(NamedTuple):
    """Which keys each query may see, as what decides it.

    The mask has as many entries as there are scores of one head, so that in a small model writing
    it down costs as much as the scores: it is made where scores are, chunk by chunk.
    """

    query_order: jax.Array  # int32 [B', B / B' * T]; a key is seen that is not after the query
    key_order: jax.Array  # int32 [B', S]; of padding NEVER
    query_positions: jax.Array  # int32 [B', B / B' * T], for windows
    key_positions: jax.Array  # int32 [B', S], for windows
    is_read: jax.Array | None = None  # bool [B', B'' / B', S], what else limits it; None for all
    limit_row: jax.Array | None = None  # int32 [B', B / B' * T], of `is_read`, for each query
    window: jax.Array | None = None  # int32 [], tokens, the query itself included; None for all

    def mask(self) -> jax.Array:
        """Return whether each query sees each key, bool `[B', B / B' * T, S]`."""
        is_seen = self.key_order[:, None, :] <= self.query_order[:, :, None]
        if self.is_read is not None:
            assert self.limit_row is not None, "what limits queries has a row for each"
            is_seen &= jnp.take_along_axis(self.is_read, self.limit_row[:, :, None], axis=1)
        if self.window is not None:
            distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
            is_seen &= distance < self.window
        return is_seen

    def of(self, queries: slice, keys: slice) -> "Sight":
        """Return the sight of some of the queries to some of the keys."""
        return self._replace(
            query_order=self.query_order[:, queries],
            key_order=self.key_order[:, keys],
            query_positions=self.query_positions[:, queries],
            key_positions=self.key_positions[:, keys],
            is_read=None if self.is_read is None else self.is_read[:, :, keys],
            limit_row=None if self.limit_row is None else self.limit_row[:, queries],
        )


def own_sight(positions: jax.Array, is_real: jax.Array) -> Sight:
    """Return what rows at int32 `[B, T]` see of themselves: all before, by index, but padding."""
    index = jnp.broadcast_to(jnp.arange(positions.shape[1], dtype=jnp.int32), positions.shape)
    return Sight(index, jnp.where(is_real, index, NEVER), positions, positions)


def segment_sight(query_positions: jax.Array, segment: Segment) -> Sight:
    """Return which of a segment's keys the queries at int32 `[B, T]` see."""
    queries = query_positions.reshape(segment.positions.shape[0], -1)
    keys = segment.positions
    seen = Sight(queries, jnp.where(segment.is_real, keys, NEVER), queries, keys)
    if segment.is_read is None:
        return seen
    # Few rows limit many queries: they are spread out chunk by chunk.
    is_read = segment.is_read.reshape(len(keys), -1, keys.shape[1])
    num_queries, num_limits = queries.shape[1], is_read.shape[1]
    limit_row = jnp.arange(num_queries, dtype=jnp.int32) // (num_queries // num_limits)
    return seen._replace(is_read=is_read, limit_row=jnp.broadcast_to(limit_row, queries.shape))
