"""Norms of the residual stream and of heads."""

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.config import DecoderConfig


class RMSNorm(nnx.Module):
    """Division by the root mean square of the last axis, in float32 (arXiv:1910.07467)."""

    def __init__(self, shape: tuple[int, ...], config: DecoderConfig, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.full(shape, 1.0 - config.norm_offset, dtype))  # [..., size]
        self.offset = config.norm_offset
        self.eps = config.norm_eps

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Norm `[..., size]`."""
        values = inputs.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(values), axis=-1, keepdims=True)
        normed = values * jax.lax.rsqrt(mean_square + self.eps)
        return (normed * (self.offset + self.scale[...].astype(jnp.float32))).astype(inputs.dtype)


class LayerNorm(nnx.Module):
    """Mean 0 and variance 1 of the last axis, in float32 (arXiv:1607.06450)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        config: DecoderConfig,
        dtype: jnp.dtype,
        has_bias: bool = True,
    ):
        self.scale = nnx.Param(jnp.ones(shape, dtype))  # [..., size]
        self.bias = nnx.Param(jnp.zeros(shape, dtype)) if has_bias else None  # [..., size]
        self.eps = config.norm_eps

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Norm `[..., size]`."""
        values = inputs.astype(jnp.float32)
        values -= jnp.mean(values, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(values), axis=-1, keepdims=True)
        normed = values * jax.lax.rsqrt(variance + self.eps) * self.scale[...].astype(jnp.float32)
        if self.bias is not None:
            normed += self.bias[...].astype(jnp.float32)
        return normed.astype(inputs.dtype)


Norm = RMSNorm | LayerNorm


def make_norm(config: DecoderConfig, dtype: jnp.dtype) -> Norm:
    """Return a norm of the residual stream."""
    kind = {"rms": RMSNorm, "layer": LayerNorm}[config.norm]
    return kind((config.hidden_size,), config, dtype)


def apply(norm: Norm | None, inputs: jax.Array) -> jax.Array:
    """Norm the inputs where the layer has that norm."""
    return inputs if norm is None else norm(inputs)


def make_head_norm(config: DecoderConfig, num_heads: int, dtype: jnp.dtype) -> Norm | None:
    """Return the norm of queries or keys of so many heads."""
    match config.qk_norm:
        case "head":
            return RMSNorm((config.head_dim,), config, dtype)
        case "flat":
            return RMSNorm((num_heads * config.head_dim,), config, dtype)
        case "own":
            return LayerNorm((num_heads, config.head_dim), config, dtype, has_bias=False)
    return None
