"""Attention of a batch of rows to themselves and to segments that were read before."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from icmjax.lm.config import Platform
from icmjax.lm.segments import NEVER, KeyValues, Sight, Tempering

# Finite, so that a row with every key masked gives no NaN; halved, so that a difference of two
# scores does not overflow.
MASKED = float(jnp.finfo(jnp.float32).min) / 2
# Rows attend to themselves in at most MAX_BLOCKS blocks, of at least MIN_BLOCK queries each.
MIN_BLOCK, MAX_BLOCKS = 64, 4
ScoreFn = Callable[[jax.Array], jax.Array]


class Tiles(NamedTuple):
    """In what parts attention goes, so that it stays within a device's memory, or its caches."""

    # Scores in memory at a time, all rows and heads together: on a CPU so few that they stay in its
    # cache (at 8 heads and 2,000 keys 3 times as fast as at once).
    chunk_scores: int
    # Keys of a long segment that are read at a time; 0 for all. On a CPU the few queries of a chunk
    # that sees 8,000 keys make matmuls half as fast as those of more queries and fewer keys.
    block_keys: int


TILES: dict[Platform, Tiles] = {
    "cpu": Tiles(1 << 20, 2048),
    "gpu": Tiles(1 << 26, 0),
    "tpu": Tiles(1 << 26, 0),
}


class Part(NamedTuple):
    """The attention to one set of keys, before it is merged with the attention to others."""

    highest: jax.Array  # float32 [B, T, H, 1], the highest score; MASKED where no key is seen
    total: jax.Array  # float32 [B, T, H, 1], sum of exp(score - highest)
    weighted: jax.Array  # float32 [B, T, H, head_dim], values weighted by exp(score - highest)


class PartKernel(Protocol):
    """Attention to one set of keys by other means than `attend_part`."""

    def does(self, sight: Sight) -> bool:
        """Whether it can do what is seen so."""
        ...

    def attend_part(self, queries: jax.Array, read: KeyValues, sight: Sight) -> Part:
        """Return the part of these keys; shapes as in `attend_part`."""
        ...


def soft_cap(values: jax.Array, cap: float | None) -> jax.Array:
    """Bound values smoothly by the cap (Gemma 2, arXiv:2408.00118); None bounds nothing."""
    return values if cap is None else cap * jnp.tanh(values / cap)


def attend(
    queries: jax.Array,
    read: Sequence[KeyValues],
    sights: Sequence[Sight],
    score_fn: ScoreFn,
    temperings: Sequence[Tempering | None] | None = None,
    kernel: PartKernel | None = None,
    is_whole: bool = True,
    tiles: Tiles = TILES["cpu"],
) -> jax.Array:
    """Return the attention `[B, T, H, head_dim]` of rows to themselves and to segments.

    Args:
        queries: `[B, T, H, head_dim]`.
        read: One layer's keys and values, without the [L]: first the rows' own, then segments'.
        sights: For each of them which keys are seen.
        score_fn: Turns float32 products of queries and keys into scores.
        temperings: Of the segments, where there are any.
        kernel: Does the parts that it can, where given, and that have no tempering.
        is_whole: Whether the queries are all tokens of their rows, so that none sees a key that
            stands after it there.
        tiles: Of the platform that it is compiled for.
    """
    rest = (None,) * (len(read) - 1) if temperings is None else temperings

    def attend_heads(queries: jax.Array, read: Sequence[KeyValues]) -> jax.Array:
        own_fn = attend_within if is_whole else attend_part
        parts = [own_fn(queries, *read[0], sights[0], score_fn, tiles=tiles)]
        for past, sight, tempering in zip(read[1:], sights[1:], rest, strict=True):
            parts.append(attend_part(queries, *past, sight, score_fn, tempering, tiles))
        return merge(parts).astype(queries.dtype)

    if kernel is None:
        return _by_heads(attend_heads, queries, read, tiles)
    parts = [
        attend_part(queries, *past, sight, score_fn, tempering, tiles)
        if tempering is not None or not kernel.does(sight)
        else kernel.attend_part(queries, past, sight)
        for past, sight, tempering in zip(read, sights, (None, *rest), strict=True)
    ]
    return merge(parts).astype(queries.dtype)


