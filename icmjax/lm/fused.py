"""Attention by a fused kernel of the device, in parts that merge with those to other segments."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.attention import MASKED, Part, PartKernel
from icmjax.lm.config import IMPLEMENTATIONS, DecoderConfig
from icmjax.lm.segments import KeyValues, Sight

CUDNN_DTYPES = ("bfloat16", "float16")


class FusedKernel(NamedTuple):
    """Which implementation of `jax.nn.dot_product_attention`, and by what scores are multiplied."""

    implementation: Literal["xla", "cudnn"]
    scale: float

    def does(self, sight: Sight) -> bool:
        """Whether it can; it can everything."""
        return True

    def attend_part(self, queries: jax.Array, read: KeyValues, sight: Sight) -> Part:
        """Return attention to one set of keys, to be merged; shapes as in `attention.attend_part`.

        A query that sees no key has weight 0, whatever the kernel makes of it.
        """
        batch, length, num_heads, head_dim = queries.shape
        num_rows, num_keys = read.keys.shape[:2]
        shape = (batch, length, num_heads)
        if num_keys == 0:
            empty = jnp.zeros((*shape, 1), jnp.float32)
            return Part(empty + MASKED, empty, jnp.zeros((*shape, head_dim), jnp.float32))
        is_seen = sight.mask()
        mixed, log_sum_exp = jax.nn.dot_product_attention(
            queries.reshape(num_rows, -1, num_heads, head_dim),
            read.keys,
            read.values,
            mask=is_seen[:, None],
            scale=self.scale,
            implementation=self.implementation,
            return_residual=True,
        )
        is_any = is_seen.any(axis=-1).reshape(batch, length, 1, 1)
        highest = log_sum_exp.astype(jnp.float32).reshape(*shape, 1)
        return Part(
            highest=jnp.where(is_any, highest, MASKED),
            total=jnp.broadcast_to(is_any, (*shape, 1)).astype(jnp.float32),
            weighted=jnp.where(is_any, mixed.reshape(queries.shape).astype(jnp.float32), 0.0),
        )


def fused_kernel(config: DecoderConfig) -> PartKernel | None:
    """The kernel that the config asks for; None for attention by einsum."""
    scale = (config.query_size or config.head_dim) ** -0.5
    match config.attention:
        case "einsum":
            return None
        case "flash":
            # Pallas takes a while to import, and few ask for it.
            from icmjax.lm.flash import FlashKernel

            is_interpreted = config.platform == "cpu"
            return FlashKernel(
                scale, config.score_cap, config.platform, config.mesh, is_interpreted
            )
        case implementation:
            return FusedKernel(implementation, scale)


def check_attention(config: DecoderConfig, dtype: str) -> None:
    """Raise where the attention that the config asks for cannot run.

    Raises:
        CheckpointError: An implementation that is not known; scores that are capped, which no
            fused kernel does; cuDNN without an NVIDIA GPU, or in a dtype or head size that its
            kernel does not take.
    """
    where, attention = "attention", config.attention
    remedy = 'Use attention="einsum".'
    faults = []
    if attention not in IMPLEMENTATIONS:
        rule = "Attention is by one of the known implementations."
        known = f"Give one of {', '.join(IMPLEMENTATIONS)}."
        raise CheckpointError(Fault(rule, repr(attention), where, known))
    if attention in ("xla", "cudnn") and config.score_cap is not None:
        rule = "JAX's fused attention does not cap scores."
        faults.append(Fault(rule, f"scores capped at {config.score_cap:g}", where, remedy))
    if attention == "flash" and config.platform == "cpu":
        rule = "The flash kernel runs on TPUs and NVIDIA GPUs."
        faults.append(Fault(rule, "the device is a cpu", where, remedy))
    if attention == "cudnn":
        if config.platform != "gpu":
            rule = "cuDNN runs on NVIDIA GPUs."
            faults.append(Fault(rule, f"the device is a {config.platform}", where, remedy))
        if dtype not in CUDNN_DTYPES:
            rule = f"cuDNN's attention takes {' or '.join(CUDNN_DTYPES)}."
            faults.append(Fault(rule, dtype, "dtype", f"{remedy[:-1]}, or another dtype."))
        if config.head_dim % 8 or config.head_dim > 128:
            rule = "cuDNN's attention takes head sizes that are multiples of 8, up to 128."
            faults.append(Fault(rule, f"{config.head_dim}", where, remedy))
    if faults:
        raise CheckpointError(faults)
