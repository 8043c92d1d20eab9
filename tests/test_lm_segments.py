"""Reading in pieces gives what reading at once gives, and no arrangement gives a NaN."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from icmjax.errors import CheckpointError
from icmjax.lm import Decoder, DecoderConfig, KeyValues, RopeConfig, Segment, check_attention
from icmjax.lm.attention import MASKED, Tiles, attend, attend_within, merge
from icmjax.lm.fused import FusedKernel, fused_kernel
from icmjax.lm.segments import NEVER, Sight, own_sight

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class Rows(NamedTuple):
    tokens: jax.Array  # int32 [B, T]
    positions: jax.Array  # int32 [B, T]
    is_real: jax.Array  # bool [B, T]


def make_decoder(dtype: str = "float32", **fields) -> Decoder:
    settings = {
        "vocab_size": 50,
        "num_layers": 2,
        "hidden_size": 16,
        "mlp_size": 24,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "max_length": 64,
        "ropes": (RopeConfig(theta=50.0), RopeConfig(theta=900.0)),
        "windows": (None, None),
    }
    decoder = Decoder(DecoderConfig(**settings | fields), nnx.Rngs(0), jnp.dtype(dtype))
    # Initial weights are so small that attention is nearly uniform; these make it choose.
    decoder.layers.attention.query.kernel[...] *= 30
    return decoder


DECODERS = {
    "plain": make_decoder(),
    "windows": make_decoder(windows=(5, None)),
    "caps": make_decoder(score_cap=0.5, windows=(None, 3)),
    "fused": make_decoder(windows=(5, None), attention="xla"),
    "experts": make_decoder(num_experts=5, num_chosen_experts=2),
    "positions": make_decoder(
        ropes=(None, None), has_positions=True, norm="layer", has_gate=False, residual="parallel"
    ),
}


@nnx.jit
def read(decoder: Decoder, rows: Rows, segments: tuple[Segment, ...] = ()):
    return decoder(*rows, segments)


def random_rows(seed: int, starts: list[int], length: int) -> Rows:
    """Return rows with padding anywhere, whose first real token is at its start's position."""
    token_key, real_key = jax.random.split(jax.random.key(seed))
    shape = (len(starts), length)
    is_real = jax.random.bernoulli(real_key, 0.7, shape)
    positions = jnp.asarray(starts, jnp.int32)[:, None] + jnp.cumsum(is_real, axis=1) - 1
    tokens = jax.random.randint(token_key, shape, 0, 50, jnp.int32)
    return Rows(tokens, positions.astype(jnp.int32), is_real)


