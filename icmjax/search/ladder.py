"""The ladder of inverse temperatures: its rungs, swaps between neighbours, and its adaptation.

Non-reversible parallel tempering of Syed et al. (arXiv:1905.02939): the pairs (0, 1), (2, 3), ...
and (1, 2), (3, 4), ... take turns, so that a replica travels along the ladder rather than diffuses.
Rung 0 is the coldest.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from icmjax.search.base import acceptance_probability, check_ranges, metropolis_accept


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The temperatures of R rungs, in units of U.

    Attributes:
      num_replicas: R, of a chain.
      temperature: of the coldest rung.
      hot_temperature: of the hottest rung.
      final_temperature: where the coldest rung is annealed to after the burn-in, geometrically, the
        ladder stretching with it; None to stay. The marginals are then of no one law.

    Raises:
      InputError: a field is out of its range.
    """

    num_replicas: int = 8
    temperature: float = 0.2
    hot_temperature: float = 10.0
    final_temperature: float | None = None

    def __post_init__(self) -> None:
        final = self.final_temperature
        ranges = {
            "num_replicas": (self.num_replicas >= 1, "1 or more"),
            "temperature": (self.temperature > 0, "a number above 0"),
            "hot_temperature": (self.hot_temperature > self.temperature, "above temperature"),
            "final_temperature": (
                final is None or 0 < final <= self.temperature,
                "above 0 and not above temperature, or None",
            ),
        }
        check_ranges(self, ranges)

    def inverse_temperatures(self) -> Array:
        """Geometric, from 1 / temperature down to 1 / hot_temperature: float32 `[R]`."""
        share = jnp.arange(self.num_replicas, dtype=jnp.float32) / max(self.num_replicas - 1, 1)
        return (1 / self.temperature) * (self.temperature / self.hot_temperature) ** share

    def coldest(self, num_sampled: Array, num_annealed: int) -> Array:
        """Inverse temperature of rung 0 after so many of the annealed steps, float32 `[...]`."""
        cold = jnp.float32(1 / self.temperature)
        if self.final_temperature is None:
            return jnp.broadcast_to(cold, num_sampled.shape)
        share = jnp.clip(num_sampled.astype(jnp.float32) / max(num_annealed, 1), 0, 1)
        return cold * (self.temperature / self.final_temperature) ** share


class Rungs(NamedTuple):
    """Which replica of C chains is on which rung, and what adapting the ladder has counted."""

    of_replica: Array  # int32 [C, R], the rung of each replica
    inverse_temperatures: Array  # float32 [C, R], by rung
    rejections: Array  # float32 [C, R - 1], summed in this round of adaptation
    num_trials: Array  # int32 [C], steps of this round

    @property
    def replicas(self) -> Array:
        """The replica on each rung, `[C, R]`."""
        return jnp.argsort(self.of_replica, axis=-1).astype(jnp.int32)


class Swaps(NamedTuple):
    """What became of the swaps of one step."""

    replicas: Array  # int32 [C, R], on each rung after them
    probability: Array  # float32 [C, R - 1], of rungs r and r + 1, tried or not
    is_swapped: Array  # bool [C, R - 1]


def first_rungs(ladder: Ladder, num_chains: int) -> Rungs:
    """Replica r of every chain on rung r."""
    shape = (num_chains, ladder.num_replicas)
    return Rungs(
        of_replica=jnp.broadcast_to(jnp.arange(ladder.num_replicas, dtype=jnp.int32), shape),
        inverse_temperatures=jnp.broadcast_to(ladder.inverse_temperatures(), shape),
        rejections=jnp.zeros((num_chains, ladder.num_replicas - 1), jnp.float32),
        num_trials=jnp.zeros((num_chains,), jnp.int32),
    )


def unswapped(replicas: Array) -> Swaps:
    """No swaps: replicas `[C, R]` stay where they are put."""
    probability = jnp.ones(replicas[:, 1:].shape, jnp.float32)
    return Swaps(replicas, probability, jnp.zeros(probability.shape, bool))


def swap_rungs(
    keys: Array, inverse_temperatures: Array, replicas: Array, utilities: Array, parity: Array
) -> Swaps:
    """Swaps of neighbours: rungs r and r + 1 where r has the parity.

    Args:
      keys: `[C]`.
      inverse_temperatures: `[C, R]`, by rung.
      replicas: int32 `[C, R]`, on each rung.
      utilities: `[C, R]`, of each replica.
      parity: 0 or 1.
    """
    by_rung = jnp.take_along_axis(utilities, replicas, axis=-1)
    log_ratios = swap_log_ratio(inverse_temperatures, by_rung)
    is_tried = jnp.arange(log_ratios.shape[-1], dtype=jnp.int32) % 2 == parity
    is_swapped = is_tried & jax.vmap(metropolis_accept)(keys, log_ratios)
    after = jax.vmap(swap_neighbours)(replicas, is_swapped)
    return Swaps(after, acceptance_probability(log_ratios), is_swapped)


def adapt(rungs: Rungs, swap_probability: Array, is_burn_in: Array, is_round_over: Array) -> Rungs:
    """Counts the rejections of a step of the burn-in; at the end of a round adapts the ladder."""
    rejections = rungs.rejections + jnp.where(is_burn_in, 1 - swap_probability, 0.0)
    num_trials = rungs.num_trials + is_burn_in.astype(jnp.int32)
    means = rejections / jnp.maximum(num_trials, 1)[:, None].astype(jnp.float32)
    adapted = jax.vmap(adapted_ladder)(rungs.inverse_temperatures, means)
    return rungs._replace(
        inverse_temperatures=jnp.where(is_round_over, adapted, rungs.inverse_temperatures),
        rejections=jnp.where(is_round_over, 0.0, rejections),
        num_trials=jnp.where(is_round_over, 0, num_trials),
    )


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
    return replica_of_rung[jnp.arange(replica_of_rung.shape[0], dtype=jnp.int32) + step]


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
