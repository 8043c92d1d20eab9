"""Attention to one set of keys by a kernel of our own, whose scores never leave the chip.

Flash attention (Dao et al., arXiv:2205.14135) that decides in the kernel which keys a query sees,
from the few integers of a `Sight`: no mask is written down, rows share their keys, windows and caps
are as the einsum has them, and the highest score and the total stay float32. The step over a block
of keys is one function. On a TPU the grid goes over blocks and carries the sums in scratch memory;
on a GPU, whose grid has no order, the kernel loops over them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton
from jax.sharding import Mesh, PartitionSpec

from icmjax.lm.attention import MASKED, Part, soft_cap
from icmjax.lm.config import MODEL_AXIS, Platform
from icmjax.lm.segments import NEVER, NO_WINDOW, KeyValues, Sight

LANES = 128  # of a TPU's registers
ORDER, POSITION = 0, 1  # rows of what decides a sight


class Blocks(NamedTuple):
    """How many queries and keys are multiplied at a time, and to what sizes are padded."""

    most_queries: int
    most_keys: int
    unit: int  # that blocks are multiples of; where 0 they are powers of 2, as are head sizes

    def size(self, number: int, most: int) -> int:
        """The size of as few blocks as hold so many, with little padding."""
        if self.unit == 0:
            return min(most, max(16, pl.next_power_of_2(number)))
        each = -(-number // -(-number // most))
        return -(-each // self.unit) * self.unit

    def sizes(self, num_queries: int, num_keys: int, num_bytes: int) -> tuple[int, int]:
        """How many queries and keys are a block, of so many bytes each."""
        most_queries, most_keys = self.most_queries, self.most_keys
        if self.unit == 0:
            most_queries = max(16, min(most_queries, QUERY_BYTES // num_bytes))
            most_keys = max(16, min(most_keys, KEY_BYTES // (4 * num_bytes)))
        return self.size(num_queries, most_queries), self.size(num_keys, most_keys)

    def head_dim(self, head_dim: int) -> int:
        """The head size in the kernel."""
        return head_dim if self.unit else pl.next_power_of_2(head_dim)


# What a GPU's shared memory is asked for: two blocks of keys and values at a time, and the queries.
KEY_BYTES, QUERY_BYTES = 1 << 16, 1 << 15
BLOCKS: dict[Platform, Blocks] = {
    "tpu": Blocks(512, 512, LANES),
    "gpu": Blocks(128, 64, 0),
    "cpu": Blocks(512, 512, LANES),  # as on a TPU, interpreted
}


class Sums(NamedTuple):
    """What is carried over blocks of keys, of a block of queries."""

    highest: jax.Array  # float32 [queries, 1]
    total: jax.Array  # float32 [queries, 1]
    weighted: jax.Array  # float32 [queries, head_dim]


class FlashKernel(NamedTuple):
    """How scores come of products, and for which platform the kernel is."""

    scale: float
    cap: float | None
    platform: Platform
    mesh: Mesh | None = None  # whose devices along "model" have heads of their own
    is_interpreted: bool = False  # run as plain operations, wherever it is

    def does(self, sight: Sight) -> bool:
        """Whether it can: no rows of keys that some queries see and others do not."""
        return sight.is_read is None

    def attend_part(self, queries: jax.Array, read: KeyValues, sight: Sight) -> Part:
        """Return attention to one set of keys, to be merged; shapes as in `attention.attend_part`.

        Scores, softmax and sums are float32; products take the dtype of the queries.
        """
        # Inside of a `shard_map` over other axes the mesh is that one's, and what is left of it.
        around = jax.sharding.get_abstract_mesh()
        mesh = self.mesh if around.empty else around
        if mesh is None:
            return self._attend_part(queries, read, sight)
        of_heads = PartitionSpec(None, None, MODEL_AXIS)
        return jax.shard_map(
            self._attend_part,
            mesh=mesh,
            in_specs=(of_heads, of_heads, PartitionSpec()),
            out_specs=of_heads,
            axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
            check_vma=False,
        )(queries, read, sight)

    def _attend_part(self, queries: jax.Array, read: KeyValues, sight: Sight) -> Part:
        batch, length, num_heads, head_dim = queries.shape
        num_rows, num_keys, num_kv_heads, _ = read.keys.shape
        shape = (batch, length, num_heads)
        if num_keys == 0:
            empty = jnp.zeros((*shape, 1), jnp.float32)
            return Part(empty + MASKED, empty, jnp.zeros((*shape, head_dim), jnp.float32))
        group = num_heads // num_kv_heads
        blocks = BLOCKS[self.platform]
        num_queries = batch * length // num_rows * group
        size = blocks.head_dim(head_dim)
        block_queries, block_keys = blocks.sizes(
            num_queries, num_keys, size * queries.dtype.itemsize
        )

        # A key-value head's queries stand together, so that few of a row still fill a block.
        rows = queries.reshape(num_rows, -1, num_kv_heads, group, head_dim).swapaxes(1, 2)
        rows = rows.reshape(num_rows, num_kv_heads, num_queries, head_dim)
        of_queries = jnp.stack([sight.query_order, sight.query_positions], axis=1)
        of_queries = jnp.repeat(of_queries, group, axis=2)
        of_keys = jnp.stack([sight.key_order, sight.key_positions], axis=1)
        inputs = (
            _padded(_padded(rows, 2, block_queries), 3, size),
            _padded(_padded(read.keys.swapaxes(1, 2), 2, block_keys), 3, size),
            _padded(_padded(read.values.swapaxes(1, 2), 2, block_keys), 3, size),
            _padded(of_queries, 2, block_queries, -1),
            _padded(of_keys, 2, block_keys, NEVER),
        )
        step = partial(
            _add_block, scale=self.scale, cap=self.cap, has_window=sight.window is not None
        )
        window = jnp.asarray(NO_WINDOW if sight.window is None else sight.window, jnp.int32)
        run = _run_on_gpu if self.platform == "gpu" else _run_on_tpu
        sums = run(step, window, inputs, (block_queries, block_keys), self.is_interpreted)

        def unfold(sums: jax.Array) -> jax.Array:
            """`[B', K, Q, ...]`, padded, → `[B, T, H, ...]`."""
            whole = sums[:, :, :num_queries].reshape(
                num_rows, num_kv_heads, -1, group, sums.shape[-1]
            )
            return whole.swapaxes(1, 2).reshape(*shape, -1)

        weighted = unfold(sums.weighted)[..., :head_dim]
        return Part(unfold(sums.highest), unfold(sums.total), weighted)


def _add_block(
    sums: Sums,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    of_queries: tuple[jax.Array, jax.Array],
    of_keys: tuple[jax.Array, jax.Array],
    window: jax.Array,
    scale: float,
    cap: float | None,
    has_window: bool,
) -> Sums:
    """Add a block of keys to the sums of a block of queries.

    Args:
        sums: So far.
        queries: `[queries, head_dim]`.
        keys, values: `[keys, head_dim]`.
        of_queries: Order and position, int32 `[queries, 1]`.
        of_keys: Order and position, int32 `[1, keys]`.
        window: int32 `[]`.
        scale, cap, has_window: Of the scores.
    """
    products = jax.lax.dot_general(
        queries, keys, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    is_seen = of_keys[ORDER] <= of_queries[ORDER]
    if has_window:
        is_seen &= of_queries[POSITION] - of_keys[POSITION] < window
    scores = jnp.where(is_seen, soft_cap(products * scale, cap), MASKED)
    highest = jnp.maximum(sums.highest, jnp.max(scores, axis=-1, keepdims=True))
    # Less 0 where no key is seen, so that a masked score has weight 0 there too.
    weights = jnp.exp(scores - jnp.where(highest > MASKED, highest, 0.0))
    share = jnp.exp(sums.highest - highest)
    mixed = jnp.dot(weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return Sums(
        highest=highest,
        total=share * sums.total + jnp.sum(weights, axis=-1, keepdims=True),
        weighted=share * sums.weighted + mixed,
    )


def _run_on_tpu(
    step: Any,
    window: jax.Array,
    inputs: tuple[jax.Array, ...],
    sizes: tuple[int, int],
    is_interpreted: bool,
) -> Sums:
    """Sums `[B', K, Q, ...]` over a grid of rows, heads, blocks of queries and blocks of keys."""
    queries, keys, values, of_queries, of_keys = inputs
    (num_rows, num_heads, num_queries, head_dim), (block_queries, block_keys) = queries.shape, sizes
    grid = (num_rows, num_heads, num_queries // block_queries, keys.shape[2] // block_keys)
    needed = _num_needed(of_queries[:, ORDER], of_keys[:, ORDER], sizes)

    def kernel(
        window_ref: Any,
        needed_ref: Any,
        query_ref: Any,
        key_ref: Any,
        value_ref: Any,
        of_queries_ref: Any,
        of_keys_ref: Any,
        weighted_ref: Any,
        statistics_ref: Any,
        *carried: Any,
    ) -> None:
        row, _, place, block = (pl.program_id(axis) for axis in range(4))

        @pl.when(block == 0)
        def _start() -> None:
            for ref, value in zip(carried, (MASKED, 0.0, 0.0), strict=True):
                ref[...] = jnp.full(ref.shape, value, jnp.float32)

        @pl.when(block < needed_ref[row, place])
        def _add() -> None:
            highest_ref, total_ref, sum_ref = carried
            sums = Sums(highest_ref[:, :1], total_ref[:, :1], sum_ref[...])
            columns = tuple(of_queries_ref[:, each : each + 1] for each in (ORDER, POSITION))
            lines = tuple(of_keys_ref[each : each + 1] for each in (ORDER, POSITION))
            read = query_ref[...], key_ref[...], value_ref[...]
            sums = step(sums, *read, columns, lines, window_ref[0])
            for ref, each in zip(carried, sums, strict=True):
                ref[...] = jnp.broadcast_to(each, ref.shape)

        @pl.when(block == pl.num_programs(3) - 1)
        def _end() -> None:
            highest_ref, total_ref, sum_ref = carried
            weighted_ref[...] = sum_ref[...]
            # One lane of each is kept; a column in memory would take as much as all of them.
            lane = jax.lax.broadcasted_iota(jnp.int32, highest_ref.shape, 1)
            both = jnp.where(lane == 0, highest_ref[...], total_ref[...])
            statistics_ref[...] = both.T[: statistics_ref.shape[0]]

    def of_query(row: Any, head: Any, place: Any, block: Any, *_: Any) -> tuple[Any, ...]:
        return row, head, place, 0

    def of_key(row: Any, head: Any, place: Any, block: Any, window: Any, needed: Any) -> tuple:
        # What is not needed is not fetched either: the block before it stays.
        return row, head, jnp.minimum(block, jnp.maximum(needed[row, place] - 1, 0)), 0

    def of_key_line(*place: Any) -> tuple:
        row, _, block, _ = of_key(*place)
        return row, 0, block

    wide = (None, None, block_keys, head_dim)
    weighted, statistics = pl.pallas_call(
        kernel,
        grid_spec=mosaic.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=[
                pl.BlockSpec((None, None, block_queries, head_dim), of_query),
                pl.BlockSpec(wide, of_key),
                pl.BlockSpec(wide, of_key),
                pl.BlockSpec((None, block_queries, 2), lambda row, _, place, *__: (row, place, 0)),
                pl.BlockSpec((None, 2, block_keys), of_key_line),
            ],
            out_specs=[
                pl.BlockSpec((None, None, block_queries, head_dim), of_query),
                pl.BlockSpec(
                    (None, None, 8, block_queries),
                    lambda row, head, place, *_: (row, head, 0, place),
                ),
            ],
            scratch_shapes=[
                mosaic.VMEM((block_queries, LANES), jnp.float32),
                mosaic.VMEM((block_queries, LANES), jnp.float32),
                mosaic.VMEM((block_queries, head_dim), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(queries.shape, jnp.float32),
            jax.ShapeDtypeStruct((num_rows, num_heads, 8, num_queries), jnp.float32),
        ],
        compiler_params=mosaic.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=is_interpreted,
        name="flash_part",
    )(window[None], needed, queries, keys, values, of_queries.swapaxes(1, 2), of_keys)
    return Sums(statistics[:, :, 0, :, None], statistics[:, :, 1, :, None], weighted)


def _run_on_gpu(
    step: Any,
    window: jax.Array,
    inputs: tuple[jax.Array, ...],
    sizes: tuple[int, int],
    is_interpreted: bool,
) -> Sums:
    """Sums `[B', K, Q, ...]`, each program's over the blocks of keys in a loop."""
    queries, keys, values, of_queries, of_keys = inputs
    (num_rows, num_heads, num_queries, head_dim), (block_queries, block_keys) = queries.shape, sizes
    needed = _num_needed(of_queries[:, ORDER], of_keys[:, ORDER], sizes)

    def kernel(
        window_ref: Any,
        needed_ref: Any,
        query_ref: Any,
        key_ref: Any,
        value_ref: Any,
        of_queries_ref: Any,
        of_keys_ref: Any,
        highest_ref: Any,
        total_ref: Any,
        weighted_ref: Any,
    ) -> None:
        rows, limit = query_ref[...], window_ref[0]
        columns = tuple(of_queries_ref[each, :][:, None] for each in (ORDER, POSITION))

        def add(block: jax.Array, sums: Sums) -> Sums:
            place = pl.ds(block * block_keys, block_keys)
            lines = tuple(of_keys_ref[each, place][None, :] for each in (ORDER, POSITION))
            return step(sums, rows, key_ref[place, :], value_ref[place, :], columns, lines, limit)

        start = Sums(
            jnp.full((block_queries, 1), MASKED, jnp.float32),
            jnp.zeros((block_queries, 1), jnp.float32),
            jnp.zeros((block_queries, head_dim), jnp.float32),
        )
        sums = jax.lax.fori_loop(0, needed_ref[0], add, start)
        highest_ref[...] = sums.highest[:, 0]
        total_ref[...] = sums.total[:, 0]
        weighted_ref[...] = sums.weighted

    num_keys = keys.shape[2]
    of_query = pl.BlockSpec(
        (None, None, block_queries, head_dim), lambda row, head, place: (row, head, place, 0)
    )
    all_keys = pl.BlockSpec(
        (None, None, num_keys, head_dim), lambda row, head, place: (row, head, 0, 0)
    )
    statistic = pl.BlockSpec(
        (None, None, block_queries), lambda row, head, place: (row, head, place)
    )
    shape = jax.ShapeDtypeStruct(queries.shape[:-1], jnp.float32)
    highest, total, weighted = pl.pallas_call(
        kernel,
        grid=(num_rows, num_heads, num_queries // block_queries),
        in_specs=[
            pl.BlockSpec((1,), lambda *_: (0,)),
            pl.BlockSpec((None, 1), lambda row, _, place: (row, place)),
            of_query,
            all_keys,
            all_keys,
            pl.BlockSpec((None, 2, block_queries), lambda row, _, place: (row, 0, place)),
            pl.BlockSpec((None, 2, num_keys), lambda row, *_: (row, 0, 0)),
        ],
        out_specs=[statistic, statistic, of_query],
        out_shape=[shape, shape, jax.ShapeDtypeStruct(queries.shape, jnp.float32)],
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        interpret=is_interpreted,
        name="flash_part",
    )(window[None], needed, queries, keys, values, of_queries, of_keys)
    return Sums(highest[..., None], total[..., None], weighted)


def _num_needed(query_order: jax.Array, key_order: jax.Array, sizes: tuple[int, int]) -> jax.Array:
    """Blocks of keys, int32 `[B', blocks of queries]`, after which no query of a block sees any."""
    num_rows = len(query_order)
    last = query_order.reshape(num_rows, -1, sizes[0]).max(axis=-1)
    first = key_order.reshape(num_rows, -1, sizes[1]).min(axis=-1)
    count = jnp.arange(1, first.shape[1] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(first[:, None] <= last[:, :, None], count, 0), axis=-1)


def _padded(array: jax.Array, axis: int, size: int, fill: int = 0) -> jax.Array:
    """The same with an axis that is a multiple of the size."""
    amounts = [(0, 0)] * array.ndim
    amounts[axis] = (0, -array.shape[axis] % size)
    return jnp.pad(array, amounts, constant_values=fill)