def random_levels(seed: int, batches: list[int]) -> list[Rows]:
    """Return rows level by level, each continuing one of the level before it."""
    levels: list[Rows] = []
    starts = [0] * batches[0]
    for depth, batch in enumerate(batches):
        if levels:
            ends = starts + np.asarray(levels[-1].is_real).sum(axis=1)
            starts = np.repeat(ends, batch // len(ends))
        levels.append(random_rows(100 * seed + depth, list(starts), length=6))
    return levels


def read_levels(decoder: Decoder, levels: list[Rows]) -> tuple[jax.Array, tuple[Segment, ...]]:
    """Read each level with those before it as segments; return the last one's hidden states."""
    segments: tuple[Segment, ...] = ()
    for rows in levels:
        hidden, key_values = read(decoder, rows, segments)
        segments += (Segment(key_values, rows.positions, rows.is_real),)
    return hidden, segments[:-1]


def read_alone(decoder: Decoder, levels: list[Rows], row: int) -> jax.Array:
    """Read what one row of the last level reads, without padding: `[number of its own, D]`."""
    num_rows = len(levels[-1].tokens)
    chain = [
        [each[row * len(each) // num_rows] for each in level] for level in levels
    ]  # per level tokens, positions and is_real of one row
    read_tokens = np.concatenate([tokens[is_real] for tokens, _, is_real in chain])
    length, num_own = len(read_tokens), int(chain[-1][2].sum())
    # Padded to one length, so that all rows share a compiled program.
    positions = np.arange(32, dtype=np.int32)
    tokens = np.zeros(32, np.int32)
    tokens[:length] = read_tokens
    alone = Rows(*(jnp.asarray(part)[None] for part in (tokens, positions, positions < length)))
    return read(decoder, alone)[0][0, length - num_own : length]


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())
@pytest.mark.parametrize("batches", [(4,), (2, 4), (1, 1, 2, 4)], ids=str)
def test_levels_give_what_each_row_read_alone_gives(decoder: Decoder, batches: tuple[int, ...]):
    for seed in range(2):
        levels = jax.tree.map(np.asarray, random_levels(seed, list(batches)))
        hidden = np.asarray(read_levels(decoder, levels)[0])
        for row, is_real in enumerate(levels[-1].is_real):
            alone = read_alone(decoder, levels, row)
            np.testing.assert_allclose(hidden[row][is_real], alone, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "decoder",
    [*DECODERS.values(), make_decoder(num_layers=1, ropes=(RopeConfig(theta=50.0),), windows=(4,))],
    ids=[*DECODERS.keys(), "one layer"],
)
@pytest.mark.parametrize("batches", [(4,), (1, 2, 4)], ids=str)
def test_few_tokens_of_rows_are_read_as_among_all(decoder: Decoder, batches: tuple[int, ...]):
    *levels, last = random_levels(2, list(batches))
    segments = read_levels(decoder, [*levels, last])[1]
    hidden, key_values = read(decoder, last, segments)
    # As many as a row has, repeated and out of order, and the one that ends it.
    for columns in ([[0, 5, 3, 3, 1, 2]] * 4, [[5], [4], [0], [2]]):
        columns = jnp.asarray(columns, jnp.int32)
        found, kept = nnx.jit(Decoder.read_at)(decoder, columns, *last, segments)
        is_real = np.asarray(jnp.take_along_axis(last.is_real, columns, axis=1))
        expected = jnp.take_along_axis(hidden, columns[..., None], axis=1)
        assert jnp.isfinite(found).all()
        np.testing.assert_allclose(
            np.asarray(found)[is_real], np.asarray(expected)[is_real], **TOLERANCE
        )
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, **TOLERANCE), kept, key_values
        )


def test_key_values_take_none_of_what_the_last_layer_adds():
    decoder = make_decoder()
    levels = random_levels(3, [1, 2])
    segments = read_levels(decoder, levels)[1]
    key_values = read(decoder, levels[-1], segments)[1]
    for kernel in (
        decoder.layers.attention.query.kernel,
        decoder.layers.attention.out.kernel,
        decoder.layers.mlp.gate.kernel,
        decoder.layers.mlp.down.kernel,
    ):
        kernel[...] = kernel[...].at[-1].set(jnp.nan)
    found = nnx.jit(Decoder.key_values)(decoder, *levels[-1], segments)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, **TOLERANCE), found, key_values
    )


@pytest.mark.parametrize("name", ["windows", "fused"])
def test_segments_that_hold_nothing_change_nothing(name: str):
    decoder = DECODERS[name]
    *levels, last = random_levels(0, [1, 2, 4])
    hidden, segments = read_levels(decoder, [*levels, last])
    padding = segments[0]._replace(is_real=jnp.zeros_like(segments[0].is_real))
    empty = jax.tree.map(lambda leaf: leaf[:, :, :0], segments[1].key_values)
    empty_segment = Segment(empty, segments[1].positions[:, :0], segments[1].is_real[:, :0])
    with_nothing, _ = read(decoder, last, (padding, segments[0], empty_segment, segments[1]))
    is_real = np.asarray(last.is_real)
    np.testing.assert_allclose(
        np.asarray(with_nothing)[is_real], np.asarray(hidden)[is_real], **TOLERANCE
    )
    only_nothing, _ = read(decoder, last, (padding, empty_segment))
    plain, _ = read(decoder, last)
    np.testing.assert_allclose(
        np.asarray(only_nothing)[is_real], np.asarray(plain)[is_real], **TOLERANCE
    )


