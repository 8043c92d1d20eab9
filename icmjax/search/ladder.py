"""The ladder of inverse temperatures: swaps between neighbours, and its adaptation.

Non-reversible parallel tempering of Syed et al. (arXiv:1905.02939): the pairs (0, 1), (2, 3), ...
and (1, 2), (3, 4), ... take turns, so that a replica travels along the ladder rather than diffuses.
Rung 0 is the coldest.
"""

import jax.numpy as jnp
from jax import Array


def geometric_ladder(temperature: float, hot_temperature: float, num_replicas: int) -> Array:
    """Inverse temperatures from 1 / temperature down to 1 / hot_temperature: float32 `[R]`."""
    share = jnp.arange(num_replicas, dtype=jnp.float32) / max(num_replicas - 1, 1)
    return (1 / temperature) * (temperature / hot_temperature) ** share


def swap_log_ratio(inverse_temperatures: Array, utilities: Array) -> Array:
    """(β_r − β_{r+1}) (U_{r+1} − U_r), the log acceptance ratio of each neighbours' swap.

    Args:
      inverse_temperatures: `[..., R]`, by rung.
      utilities: `[..., R]`, by rung.

    Returns:
      `[..., R - 1]`.
    """
    beta, u = inverse_temperatures, utilities
    return (beta[..., :-1] - beta[..., 1:]) * (u[..., 1:] - u[..., :-1])


def swap_neighbours(replica_of_rung: Array, is_swapped: Array) -> Array:
    """Exchanges rungs r and r + 1 where `is_swapped[r]`, no two of them neighbours: int32 `[R]`."""
    down = jnp.concatenate([is_swapped, jnp.zeros(1, bool)])
    up = jnp.concatenate([jnp.zeros(1, bool), is_swapped])
    step = down.astype(jnp.int32) - up.astype(jnp.int32)
    return replica_of_rung[jnp.arange(replica_of_rung.shape[0]) + step]


def adapted_ladder(inverse_temperatures: Array, rejections: Array) -> Array:
    """The ladder between the same ends on which all swaps are rejected equally often.

    The cumulative rejection rate is taken for piecewise linear in β (Syed et al., algorithm 2).

    Args:
      inverse_temperatures: `[R]`, falling.
      rejections: `[R - 1]`, rejection rates of the swaps.

    Returns:
      `[R]`, falling.
    """
    num_replicas = inverse_temperatures.shape[0]
    # A floor keeps rungs apart where no swap was rejected.
    barrier = jnp.cumsum(jnp.maximum(rejections, 1e-3))
    barrier = jnp.concatenate([jnp.zeros(1, barrier.dtype), barrier])
    share = jnp.arange(num_replicas, dtype=barrier.dtype) / max(num_replicas - 1, 1)
    wanted = share * barrier[-1]
    inner = jnp.interp(wanted, barrier, inverse_temperatures)
    return inverse_temperatures.at[1:-1].set(inner[1:-1])


def stretched_ladder(inverse_temperatures: Array, coldest: Array) -> Array:
    """The ladder `[..., R]` with its cold end moved to `coldest`, its hot end kept."""
    cold, hot = inverse_temperatures[..., :1], inverse_temperatures[..., -1:]
    span = jnp.where(cold > hot, cold - hot, 1.0)
    stretched = hot + (inverse_temperatures - hot) * (coldest - hot) / span
    return jnp.where(cold > hot, stretched, coldest)
