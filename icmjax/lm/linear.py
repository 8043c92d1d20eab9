"""Affine maps, and the scales that they start with."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from icmjax.lm.config import DecoderConfig
from icmjax.lm.quantized import kernel_of

INIT_SCALE = 0.02


def residual_scale(config: DecoderConfig) -> float:
    """Return the initial scale of the 2 L projections that add to the residual stream."""
    return INIT_SCALE / math.sqrt(2 * config.num_layers)


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
        outputs = inputs @ kernel_of(self.kernel)
        return outputs if self.bias is None else outputs + self.bias[...]