def test_what_is_not_seen_has_no_influence():
    """Later keys, padding and keys out of every window: any value in them, the same result."""
    decoder = make_decoder(windows=(3, 3))
    *levels, last = random_levels(1, [1, 2])
    hidden, (segment,) = read_levels(decoder, [*levels, last])
    # With two layers of window 3, nothing further than 4 behind a query can reach it.
    is_far = segment.positions < jnp.min(jnp.where(last.is_real, last.positions, 99)) - 4
    is_out = (is_far | ~segment.is_real)[None, :, :, None, None]
    assert jnp.any(is_far & segment.is_real)
    assert jnp.any(~segment.is_real)
    loud = jax.tree.map(lambda leaf: jnp.where(is_out, 1e3, leaf), segment.key_values)
    spoiled, _ = read(decoder, last, (segment._replace(key_values=loud),))
    is_real = np.asarray(last.is_real)
    np.testing.assert_allclose(
        np.asarray(spoiled)[is_real], np.asarray(hidden)[is_real], **TOLERANCE
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_seen_gives_no_nan_not_even_in_gradients(dtype: str):
    decoder = make_decoder(dtype, windows=(2, None))
    graphdef, params = nnx.split(decoder)
    *levels, last = random_levels(2, [1, 2])
    _, segments = read_levels(decoder, [*levels, last])
    nothing = last._replace(is_real=jnp.zeros_like(last.is_real))
    unseen = (segments[0]._replace(is_real=jnp.zeros_like(segments[0].is_real)),)

    @jax.jit
    def loss(params: nnx.State, segments: tuple[Segment, ...]) -> jax.Array:
        decoder = nnx.merge(graphdef, params)
        return jnp.sum(jnp.square(decoder.logits(decoder(*nothing, segments)[0])))

    for past in ((), unseen, segments):
        gradients = jax.grad(loss, argnums=(0, 1), allow_int=True)(params, past)
        floats = [
            leaf for leaf in jax.tree.leaves(gradients) if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        assert jnp.isfinite(loss(params, past))
        assert all(jnp.all(jnp.isfinite(leaf)) for leaf in floats)


@pytest.mark.slow
def test_gradients_through_segments_are_those_of_a_full_forward():
    decoder = DECODERS["caps"]
    graphdef, params = nnx.split(decoder)
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, 50, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (2, 9))
    rows = Rows(tokens, positions, jnp.ones((2, 9), bool))
    first, second = (Rows(*(part[:, cut] for part in rows)) for cut in (slice(5), slice(5, 9)))

    def in_pieces(params: nnx.State) -> jax.Array:
        decoder = nnx.merge(graphdef, params)
        before, key_values = decoder(*first)
        after, _ = decoder(*second, (Segment(key_values, first.positions, first.is_real),))
        return jnp.sum(jnp.sin(decoder.logits(jnp.concatenate([before, after], axis=1))))

    def at_once(params: nnx.State, is_checkpointed: bool = False) -> jax.Array:
        decoder = nnx.merge(graphdef, params)
        hidden, _ = decoder(*rows, is_checkpointed=is_checkpointed)
        return jnp.sum(jnp.sin(decoder.logits(hidden)))

    expected = jax.jit(jax.grad(at_once))(params)
    recomputed = jax.jit(jax.grad(lambda params: at_once(params, is_checkpointed=True)))(params)
    for found in (jax.jit(jax.grad(in_pieces))(params), recomputed):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected
        )


