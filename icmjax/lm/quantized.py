"""Weights of 8 or 4 bits: what a kernel is kept as, and what it is when it is multiplied.

They save memory, and no arithmetic: a layer's kernels are the activations' dtype again when they
are used. Only matrices of layers are kept so; embeddings, heads, norms and routers are whole. A CPU
keeps 4 bits in a byte, so that there int4 saves what int8 does.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from icmjax.errors import CheckpointError, Fault

Quantization = Literal["int8", "int4"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
# Inputs that share a step: few, as 4 bits have 15 values for all of them.
GROUP = 32


class Quantized(NamedTuple):
    """A kernel as whole numbers of steps."""

    values: jax.Array  # int8 or int4 [..., in, out]
    steps: jax.Array  # of the activations' dtype [..., in / GROUP, out]


def quantize(kernel: np.ndarray, kind: Quantization, dtype: jnp.dtype) -> Quantized:
    """Round a kernel to whole steps, of a size of its own for each group of inputs and each output.

    Args:
        kernel: `[in, out]`, any float type; GROUP divides in.
        kind: Of the values.
        dtype: Of the steps.

    Raises:
        CheckpointError: qwix, which does it, is not installed.
    """
    return _quantize(np.asarray(kernel, np.float32), kind, jnp.dtype(dtype))


@partial(jax.jit, static_argnames=("kind", "dtype"))
def _quantize(kernel: jax.Array, kind: Quantization, dtype: jnp.dtype) -> Quantized:
    found = _qwix().quantize(
        kernel, jnp.dtype(kind), channelwise_axes=(1,), tiled_axes={0: GROUP}, scale_dtype=dtype
    )
    return Quantized(found.qvalue, found.scale)


def dequantize(kernel: Quantized) -> jax.Array:
    """Return a kernel `[..., in, out]` in the dtype of its steps."""
    values, steps = kernel
    groups = values.reshape(*steps.shape[:-1], GROUP, steps.shape[-1]).astype(steps.dtype)
    return (groups * steps[..., None, :]).reshape(values.shape)


def kept_bits(kind: Quantization, device: jax.Device | None = None) -> int:
    """Bits that a value takes on a device, None for the default one: a CPU keeps no half bytes."""
    platform = (jax.devices()[0] if device is None else device).platform
    return 8 if platform == "cpu" else jnp.iinfo(kind).bits


def kernel_of(param: nnx.Param) -> jax.Array:
    """Return a kernel as it is multiplied, however it is kept."""
    value = param.get_value()
    return dequantize(value) if isinstance(value, Quantized) else value


def is_quantized(path: tuple[str, ...]) -> bool:
    """Whether a parameter is one of those that are kept in few bits."""
    return path[0] == "layers" and path[-1] == "kernel" and path[-2] != "router"


def check_quantization(kind: str | None) -> None:
    """Raise where weights cannot be kept so.

    Raises:
        CheckpointError: The kind is not known, or qwix is not installed.
    """
    if kind is None:
        return
    if kind not in QUANTIZATIONS:
        rule = "Weights are kept in 8 bits or 4."
        remedy = f"Give one of {', '.join(QUANTIZATIONS)}, or none."
        raise CheckpointError(Fault(rule, repr(kind), "quantize", remedy))
    _qwix()


def _qwix() -> Any:
    try:
        import qwix
    except ImportError as error:
        rule = "Weights are quantised by qwix."
        remedy = "Install it: pip install 'icmjax[quantize]'."
        raise CheckpointError(Fault(rule, str(error), "quantize", remedy)) from error
    return qwix
