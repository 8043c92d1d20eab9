"""The decoder: a causal transformer whose layers are stacked and scanned."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.attention import (
    NO_WINDOW,
    KeyValues,
    Segment,
    Sight,
    Tempering,
    attend,
    own_sight,
    segment_sight,
)
from icmjax.lm.config import DecoderConfig
from icmjax.lm.fused import fused_kernel
from icmjax.lm.rope import rotate, rotations

INIT_SCALE = 0.02
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}
# Below this vocabulary size the gradient of the embeddings is a matmul with one-hot tokens, which
# on a CPU is faster than the scatter-add of a gather's gradient.
MAX_ONE_HOT_VOCAB = 2048


def residual_scale(config: DecoderConfig) -> float:
    """Return the initial scale of the 2 L projections that add to the residual stream."""
    return INIT_SCALE / math.sqrt(2 * config.num_layers)


def soft_cap(values: jax.Array, cap: float | None) -> jax.Array:
    """Bound values smoothly by the cap (Gemma 2, arXiv:2408.00118); None bounds nothing."""
    return values if cap is None else cap * jnp.tanh(values / cap)


@jax.custom_vjp
def embed(embedding: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return rows `[..., D]` of the embedding `[V, D]`."""
    return embedding[tokens]


def _embed_forward(embedding: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple]:
    return embedding[tokens], (tokens, embedding)


def _embed_backward(residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, None]:
    tokens, embedding = residuals
    rows = gradient.reshape(-1, gradient.shape[-1])
    if embedding.shape[0] <= MAX_ONE_HOT_VOCAB:
        one_hot = jax.nn.one_hot(tokens.reshape(-1), embedding.shape[0], dtype=gradient.dtype)
        return one_hot.T @ rows, None
    return jnp.zeros_like(embedding).at[tokens.reshape(-1)].add(rows), None


embed.defvjp(_embed_forward, _embed_backward)