def test_the_fused_kernel_is_what_computes(monkeypatch):
    kernel = fused_kernel(DECODERS["fused"].config)
    assert kernel == FusedKernel("xla", 8**-0.5)
    assert fused_kernel(DECODERS["plain"].config) is None
    calls = []
    whole = FusedKernel.attend_part
    monkeypatch.setattr(FusedKernel, "attend_part", lambda *args: calls.append(1) or whole(*args))
    levels = random_levels(0, [1, 2])
    _, segments = read_levels(DECODERS["fused"], levels)
    nnx.jit(lambda decoder: decoder(*levels[-1], segments)[0])(DECODERS["fused"])
    assert len(calls) >= 2  # the rows themselves, and their segment


def test_fused_attention_that_cannot_run_is_refused():
    fields = vars(DECODERS["plain"].config)
    for change, dtype, rules in (
        ({"attention": "splash"}, "float32", ["known implementations"]),
        ({"attention": "flash"}, "float32", ["runs on TPUs and NVIDIA GPUs"]),
        ({"attention": "xla", "score_cap": 5.0}, "float32", ["does not cap scores"]),
        ({"attention": "cudnn", "head_dim": 10}, "float32", ["NVIDIA", "takes bfloat16", "sizes"]),
    ):
        with pytest.raises(CheckpointError) as caught:
            check_attention(DecoderConfig(**fields | change), dtype)
        assert len(caught.value.faults) == len(rules)
        for fault, rule in zip(caught.value.faults, rules, strict=True):
            assert rule in fault.rule
    check_attention(DecoderConfig(**fields | {"attention": "xla"}), "float32")


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 700])
def test_blocks_of_queries_give_the_plain_softmax(length: int):
    query_key, key_key, value_key = jax.random.split(jax.random.key(length), 3)
    queries = jax.random.normal(query_key, (2, length, 4, 8))
    keys = jax.random.normal(key_key, (2, length, 2, 8))
    values = jax.random.normal(value_key, (2, length, 2, 8))
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (2, length))
    sight = own_sight(positions, jnp.ones((2, length), bool))
    part = jax.jit(attend_within, static_argnums=4)(queries, keys, values, sight, jnp.sin)

    scores = np.sin(np.einsum("bthd,bshd->bhts", queries, np.repeat(keys, 2, axis=2)))
    weights = np.exp(scores) * np.tri(length)
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhts,bshd->bthd", weights, np.repeat(values, 2, axis=2))
    np.testing.assert_allclose(merge([part]), expected, **TOLERANCE)


# Each of two key heads has two rows of 12 queries in two groups for 21 keys, 1,008 scores: chunks
# of both heads, of one, of one row, of a third of its queries, of a fifth (which does not divide
# them), and of one query.
CHUNKS = [(21, chunk) for chunk in (2016, 1008, 504, 168, 110, 1)]


@pytest.mark.parametrize(("block", "chunk"), [(1, 2016), (8, 2016), (20, 2016), (8, 100), *CHUNKS])
@pytest.mark.parametrize("is_limited", [False, True])
def test_blocks_and_chunks_give_the_plain_softmax(block: int, chunk: int, is_limited: bool):
    """Of 21 keys that each serve two rows of queries, some of which see no key at all."""
    tiles = Tiles(chunk, block)
    rng = np.random.default_rng(block)
    queries, keys, values = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((4, 6, 4, 8), (2, 21, 2, 8), (2, 21, 2, 8))
    )
    key_order = rng.integers(21, size=(2, 21), dtype=np.int32)
    key_order[:, ::5] = NEVER
    query_order = rng.integers(-5, 21, size=(2, 12), dtype=np.int32)
    # Of five rows of limits each query has one.
    is_read = rng.random((2, 5, 21)) < 0.5
    limit_row = rng.integers(5, size=(2, 12), dtype=np.int32)
    sight = Sight(*map(jnp.asarray, (query_order, key_order, query_order, key_order)))
    if is_limited:
        sight = sight._replace(is_read=is_read, limit_row=limit_row, window=jnp.int32(9))
    read = [KeyValues(keys, values)]
    found = jax.jit(
        lambda sight: attend(queries, read, [sight], jnp.sin, is_whole=False, tiles=tiles)
    )(sight)

    is_seen = key_order[:, None] <= query_order[..., None]
    if is_limited:
        is_seen &= np.take_along_axis(is_read, limit_row[..., None], axis=1)
        is_seen &= (query_order[..., None] - key_order[:, None]) < 9
    rows = np.asarray(queries).reshape(2, 12, 4, 8)
    scores = np.sin(np.einsum("bthd,bshd->bhts", rows, np.repeat(keys, 2, axis=2)))
    weights = np.exp(scores) * is_seen[:, None]
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)
    expected = np.einsum("bhts,bshd->bthd", weights, np.repeat(values, 2, axis=2))
    assert not is_seen.any(axis=-1).all()
    np.testing.assert_allclose(found, expected.reshape(4, 6, 4, 8), **TOLERANCE)