def _by_heads(
    attend_heads: Callable[[jax.Array, Sequence[KeyValues]], jax.Array],
    queries: jax.Array,
    read: Sequence[KeyValues],
    tiles: Tiles,
) -> jax.Array:
    """Attend for as many heads at a time as have their scores in one chunk, or else for one.

    A head's parts stay in a CPU's cache until they are merged, and its keys are prepared for a
    matmul once for many queries; the few queries of a chunk of all heads would do so again.
    """
    batch, length, num_heads, head_dim = queries.shape
    num_kv_heads = read[0].keys.shape[2]
    most_keys = max(past.keys.shape[1] for past in read)
    per_head = max(1, batch * length * num_heads // num_kv_heads * most_keys)
    heads = _largest_divisor(num_kv_heads, tiles.chunk_scores // per_head)

    def split(array: jax.Array) -> jax.Array:
        """`[B, T, H, d]` → `[groups, B, T, H / groups, d]`."""
        num_groups = num_kv_heads // heads
        shape = (*array.shape[:2], num_groups, array.shape[2] // num_groups, head_dim)
        return jnp.moveaxis(array.reshape(shape), 2, 0)

    split_read = [KeyValues(split(past.keys), split(past.values)) for past in read]
    mixed = _map(lambda group: attend_heads(*group), (split(queries), split_read))
    return jnp.moveaxis(mixed, 0, 2).reshape(queries.shape)


def attend_within(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    sight: Sight,
    score_fn: ScoreFn,
    tiles: Tiles = TILES["cpu"],
) -> Part:
    """Return the attention of rows to themselves, to be merged.

    Shapes are as in `attend_part`; no key is seen by an earlier query. Queries go in blocks that
    read no key after the block: half the work of a full square.
    """
    length = queries.shape[1]
    size = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    blocks = []
    for start in range(0, length, size):
        block, past = slice(start, start + size), slice(0, start + size)
        seen = keys[:, past], values[:, past], sight.of(block, past)
        blocks.append(attend_part(queries[:, block], *seen, score_fn, tiles=tiles))
    return Part(*(jnp.concatenate(each, axis=1) for each in zip(*blocks, strict=True)))


def attend_part(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    sight: Sight,
    score_fn: ScoreFn,
    tempering: Tempering | None = None,
    tiles: Tiles = TILES["cpu"],
) -> Part:
    """Return the attention of queries `[B, T, H, head_dim]` to one set of keys, to be merged.

    `keys` and `values` are `[B', S, K, head_dim]` where B' divides B and S may be 0: their row b
    serves B / B' consecutive query rows, without being copied. K divides H (grouped queries,
    Ainslie et al., arXiv:2305.13245). Softmax is in float32.
    """
    batch, length, num_heads, head_dim = queries.shape
    assert batch % keys.shape[0] == 0, f"a segment of batch {keys.shape[0]} cannot serve {batch}"
    rows = queries.reshape(keys.shape[0], -1, num_heads, head_dim)
    if tempering is not None:
        temperature = tempering.temperature
        plain_fn, score_fn = score_fn, lambda products: plain_fn(products) / temperature
    keys, values = _heads_first(keys), _heads_first(values)
    blocks = _in_blocks(rows, keys, values, sight, score_fn, tiles)
    part = Part(*(each.reshape(batch, length, *each.shape[2:]) for each in blocks))
    return part if tempering is None else _temper(part, tempering)


def _in_blocks(
    rows: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    sight: Sight,
    score_fn: ScoreFn,
    tiles: Tiles,
) -> Part:
    """The part of rows `[B', R, H, d]`, of keys and values `[B', K, S, d]` in blocks of them."""
    num_keys = keys.shape[2]
    num_blocks = -(-num_keys // (tiles.block_keys or max(1, num_keys)))
    if num_blocks <= 1:
        return _attend_keys(rows, keys, values, sight, score_fn, tiles)
    size = -(-num_keys // num_blocks)

    def split(array: jax.Array, axis: int, fill: int = 0) -> jax.Array:
        amounts = [(0, 0)] * array.ndim
        amounts[axis] = (0, size * num_blocks - num_keys)
        padded = jnp.pad(array, amounts, constant_values=fill)
        blocks = padded.reshape(*array.shape[:axis], num_blocks, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(blocks, axis, 0)

    def add_block(part: Part, block: tuple) -> tuple[Part, None]:
        keys, values, key_order, key_positions, is_read = block
        seen = sight._replace(key_order=key_order, key_positions=key_positions, is_read=is_read)
        return combine((part, _attend_keys(rows, keys, values, seen, score_fn, tiles))), None

    blocks = (
        split(keys, 2),
        split(values, 2),
        split(sight.key_order, 1, NEVER),
        split(sight.key_positions, 1),
        None if sight.is_read is None else split(sight.is_read, 2),
    )
    statistic = jnp.zeros((*rows.shape[:3], 1), jnp.float32)
    nothing = Part(statistic + MASKED, statistic, jnp.zeros(rows.shape, jnp.float32))
    return jax.lax.scan(add_block, nothing, blocks)[0]


def _attend_keys(
    rows: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    sight: Sight,
    score_fn: ScoreFn,
    tiles: Tiles,
) -> Part:
    """The part of rows `[B', R, H, d]`, of keys and values `[B', K, S, d]`."""

    def attend_rows(
        queries: jax.Array, sight: Sight, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, ...]:
        scores = _scores(queries, keys, sight.mask(), score_fn)
        highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=MASKED))
        # Less 0 where no key is seen, so that a masked score has weight 0 there too.
        weights = jnp.exp(scores - jnp.where(highest > MASKED, highest, 0.0))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        return highest, total, _mix(weights, values)

    return Part(*_in_chunks(attend_rows, rows, sight, keys, values, tiles))


def _in_chunks(
    attend_rows: Callable[..., tuple[jax.Array, ...]],
    rows: jax.Array,
    sight: Sight,
    keys: jax.Array,
    values: jax.Array,
    tiles: Tiles,
) -> tuple[jax.Array, ...]:
    """Attend in chunks: whole rows B', or where one of these has too many scores some queries.

    Args:
        attend_rows: Turns queries `[b, K, t, G, d]`, their sight, and keys and values
            `[b, K, S, d]` into statistics `[b, K, t, G, ...]`.
        rows: `[B', R, H, d]`.
        sight: Theirs.
        keys, values: `[B', K, S, d]`.

    Returns:
        The statistics, `[B', R, H, ...]`.
    """
    (batch, length, num_heads, head_dim), num_kv_heads = rows.shape, keys.shape[1]
    per_row = max(1, length * num_heads * keys.shape[2])
    num_rows = _largest_divisor(batch, tiles.chunk_scores // per_row)
    num_batches, num_parts = batch // num_rows, -(-per_row // tiles.chunk_scores)
    size = -(-length // num_parts)

    def in_parts(array: jax.Array) -> jax.Array:
        """`[B', R, ...]` → `[batches, parts, rows, size, ...]`, padded."""
        amounts = [(0, 0), (0, size * num_parts - length)] + [(0, 0)] * (array.ndim - 2)
        shape = (num_batches, num_rows, num_parts, size, *array.shape[2:])
        return jnp.pad(array, amounts).reshape(shape).swapaxes(1, 2)

    def in_batches(array: jax.Array) -> jax.Array:
        """`[B', ...]` → `[batches, rows, ...]`."""
        return array.reshape(num_batches, num_rows, *array.shape[1:])

    def join(statistic: jax.Array) -> jax.Array:
        """`[batches, parts, rows, K, size, G, ...]` → `[B', R, H, ...]`."""
        whole = jnp.moveaxis(statistic, (2, 1, 4, 3), (1, 2, 3, 4))
        return whole.reshape(batch, num_parts * size, num_heads, *statistic.shape[6:])[:, :length]

    def attend_batch(batch: tuple) -> tuple[jax.Array, ...]:
        parts, (key_order, key_positions, is_read), read = batch

        def attend_queries(part: tuple) -> tuple[jax.Array, ...]:
            queries, (query_order, query_positions, limit_row) = part
            orders = (query_order, key_order, query_positions, key_positions)
            return attend_rows(queries, Sight(*orders, is_read, limit_row, sight.window), *read)

        return _map(attend_queries, parts)

    queries = in_parts(rows.reshape(batch, length, num_kv_heads, -1, head_dim))
    of_queries = (sight.query_order, sight.query_positions, sight.limit_row)
    of_keys = (sight.key_order, sight.key_positions, sight.is_read)
    batches = (
        (jnp.moveaxis(queries, 4, 3), jax.tree.map(in_parts, of_queries)),
        *jax.tree.map(in_batches, (of_keys, (keys, values))),
    )
    return jax.tree.map(join, _map(attend_batch, batches))


def _map(function: Callable, inputs: tuple) -> Any:
    """`jax.lax.map`, without a loop where there is one element."""
    if len(jax.tree.leaves(inputs)[0]) > 1:
        return jax.lax.map(function, inputs)
    return jax.tree.map(
        lambda each: each[None], function(jax.tree.map(lambda each: each[0], inputs))
    )


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor that is not above the limit, and 1 where that is below 1."""
    return max(
        size for size in range(1, number + 1) if number % size == 0 and size <= max(1, limit)
    )


def _temper(part: Part, tempering: Tempering) -> Part:
    """Weigh a part of divided scores by its log-sum-exp times temperature and scale."""
    is_any = part.total > 0
    total = jnp.where(is_any, part.total, 1.0)
    log_weight = tempering.scale * tempering.temperature * (part.highest + jnp.log(total))
    return Part(
        highest=jnp.where(is_any, log_weight, MASKED),
        total=is_any.astype(jnp.float32),
        weighted=part.weighted / total,
    )


def merge(parts: Sequence[Part]) -> jax.Array:
    """Return the attention `[B, T, H, head_dim]`, float32, to the keys of all parts together.

    A query that sees no key in any part gets zeros (Dao et al., arXiv:2205.14135, section 3.1).
    """
    whole = combine(parts)
    return whole.weighted / jnp.where(whole.total > 0, whole.total, 1.0)


def combine(parts: Sequence[Part]) -> Part:
    """Return the part of the keys of all parts together."""
    highest = jnp.stack([part.highest for part in parts]).max(axis=0)
    shares = [jnp.exp(part.highest - highest) for part in parts]
    total = sum(
        (share * part.total for share, part in zip(shares, parts, strict=True)),
        start=jnp.zeros_like(highest),
    )
    weighted = sum(
        (share * part.weighted for share, part in zip(shares, parts, strict=True)),
        start=jnp.zeros_like(parts[0].weighted),
    )
    return Part(highest, total, weighted)


def _heads_first(heads: jax.Array) -> jax.Array:
    """Turn `[B, S, K, d]` into `[B, K, S, d]`."""
    return heads.transpose(0, 2, 1, 3)


def _scores(
    queries: jax.Array, keys: jax.Array, is_seen: jax.Array, score_fn: ScoreFn
) -> jax.Array:
    """Return masked scores, float32 `[B, K, T, G, S]`, of `[B, K, T, G, d]` and `[B, K, S, d]`."""
    batch, num_kv_heads, length, group, size = queries.shape
    flat = queries.reshape(batch, num_kv_heads, length * group, size)
    products = jnp.einsum("bktd,bksd->bkts", flat, keys, preferred_element_type=jnp.float32)
    scores = score_fn(products.reshape(*queries.shape[:-1], keys.shape[2]))
    return jnp.where(is_seen[:, None, :, None], scores, MASKED)


def _mix(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Return values `[B, K, S, d]` weighted by `[B, K, T, G, S]`, float32 `[B, K, T, G, d]`."""
    batch, num_kv_heads, length, group, size = weights.shape
    flat = weights.reshape(batch, num_kv_heads, length * group, size).astype(values.dtype)
    mixed = jnp.einsum("bkts,bksd->bktd", flat, values, preferred_element_type=jnp.float32)
    return mixed.reshape(*weights.shape[:-1], values.shape[-1])
