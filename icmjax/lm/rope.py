"""Rotary position embeddings (Su et al., arXiv:2104.09864), scaled to longer contexts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.errors import Fault
from icmjax.lm.files import CONFIG_FILE

Scaling = Literal["none", "linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, repr=False)
class RopeConfig:
    """How positions become rotation angles.

    `scaling` stretches the wavelengths of a model trained on `original_max_length` tokens: "linear"
    divides every frequency by `factor` (Chen et al., arXiv:2306.15595); "llama3" only those whose
    wavelength is longer than `original_max_length / low_frequency_factor`, and blends up to
    `original_max_length / high_frequency_factor` (Llama 3.1); "yarn" blends along the dimensions
    between those that turn `fast_turns` and `slow_turns` times in the original context (Peng et
    al., arXiv:2309.00071); "longrope" divides each frequency by its own of `factors` (Ding et al.,
    arXiv:2402.13753).
    """

    theta: float = 10_000.0
    scaling: Scaling = "none"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_length: int = 8192
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    is_truncated: bool = True  # whether the border dimensions of "yarn" are whole numbers
    factors: tuple[float, ...] = ()  # one for each rotated pair
    amplitude: float = 1.0  # by which cosines and sines are multiplied
    fraction: float = 1.0  # of a head's dimensions, the first ones, are rotated

    def __repr__(self) -> str:
        """Return what differs from the plain rotation."""
        said = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if each.name != "factors" and getattr(self, each.name) != each.default
        ]
        said += [f"factors=<{len(self.factors)}>"] if self.factors else []
        return f"RopeConfig({', '.join(said)})"

    def size(self, head_dim: int) -> int:
        """How many dimensions of a head are rotated."""
        return int(head_dim * self.fraction)


def inverse_frequencies(config: RopeConfig, head_dim: int) -> np.ndarray:
    """Return the radians per position of each rotated pair, float32 `[size / 2]`."""
    size = config.size(head_dim)
    frequencies = config.theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    match config.scaling:
        case "linear":
            frequencies = frequencies / config.factor
        case "llama3":
            turns = config.original_max_length * frequencies / (2 * np.pi)
            low, high = config.low_frequency_factor, config.high_frequency_factor
            kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
            frequencies = kept * frequencies + (1 - kept) * frequencies / config.factor
        case "yarn":
            kept = _kept_by_yarn(config, size)
            frequencies = kept * frequencies + (1 - kept) * frequencies / config.factor
        case "longrope":
            frequencies = frequencies / np.asarray(config.factors)
    return frequencies.astype(np.float32)


def _kept_by_yarn(config: RopeConfig, size: int) -> np.ndarray:
    """How much of each pair's frequency is kept, from 1 to 0 along the dimensions: `[size / 2]`."""

    def border(turns: float) -> float:
        """The dimension that turns so often in the original context."""
        wavelength = config.original_max_length / (turns * 2 * math.pi)
        return size * math.log(wavelength) / (2 * math.log(config.theta))

    low, high = border(config.fast_turns), border(config.slow_turns)
    if config.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001  # as transformers has it
    return 1 - np.clip((np.arange(size // 2) - low) / width, 0.0, 1.0)


def rotations(
    config: RopeConfig | None, size: int, head_dim: int, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines at integer `positions` `[...]`, float32 `[..., size / 2]`.

    Args:
        config: None rotates nothing.
        size: Dimensions of a head that are rotated.
        head_dim: All dimensions of a head.
        positions: Any shape.
    """
    if config is None:
        shape = (*positions.shape, size // 2)
        return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    angles = positions.astype(jnp.float32)[..., None] * inverse_frequencies(config, head_dim)
    return config.amplitude * jnp.cos(angles), config.amplitude * jnp.sin(angles)


def rotate(heads: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotate `heads` `[B, T, H, head_dim]` by angles `[B, T, size / 2]`, in float32.

    Of the first `size` dimensions i is paired with i + size / 2, as the Hugging Face weights have
    it; the others stay.
    """
    half = cosines.shape[-1]
    turned = heads[..., : 2 * half].astype(jnp.float32)
    first, second = turned[..., :half], turned[..., half:]
    cosines, sines = cosines[..., None, :], sines[..., None, :]
    rotated = [first * cosines - second * sines, second * cosines + first * sines]
    whole = [jnp.concatenate(rotated, axis=-1).astype(heads.dtype), heads[..., 2 * half :]]
    return jnp.concatenate(whole, axis=-1)


# What each type needs, and what else it may have. "dynamic" rescales beyond the length that the
# model was made for alone, and longer prompts are refused.
NEEDED: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "dynamic": frozenset({"factor"}),
    "linear": frozenset({"factor"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
    "longrope": frozenset({"short_factor", "long_factor", "original_max_position_embeddings"}),
}
ALLOWED: dict[str, frozenset[str]] = {
    "dynamic": frozenset({"original_max_position_embeddings"}),
    # "attn_factor" is read by other programs; transformers ignores it.
    "yarn": frozenset(
        "attention_factor attn_factor mscale mscale_all_dim beta_fast beta_slow truncate".split()
    ),
    "longrope": frozenset({"attention_factor", "factor"}),
}
# Present for every type, and without effect where it is the whole.
EVERYWHERE = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


def rope_from_hf(
    parameters: Mapping[str, Any], layer_type: str, head_dim: int, lengths: tuple[int, int]
) -> tuple[RopeConfig, list[Fault]]:
    """Return one layer type's rotation, and a fault for all of it that is not computed.

    Args:
        parameters: `rope_parameters` of a `transformers` configuration; some families nest them
            by layer type.
        layer_type: "full_attention" or "sliding_attention".
        head_dim: Of the model.
        lengths: Tokens that the configuration states, and that prompts may have here.
    """
    parameters = parameters.get(layer_type, parameters)
    kind = parameters["rope_type"]
    where = f"{CONFIG_FILE}: rope_parameters"
    if kind not in NEEDED:
        fault = Fault(
            rule="The scaling of rotary positions must be one that the decoder computes.",
            found=f"rope_type {kind!r}",
            where=where,
            remedy=f"Use a model with one of {', '.join(sorted(NEEDED))}.",
        )
        return RopeConfig(), [fault]
    known = EVERYWHERE | NEEDED[kind] | ALLOWED.get(kind, frozenset())
    faults = [
        Fault(
            rule=f"Rotary positions of type {kind!r} have no further parameters.",
            found=f"{name} = {value!r}",
            where=where,
            remedy="Use a model without it, or remove the field if it has no effect.",
        )
        for name, value in parameters.items()
        if name not in known and value is not None
    ]
    missing = sorted(name for name in NEEDED[kind] if parameters.get(name) is None)
    if missing:
        fault = Fault(
            rule=f"Rotary positions of type {kind!r} need all of their parameters.",
            found=f"no {', '.join(missing)}",
            where=where,
            remedy="Use the config.json that belongs to the weights.",
        )
        return RopeConfig(), [*faults, fault]
    rope = _rope(kind, parameters, lengths)
    size, num_factors = rope.size(head_dim), len(rope.factors)
    if size % 2 or (rope.scaling == "longrope" and num_factors != size // 2):
        fault = Fault(
            rule="Rotary positions turn pairs of a head's dimensions, each with its own factor.",
            found=f"{size} of {head_dim} dimensions and {num_factors} factors",
            where=where,
            remedy="Use the config.json that belongs to the weights.",
        )
        faults.append(fault)
    return rope, faults


def _rope(kind: str, parameters: Mapping[str, Any], lengths: tuple[int, int]) -> RopeConfig:
    stated_length, used_length = lengths
    rope = RopeConfig(
        theta=float(parameters["rope_theta"]),
        fraction=float(parameters.get("partial_rotary_factor") or 1.0),
    )
    if kind in ("default", "dynamic"):
        return rope
    rope = replace(rope, scaling=cast(Scaling, kind), factor=float(parameters.get("factor") or 1.0))
    if kind == "linear":
        return rope
    original = parameters["original_max_position_embeddings"]
    rope = replace(rope, original_max_length=original)
    match kind:
        case "llama3":
            low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
            return replace(rope, low_frequency_factor=low, high_frequency_factor=high)
        case "yarn":
            return replace(
                rope,
                fast_turns=float(parameters.get("beta_fast") or 32),
                slow_turns=float(parameters.get("beta_slow") or 1),
                is_truncated=parameters.get("truncate", True),
                amplitude=_amplitude_of_yarn(parameters),
            )
    # One set of factors for prompts of every length, so that what was read of one serves another.
    factors = parameters["long_factor" if used_length > original else "short_factor"]
    ratio = float(parameters.get("factor") or stated_length / original)
    amplitude = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return replace(
        rope,
        factor=1.0,  # of the amplitude alone
        factors=tuple(map(float, factors)),
        amplitude=float(parameters.get("attention_factor") or amplitude),
    )


def _amplitude_of_yarn(parameters: Mapping[str, Any]) -> float:
    """The given one, or that of the paper's section 3.4 and DeepSeek's ratio of two of these."""
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])

    def amplitude(scale: float) -> float:
        factor = parameters["factor"]
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return amplitude(above) / amplitude(below) if above and below else amplitude(1.0)


EXPORTED = ("linear", "llama3")  # beside the default; their parameters say the whole of them
RENAMED = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_max_length",
}
