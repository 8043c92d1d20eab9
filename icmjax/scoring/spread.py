"""How devices share a prefix tree: each reads the way down to leaves of its own."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from icmjax.errors import Fault, InputError
from icmjax.lm import CHAIN_AXIS, QUERY_AXIS


def share(arities: Sequence[int], num_devices: int) -> tuple[int, ...]:
    """Children that a device reads of each node it has read, per level; the topmost are shared out.

    Args:
      arities: children of a node of the level above, per level.
      num_devices: D.

    Raises:
      InputError: D devices cannot have as many leaves each.
    """
    shares, left = _share(arities, num_devices)
    if left > 1:
        fewer = next(d for d in range(num_devices, 0, -1) if _share(arities, d)[1] == 1)
        raise InputError(
            Fault(
                "Devices share the leaves of a tree evenly.",
                f"{num_devices} devices for {math.prod(arities)} leaves",
                "devices",
                f"give {fewer} of them",
            )
        )
    return shares


def _share(arities: Sequence[int], num_devices: int) -> tuple[tuple[int, ...], int]:
    shares, left = [], num_devices
    for arity in arities:
        taken = math.gcd(arity, left)
        shares.append(arity // taken)
        left //= taken
    return tuple(shares), left


def own_children(
    parents: jax.Array, level: int, arities: Sequence[int], shares: Sequence[int]
) -> jax.Array:
    """The children of nodes int32 `[n]` that this device reads, int32 `[n, shares[level]]`.

    Where nothing is shared out at this level, it needs no device to be known.
    """
    first = jnp.int32(0)
    taken = [arity // part for arity, part in zip(arities, shares, strict=True)]
    if taken[level] > 1:
        place = jax.lax.axis_index(QUERY_AXIS) // math.prod(taken[level + 1 :])
        first = (place % taken[level] * shares[level]).astype(jnp.int32)
    column = jnp.arange(shares[level], dtype=jnp.int32)
    return parents[:, None] * arities[level] + first + column


def on_each_device(
    read_leaves: Callable[..., jax.Array],
    mesh: Mesh,
    arities: Sequence[int],
    shares: Sequence[int],
    whole: object,
    *batched: object,
) -> jax.Array:
    """Let every device read its leaves, float32 `[b, leaves / D, Y]`, and return all in order.

    Args:
      read_leaves: of `whole` and `batched`.
      mesh: D devices along "query". Those along "chain" have labellings of their own, and those
        along "model" read together, each with its part of the weights.
      arities, shares: as of `share`.
      whole: what every device has whole, the weights' parts apart.
      batched: with a leading axis of b labellings.
    """
    # The check of what varies between devices wants the first value of every loop marked so.
    apart = jax.shard_map(
        read_leaves,
        mesh=mesh,
        in_specs=(PartitionSpec(), *(PartitionSpec(CHAIN_AXIS) for _ in batched)),
        out_specs=PartitionSpec(CHAIN_AXIS, QUERY_AXIS),
        axis_names={CHAIN_AXIS, QUERY_AXIS},
        check_vma=False,
    )(whole, *batched)
    taken = [arity // part for arity, part in zip(arities, shares, strict=True)]
    by_level = apart.reshape(len(apart), *taken, *shares, apart.shape[-1])
    # Of each level first which device, then which of its children.
    places = np.arange(2 * len(arities)).reshape(2, -1).T.ravel() + 1
    in_order = by_level.transpose(0, *places.tolist(), by_level.ndim - 1)
    return in_order.reshape(len(apart), math.prod(arities), apart.shape[-1])
