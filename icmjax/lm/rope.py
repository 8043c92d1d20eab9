"""Rotary position embeddings (Su et al., arXiv:2104.09864), scaled to longer contexts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.errors import Fault


@dataclass(frozen=True)
class RopeConfig:
    """How positions become rotation angles.

    `scaling` stretches the wavelengths of a model trained on `original_max_length` tokens: "linear"
    divides every frequency by `factor` (Chen et al., arXiv:2306.15595); "llama3" only those whose
    wavelength is longer than `original_max_length / low_frequency_factor`, and blends up to
    `original_max_length / high_frequency_factor` (Llama 3.1).
    """

    theta: float = 10_000.0
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_length: int = 8192


def inverse_frequencies(config: RopeConfig, head_dim: int) -> np.ndarray:
    """Return the radians per position of each rotated pair, float32 `[head_dim / 2]`."""
    frequencies = config.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    match config.scaling:
        case "linear":
            frequencies = frequencies / config.factor
        case "llama3":
            turns = config.original_max_length * frequencies / (2 * np.pi)
            low, high = config.low_frequency_factor, config.high_frequency_factor
            kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
            frequencies = kept * frequencies + (1 - kept) * frequencies / config.factor
    return frequencies.astype(np.float32)


def rotations(
    config: RopeConfig, head_dim: int, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines at integer `positions` `[...]`, float32 `[..., head_dim / 2]`."""
    angles = positions.astype(jnp.float32)[..., None] * inverse_frequencies(config, head_dim)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotate `heads` `[B, T, H, head_dim]` by angles `[B, T, head_dim / 2]`, in float32.

    Dimension i is paired with i + head_dim / 2, as the Hugging Face weights have it.
    """
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[..., None, :], sines[..., None, :]
    rotated = [first * cosines - second * sines, second * cosines + first * sines]
    return jnp.concatenate(rotated, axis=-1).astype(heads.dtype)


ROPE_FIELDS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
}


def rope_from_hf(parameters: Mapping[str, Any], layer_type: str) -> tuple[RopeConfig, list[Fault]]:
    """Return one layer type's rotation, and a fault for all of it that is not computed.

    Args:
        parameters: `rope_parameters` of a `transformers` configuration; some families nest them
            by layer type.
        layer_type: "full_attention" or "sliding_attention".
    """
    parameters = parameters.get(layer_type, parameters)
    kind = parameters["rope_type"]
    where = "config.json: rope_parameters"
    if kind not in ROPE_FIELDS:
        fault = Fault(
            rule="The scaling of rotary positions must be one that the decoder computes.",
            found=f"rope_type {kind!r}",
            where=where,
            remedy=f"Use a model with one of {', '.join(sorted(ROPE_FIELDS))}.",
        )
        return RopeConfig(), [fault]
    known = {"rope_type", "type", "rope_theta"} | ROPE_FIELDS[kind]
    faults = [
        Fault(
            rule=f"Rotary positions of type {kind!r} have no further parameters.",
            found=f"{name} = {value!r}",
            where=where,
            remedy="Use a model without it, or remove the field if it has no effect.",
        )
        for name, value in parameters.items()
        if name not in known and not (name == "partial_rotary_factor" and value == 1.0)
    ]
    if ROPE_FIELDS[kind] <= parameters.keys():
        rope = RopeConfig(
            theta=float(parameters["rope_theta"]),
            scaling="none" if kind == "default" else kind,
            **{RENAMED[name]: parameters[name] for name in ROPE_FIELDS[kind]},
        )
        return rope, faults
    missing = Fault(
        rule=f"Rotary positions of type {kind!r} need all of their parameters.",
        found=f"no {', '.join(sorted(ROPE_FIELDS[kind] - parameters.keys()))}",
        where=where,
        remedy="Use the config.json that belongs to the weights.",
    )
    return RopeConfig(), [*faults, missing]


RENAMED = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_max_length",
}
