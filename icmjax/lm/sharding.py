"""How a model's weights lie on a mesh of devices: whole, or shared out along "model"."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from icmjax.errors import Fault, InputError
from icmjax.lm.config import MODEL_AXIS, DecoderConfig

if TYPE_CHECKING:
    from icmjax.lm.reading import ShardingFn

# Labellings of independent chains, queries of a tree, and parts of the weights.
CHAIN_AXIS, QUERY_AXIS = "chain", "query"
AXES = (CHAIN_AXIS, QUERY_AXIS, MODEL_AXIS)
# Of what columns are shared out, outputs lie on their own devices; of what rows are, they are
# summed over devices: one sum for attention and one for the MLP in a layer (arXiv:1909.08053).
COLUMNS = {("attention", name) for name in ("query", "key", "value")}
COLUMNS |= {("mlp", "gate"), ("mlp", "up")}
ROWS = {("attention", "out"), ("mlp", "down")}
HEAD_NORMS = {("attention", "query_norm"), ("attention", "key_norm")}


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of the axes "chain", "query" and "model".

    Args:
        shape: Devices along each axis; 1 for those that are not named.
        devices: As many as that takes, in the order of the axes; None for the first of
            `jax.devices()`. Neighbours share weights, which they exchange in every layer.

    Raises:
        InputError: An axis is unknown, a number is below 1, or there are fewer devices.
    """
    found = list(jax.devices() if devices is None else devices)
    sizes = [shape.get(axis, 1) for axis in AXES]
    faults = []
    unknown = sorted(set(shape) - set(AXES))
    if unknown:
        rule = f"A mesh has the axes {', '.join(AXES)}."
        faults.append(Fault(rule, ", ".join(unknown), "mesh", "leave out the others"))
    if min(sizes) < 1:
        rule = "An axis of a mesh has one device or more."
        faults.append(Fault(rule, str(dict(shape)), "mesh", "give whole numbers from 1 on"))
    elif np.prod(sizes) > len(found):
        rule = "A mesh is of devices that are there."
        text = f"{np.prod(sizes)}, and there are {len(found)}"
        remedy = f"ask for {len(found)} at the most; for a CPU's cores JAX_NUM_CPU_DEVICES="
        remedy += f"{np.prod(sizes)} makes as many"
        faults.append(Fault(rule, text, "mesh", remedy))
    if faults:
        raise InputError(faults)
    return Mesh(np.array(found[: np.prod(sizes)]).reshape(sizes), AXES)


def default_mesh(config: DecoderConfig, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """Return the mesh on which a model lies where nobody says one; None for one device.

    As many devices as can share the weights, which any pass has a use for; what is left of them
    along "chain".

    Args:
        config: Of the decoder.
        devices: None for `jax.devices()`.
    """
    found = list(jax.devices() if devices is None else devices)
    number = len(found)
    if number == 1:
        return None
    num_parts = next(
        parts
        for parts in range(number, 0, -1)
        if number % parts == 0 and not _uneven(config, parts)
    )
    return make_mesh({MODEL_AXIS: num_parts, CHAIN_AXIS: number // num_parts}, found)


def spread_config(config: DecoderConfig, mesh: Mesh) -> DecoderConfig:
    """Return the configuration on a mesh, with a key-value head or more for each part of it.

    Fewer heads are repeated, so that every device has those that its queries attend to.

    Raises:
        InputError: Heads, MLP columns or the hidden size cannot be shared out evenly.
    """
    num_parts = mesh.shape[MODEL_AXIS]
    if uneven := _uneven(config, num_parts):
        rule = f"Devices along {MODEL_AXIS} share weights evenly."
        found = f"{num_parts} devices for {', '.join(uneven)}"
        remedy = "give a number that divides them, and more devices along query"
        raise InputError(Fault(rule, found, f"mesh: {MODEL_AXIS}", remedy))
    repeats = num_parts // config.num_kv_heads if _repeats_heads(config, num_parts) else 1
    num_kv_heads = repeats * config.num_kv_heads
    return replace(config, num_kv_heads=num_kv_heads, mesh=mesh, kv_repeats=repeats)


def without_mesh(config: DecoderConfig, params: nnx.State) -> tuple[DecoderConfig, nnx.State]:
    """Return a model as its files have it, whatever mesh it lies on: no head is there twice."""
    repeats, size = config.kv_repeats, config.head_dim
    plain = replace(config, num_kv_heads=config.num_kv_heads // repeats, mesh=None, kv_repeats=1)
    if repeats == 1:
        return plain, params

    def once(path: tuple[str, ...], leaf: jax.Array) -> jax.Array:
        name = path[-2] if len(path) > 1 else ""
        if name not in ("key", "value", "key_norm"):
            return leaf
        if name == "key_norm" and config.qk_norm in ("head", "own"):
            return leaf if config.qk_norm == "head" else leaf[..., ::repeats, :]
        heads = leaf.reshape(*leaf.shape[:-1], -1, size)[..., ::repeats, :]
        return heads.reshape(*leaf.shape[:-1], -1)

    flat = nnx.traversals.flatten_mapping(nnx.to_pure_dict(params))
    arrays = {path: jax.tree.map(partial(once, path), leaf) for path, leaf in flat.items()}
    own = jax.tree.map(lambda leaf: leaf, params)
    nnx.replace_by_pure_dict(own, nnx.traversals.unflatten_mapping(arrays))
    return plain, own


def _repeats_heads(config: DecoderConfig, num_parts: int) -> bool:
    return config.num_kv_heads < num_parts and num_parts % config.num_kv_heads == 0


def _uneven(config: DecoderConfig, num_parts: int) -> list[str]:
    """What so many devices cannot share evenly, in words."""
    num_kv_heads = num_parts if _repeats_heads(config, num_parts) else config.num_kv_heads
    sizes = {
        "heads": config.num_heads,
        "key-value heads": num_kv_heads,
        "columns of the MLP": config.mlp_size,
        "hidden dimensions": config.hidden_size,
    }
    return [f"{size} {name}" for name, size in sizes.items() if size % num_parts]


def weights_on(mesh: Mesh, config: DecoderConfig) -> "ShardingFn":
    """Return where each parameter lies on a mesh."""

    def sharding(path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        axis = _shared_axis(path, shape, config)
        parts: list[str | None] = [None] * len(shape)
        if axis is not None:
            parts[axis] = MODEL_AXIS
        return NamedSharding(mesh, PartitionSpec(*parts))

    return sharding


def _shared_axis(
    path: tuple[str, ...], shape: tuple[int, ...], config: DecoderConfig
) -> int | None:
    """The axis of a parameter along which devices share it; None where each has the whole."""
    last, place, leaf = len(shape) - 1, path[-3:-1], path[-1]
    if path[0] in ("embedding", "positions"):
        return last
    if path[0] == "head":
        return 0
    if place in COLUMNS:
        return last
    if place in ROWS and leaf == "kernel":
        return last - 1
    if place in HEAD_NORMS and config.qk_norm in ("flat", "own"):
        return last if config.qk_norm == "flat" else last - 1
    return None
