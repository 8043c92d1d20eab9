"""When tempering does what: the warm start, the burn-in and the sampling, one after the other."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from icmjax.search.base import check_ranges

FIRST_ROUND = 8  # steps before the ladder is first adapted; every round is twice as long
FIRST_HALF = 8  # samples of the cold rung that the next as many are first compared with


class Phases(NamedTuple):
    """The steps at which the phases of a search end; each begins where the one before it ends."""

    warm_start: int
    burn_in: int
    sampling: int

    def round_ends(self) -> list[int]:
        """The last step of each round of adaptation: of 8, 16, 32, ... steps in the burn-in."""
        end, length, ends = self.warm_start - 1 + FIRST_ROUND, FIRST_ROUND, []
        while end < self.burn_in:
            ends.append(end)
            length *= 2
            end += length
        return ends

    def half_ends(self) -> list[int]:
        """The steps after which there are 8, 16, 32, ... samples: a half, and then two of them."""
        end, length, ends = self.burn_in - 1 + FIRST_HALF, FIRST_HALF, []
        while end < self.sampling:
            ends.append(end)
            end += length
            length *= 2
        return ends


@dataclasses.dataclass(frozen=True)
class TemperingSchedule:
    """How long parallel tempering takes, and which share of it adapts the ladder.

    Attributes:
      num_iterations: passes for every replica, those of the warm start among them.
      burn_in: share of the steps after the warm start in which the ladder adapts, in rounds of
        doubling length; after it the ladder is frozen.
      marginal_tolerance: a chain ends where the marginals of the two halves of its samples differ
        by no more: the share of claims with another label, on average. It looks after 16, 32, 64,
        ... samples. None for all steps.

    Raises:
      InputError: a field is out of its range.
    """

    num_iterations: int = 64
    burn_in: float = 0.3
    marginal_tolerance: float | None = None

    def __post_init__(self) -> None:
        ranges = {
            "num_iterations": (self.num_iterations >= 2, "2 or more"),
            "burn_in": (0 <= self.burn_in < 1, "0 or more, and below 1"),
            "marginal_tolerance": (
                self.marginal_tolerance is None or 0 <= self.marginal_tolerance <= 1,
                "0 to 1, or None",
            ),
        }
        check_ranges(self, ranges)

    def phases(self, num_ascent_steps: int, num_replicas: int) -> Phases:
        """The phases, where a warm start takes so many steps for each of R replicas.

        Without a warm start one step scores where all replicas start.
        """
        num_warm = num_ascent_steps * num_replicas if num_ascent_steps > 1 else 1
        num_steps = self.num_iterations - num_ascent_steps + num_warm
        num_burn_in = num_warm + int(self.burn_in * (num_steps - num_warm))
        return Phases(num_warm, num_burn_in, num_steps)


class Tally(NamedTuple):
    """How many samples of C chains had each label, by halves."""

    first: Array  # int32 [C, N, Y]
    second: Array  # int32 [C, N, Y], of the samples since
    is_settled: Array  # bool [C], the chain has ended as both were alike

    def with_labels(
        self, labels: Array, is_sample: Array, is_half: Array, tolerance: float | None
    ) -> "Tally":
        """The tally with the labels of one step more.

        Args:
          labels: int8 `[C, N]`.
          is_sample: bool `[C]`, whether they count.
          is_half: bool `[]`, whether there are now two halves, or the first one.
          tolerance: of `TemperingSchedule`.
        """
        options = jnp.arange(self.first.shape[-1], dtype=labels.dtype)
        is_label = (labels[..., None] == options) & is_sample[:, None, None]
        second = self.second + is_label.astype(jnp.int32)
        is_settled = self.is_settled
        if tolerance is not None:
            is_compared = is_sample & is_half & jnp.any(self.first > 0, axis=(1, 2))
            is_settled |= is_compared & (change(self.first, second) <= tolerance)
        return Tally(
            first=jnp.where(is_half, self.first + second, self.first),
            second=jnp.where(is_half, 0, second),
            is_settled=is_settled,
        )


def first_tally(num_chains: int, num_claims: int, num_options: int) -> Tally:
    """Of no samples."""
    zeros = jnp.zeros((num_chains, num_claims, num_options), jnp.int32)
    return Tally(zeros, zeros, jnp.zeros((num_chains,), bool))


def change(first: Array, second: Array) -> Array:
    """The mean over claims of the total variation between two tallies, `[C, N, Y]` → `[C]`."""

    def shares(tally: Array) -> Array:
        num_samples = jnp.maximum(jnp.sum(tally, axis=-1, keepdims=True), 1)
        return tally.astype(jnp.float32) / num_samples.astype(jnp.float32)

    distances = jnp.sum(jnp.abs(shares(first) - shares(second)), axis=-1) / 2
    return jnp.mean(distances, axis=-1)


@jax.custom_batching.custom_vmap
def common(number: Array) -> Array:
    """The largest of the searches that run together, `[]`; a search alone has but its own.

    It has no axis of the searches, so that a branch on it stays a branch.
    """
    return number


@common.def_vmap
def _(axis_size: int, in_batched: list[bool], number: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return jnp.max(number, axis=0), False