class Linear(nnx.Module):
    """An affine map of the last axis."""

    def __init__(
        self,
        in_size: int,
        out_size: int,
        has_bias: bool,
        scale: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        kernel = scale * jax.random.normal(rngs.params(), (in_size, out_size), jnp.float32)
        self.kernel = nnx.Param(kernel.astype(dtype))  # [in, out]
        self.bias = nnx.Param(jnp.zeros(out_size, dtype)) if has_bias else None  # [out]

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[..., in]` to `[..., out]`."""
        outputs = inputs @ self.kernel[...]
        return outputs if self.bias is None else outputs + self.bias[...]


class RMSNorm(nnx.Module):
    """Division by the root mean square of the last axis, in float32 (arXiv:1910.07467)."""

    def __init__(self, size: int, config: DecoderConfig, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.full(size, 1.0 - config.norm_offset, dtype))  # [size]
        self.offset = config.norm_offset
        self.eps = config.norm_eps

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Norm `[..., size]`."""
        values = inputs.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(values), axis=-1, keepdims=True)
        normed = values * jax.lax.rsqrt(mean_square + self.eps)
        return (normed * (self.offset + self.scale[...].astype(jnp.float32))).astype(inputs.dtype)


def apply(norm: RMSNorm | None, inputs: jax.Array) -> jax.Array:
    """Norm the inputs where the layer has that norm."""
    return inputs if norm is None else norm(inputs)


class Attention(nnx.Module):
    """The projections of attention; how keys are found is in `icmjax.lm.attention`."""

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden_size, head_dim = config.hidden_size, config.head_dim
        size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
        bias, out_bias = config.attention_bias, config.attention_out_bias
        self.query = Linear(hidden_size, size, bias, INIT_SCALE, dtype, rngs)
        self.key = Linear(hidden_size, kv_size, bias, INIT_SCALE, dtype, rngs)
        self.value = Linear(hidden_size, kv_size, bias, INIT_SCALE, dtype, rngs)
        self.out = Linear(size, hidden_size, out_bias, residual_scale(config), dtype, rngs)
        sizes = {"head": (head_dim, head_dim), "flat": (size, kv_size)}.get(config.qk_norm)
        self.query_norm = None if sizes is None else RMSNorm(sizes[0], config, dtype)
        self.key_norm = None if sizes is None else RMSNorm(sizes[1], config, dtype)
        self.config = config

    def project(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return queries `[B, T, H, head_dim]`, keys and values `[B, T, K, head_dim]`."""
        heads = (*inputs.shape[:-1], -1, self.config.head_dim)
        queries, keys, values = self.query(inputs), self.key(inputs), self.value(inputs)
        if self.config.qk_norm == "head":
            queries, keys = queries.reshape(heads), keys.reshape(heads)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        return queries.reshape(heads), keys.reshape(heads), values.reshape(heads)

    def score(self, products: jax.Array) -> jax.Array:
        """Scale, and where the config says so cap, products of queries and keys."""
        scale = (self.config.query_size or self.config.head_dim) ** -0.5
        return soft_cap(products * scale, self.config.score_cap)


class MLP(nnx.Module):
    """A gated linear unit (Shazeer, arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        hidden_size, mlp_size, bias = config.hidden_size, config.mlp_size, config.mlp_bias
        self.gate = Linear(hidden_size, mlp_size, bias, INIT_SCALE, dtype, rngs)
        self.up = Linear(hidden_size, mlp_size, bias, INIT_SCALE, dtype, rngs)
        self.down = Linear(mlp_size, hidden_size, bias, residual_scale(config), dtype, rngs)
        self.activation = config.activation

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[..., D]` to `[..., D]`."""
        return self.down(ACTIVATIONS[self.activation](self.gate(inputs)) * self.up(inputs))


class Layer(nnx.Module):
    """Attention and MLP with the norms of what each reads and of what each adds."""

    def __init__(self, config: DecoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        def norm(is_present: bool) -> RMSNorm | None:
            return RMSNorm(config.hidden_size, config, dtype) if is_present else None

        self.attention_norm = norm(config.has_pre_norms)
        self.attention = Attention(config, dtype, rngs)
        self.attention_post_norm = norm(config.has_post_norms)
        self.mlp_norm = norm(config.has_pre_norms)
        self.mlp = MLP(config, dtype, rngs)
        self.mlp_post_norm = norm(config.has_post_norms)

    def read(
        self,
        hidden: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        past: Sequence[KeyValues],
        sights: Sequence[Sight],
        temperings: Sequence[Tempering | None] = (),
    ) -> tuple[jax.Array, KeyValues]:
        """Return the residual stream `[B, T, D]` after this layer, and this layer's key-values.

        Args:
            hidden: The residual stream before it, `[B, T, D]`.
            rotation: Cosines and sines at the rows' positions, float32 `[B, T, head_dim / 2]`.
            past: The segments' keys and values, `[B', S, K, head_dim]`.
            sights: Which keys are seen in the rows themselves and in each segment.
            temperings: Of the segments, where there are any.
        """
        queries, keys, values = self.attention.project(apply(self.attention_norm, hidden))
        queries, own = rotate(queries, *rotation), KeyValues(rotate(keys, *rotation), values)
        kernel = fused_kernel(self.attention.config)
        mixed = attend(queries, (own, *past), sights, self.attention.score, temperings, kernel)
        attended = self.attention.out(mixed.reshape(*hidden.shape[:-1], -1))
        hidden = hidden + apply(self.attention_post_norm, attended)
        transformed = self.mlp(apply(self.mlp_norm, hidden))
        return hidden + apply(self.mlp_post_norm, transformed), own


class ScannedLayer(NamedTuple):
    """What differs between layers, each with a leading [L]."""

    params: nnx.State  # of `Layer`
    window: jax.Array  # int32 [], tokens
    rope: jax.Array  # int32 [], which of the distinct rotations
    past: tuple[KeyValues, ...]  # one per segment


class Decoder(nnx.Module):
    """A causal language model up to its logits; pure, under `jax.jit`, `vmap` and `grad` alike.

    Args:
        config: What it computes.
        rngs: The "params" stream draws the initial weights: normal with scale 0.02, those of the
            projections that add to the residual stream 0.02 / sqrt(2 L).
        dtype: Of the weights and of the activations between matmuls; norms, rotations, softmax and
            logits are float32 whatever it is.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stacked_layers(rngs: nnx.Rngs) -> Layer:
            return Layer(config, dtype, rngs)

        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        embedding = INIT_SCALE * jax.random.normal(rngs.params(), shape, jnp.float32)
        self.embedding = nnx.Param(embedding.astype(dtype))  # [V, D]
        self.layers = stacked_layers(rngs)  # every parameter with a leading [L]
        self.final_norm = RMSNorm(config.hidden_size, config, dtype)
        self.head = (
            None
            if config.tie_embeddings
            else Linear(config.hidden_size, config.vocab_size, False, INIT_SCALE, dtype, rngs)
        )

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        is_real: jax.Array,
        segments: tuple[Segment, ...] = (),
        *,
        is_checkpointed: bool = False,
    ) -> tuple[jax.Array, KeyValues]:
        """Read rows of tokens, each attending causally to itself and to the segments.

        Args:
            tokens: int `[B, T]`.
            positions: int32 `[B, T]`; the first real token that ever precedes a row has 0, padding
                does not count.
            is_real: bool `[B, T]`; False marks padding, which no token attends to.
            segments: What was read before, see `Segment`.
            is_checkpointed: Whether gradients recompute each layer instead of keeping its inner
                activations; also the faster way on a CPU, where memory traffic costs more.

        Returns:
            Hidden states `[B, T, D]` after the final norm, finite but meaningless at padding; and
            this call's own keys and values `[L, B, T, K, head_dim]`.
        """
        config = self.config
        graphdef, params = nnx.split(self.layers)
        sights = [own_sight(positions, is_real)]
        sights += [segment_sight(positions, past) for past in segments]
        temperings = [past.tempering for past in segments]
        ropes = tuple(dict.fromkeys(config.ropes))
        tables = [rotations(rope, config.head_dim, positions) for rope in ropes]
        cosines, sines = (jnp.stack(table) for table in zip(*tables, strict=True))

        def read_layer(hidden: jax.Array, scanned: ScannedLayer) -> tuple[jax.Array, KeyValues]:
            layer = nnx.merge(graphdef, scanned.params)
            rotation = cosines[scanned.rope], sines[scanned.rope]
            window = None if config.is_windowless else scanned.window
            seen = [sight._replace(window=window) for sight in sights]
            return layer.read(hidden, rotation, scanned.past, seen, temperings)

        if is_checkpointed:
            read_layer = jax.checkpoint(read_layer, prevent_cse=False)
        scanned_layers = ScannedLayer(
            params,
            jnp.asarray([NO_WINDOW if window is None else window for window in config.windows]),
            jnp.asarray([ropes.index(rope) for rope in config.ropes]),
            tuple(past.key_values for past in segments),
        )
        hidden = embed(self.embedding[...], tokens)
        hidden = hidden * jnp.asarray(config.embedding_scale, hidden.dtype)
        hidden, key_values = jax.lax.scan(read_layer, hidden, scanned_layers)
        return self.final_norm(hidden), key_values

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Return next-token logits, float32 `[..., V]`, of final hidden states `[..., D]`."""
        kernel = self.embedding[...].T if self.head is None else self.head.kernel[...]
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        return soft_cap(logits, self.config.logit_cap)
