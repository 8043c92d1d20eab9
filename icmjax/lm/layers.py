"""A transformer layer, in the order in which the papers write it."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.attention import attend
from icmjax.lm.config import DecoderConfig
from icmjax.lm.fused import fused_kernel
from icmjax.lm.rope import rotate
from icmjax.lm.segments import KeyValues, Sight, Tempering

INIT_SCALE = 0.02
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


def residual_scale(config: DecoderConfig) -> float:
    """Return the initial scale of the 2 L projections that add to the residual stream."""
    return INIT_SCALE / math.sqrt(2 * config.num_layers)


def soft_cap(values: jax.Array, cap: float | None) -> jax.Array:
    """Bound values smoothly by the cap (Gemma 2, arXiv:2408.00118); None bounds nothing."""
    return values if cap is None else cap * jnp.tanh(values / cap)


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

    def project_queries(self, inputs: jax.Array) -> jax.Array:
        """Return queries `[B, T, H, head_dim]`."""
        return self._heads(self.query(inputs), self.query_norm)

    def project_keys(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return keys and values `[B, T, K, head_dim]`."""
        return self._heads(self.key(inputs), self.key_norm), self._heads(self.value(inputs), None)

    def _heads(self, flat: jax.Array, norm: RMSNorm | None) -> jax.Array:
        """Split `[B, T, size]` into heads, normed after that or before it as the config says."""
        shape = (*flat.shape[:-1], -1, self.config.head_dim)
        if self.config.qk_norm == "head":
            return apply(norm, flat.reshape(shape))
        return apply(norm, flat).reshape(shape)

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

    def key_values(self, normed: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> KeyValues:
        """Return what is seen of rows: keys and values `[B, T, K, head_dim]`.

        Args:
            normed: The residual stream before this layer, after `attention_norm`, `[B, T, D]`.
            rotation: Cosines and sines at the rows' positions, float32 `[B, T, head_dim / 2]`.
        """
        keys, values = self.attention.project_keys(normed)
        return KeyValues(rotate(keys, *rotation), values)

    def read(
        self,
        hidden: jax.Array,
        normed: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        seen: Sequence[KeyValues],
        sights: Sequence[Sight],
        temperings: Sequence[Tempering | None],
        is_whole: bool,
    ) -> jax.Array:
        """Return the residual stream `[B, T, D]` after this layer.

        Args:
            hidden: The residual stream before it, `[B, T, D]`.
            normed, rotation: As of `key_values`.
            seen: Keys and values, `[B', S, K, head_dim]`, of the rows themselves and each segment.
            sights: Which of them are seen.
            temperings: Of the segments.
            is_whole: Whether these are all the tokens of their rows, see `attend`.
        """
        queries = rotate(self.attention.project_queries(normed), *rotation)
        kernel, score = fused_kernel(self.attention.config), self.attention.score
        mixed = attend(queries, seen, sights, score, temperings, kernel, is_whole)
        attended = self.attention.out(mixed.reshape(*hidden.shape[:-1], -1))
        hidden = hidden + apply(self.attention_post_norm, attended)
        transformed = self.mlp(apply(self.mlp_norm, hidden))
        return hidden + apply(self.mlp_post_norm, transformed)