@pytest.mark.parametrize("max_one_hot_vocab", [0, 50])
def test_gradient_of_the_embedding_is_that_of_a_gather(monkeypatch, max_one_hot_vocab: int):
    from icmjax.lm import decoder as decoder_module

    monkeypatch.setattr(decoder_module, "MAX_ONE_HOT_VOCAB", max_one_hot_vocab)
    tokens = jnp.asarray([[3, 3, 49], [0, 3, 7]])
    table, cotangent = jax.random.normal(jax.random.key(0), (50, 5)), jnp.arange(30.0)
    found, expected = (
        jax.grad(lambda table, fn=fn: jnp.sum(fn(table) * cotangent.reshape(2, 3, 5)))(table)
        for fn in (lambda table: decoder_module.embed(table, tokens), lambda table: table[tokens])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_vmap_over_rows_and_one_compilation_per_shape():
    decoder = DECODERS["plain"]
    graphdef, params = nnx.split(decoder)
    rows = random_rows(0, [0, 0, 0], length=7)
    num_traces = 0

    @jax.jit
    def hidden(params: nnx.State, rows: Rows) -> jax.Array:
        nonlocal num_traces
        num_traces += 1
        return nnx.merge(graphdef, params)(*rows)[0]

    at_once = hidden(params, rows)
    one_by_one = jax.vmap(lambda row: hidden(params, jax.tree.map(lambda x: x[None], row))[0])(rows)
    np.testing.assert_allclose(at_once, one_by_one, **TOLERANCE)
    traced = num_traces
    hidden(jax.tree.map(lambda weight: 2 * weight, params), random_rows(5, [1, 2, 3], length=7))
    assert num_traces == traced


def test_a_shared_segment_is_not_copied_for_each_query():
    """No array of the program is as large as the segment's keys repeated for each row."""
    decoder = DECODERS["plain"]
    num_rows, past = 16, 32
    shape = (2, 1, past, 2, 8)
    segment = Segment(
        KeyValues(jnp.ones(shape), jnp.ones(shape)),
        jnp.arange(past, dtype=jnp.int32)[None],
        jnp.ones((1, past), bool),
    )
    rows = random_rows(0, [past] * num_rows, length=1)
    graphdef, params = nnx.split(decoder)
    jaxpr = jax.make_jaxpr(lambda params: nnx.merge(graphdef, params)(*rows, (segment,)))(params)
    repeated = num_rows * past * 2 * 8
    scores = num_rows * past * 4  # of the four heads, which there must be
    largest = max(int(np.prod(shape)) for shape in _intermediate_shapes(jaxpr.jaxpr, inside=False))
    assert scores <= largest < repeated


def _intermediate_shapes(jaxpr, inside: bool):
    """Return the shapes of all arrays computed inside the scan over layers."""
    for equation in jaxpr.eqns:
        if inside:
            yield from (variable.aval.shape for variable in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _intermediate_shapes(inner, inside or equation.primitive.name == "scan")


def test_masked_scores_do_not_overflow():
    assert np.isfinite(np.float32(MASKED) - np.float32(-MASKED))
