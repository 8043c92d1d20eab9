"""When tempering does what: warm start, burn-in, sampling; and how cold its coldest rung is."""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array

WarmStart = Literal["zero_shot", "bootstrap", "random", "labels"]
WARM_STARTS: tuple[str, ...] = get_args(WarmStart)
FIRST_ROUND = 8  # steps before the ladder is first adapted; every round is twice as long


@dataclasses.dataclass(frozen=True)
class TemperingSchedule:
    """The steps of parallel tempering, in phases.

    The warm start, of "zero_shot" and "bootstrap", takes one replica of each chain after another,
    since the first ones often do: it scores where the replica starts, and then relabels it by its
    own argmax once, with "bootstrap" `num_bootstraps` times more. The burn-in, a share `burn_in` of
    the other steps, adapts the ladder in rounds of doubling length, after which it is frozen.

    Attributes:
      num_iterations: passes for every replica; those of the warm start are steps of their own.
      num_replicas: R, of a chain.
      temperature: of the coldest rung, in units of U.
      final_temperature: where the coldest rung is annealed to after the burn-in, geometrically, the
        ladder stretching with it; None to stay. The marginals are then of no one law.
      burn_in: share of the steps after the warm start in which the ladder adapts.
      warm_start: "zero_shot", "bootstrap", or, without a warm start: "random", or "labels", where
        replica 0 of chain 0 starts from `start_labels`.
      num_bootstraps: argmax relabellings of every replica after the first one, where the warm start
        is "bootstrap".
      start_labels: of all N claims, where the warm start is "labels". No part of equality and of
        the hash, as no program depends on them.
    """

    num_iterations: int = 64
    num_replicas: int = 8
    temperature: float = 0.2
    final_temperature: float | None = None
    burn_in: float = 0.3
    warm_start: WarmStart = "bootstrap"
    num_bootstraps: int = 2
    start_labels: tuple[int, ...] = dataclasses.field(default=(), compare=False)

    def schedule_ranges(self) -> dict[str, tuple[bool, str]]:
        """By field, whether its value is valid, and the range in words."""
        final = self.final_temperature
        return {
            "num_iterations": (
                self.num_iterations > self.num_ascent_steps,
                "more than the passes of the warm start",
            ),
            "num_replicas": (self.num_replicas >= 1, "1 or more"),
            "temperature": (self.temperature > 0, "a number above 0"),
            "final_temperature": (
                final is None or 0 < final <= self.temperature,
                "above 0 and not above temperature, or None",
            ),
            "burn_in": (0 <= self.burn_in < 1, "0 or more, and below 1"),
            "warm_start": (
                self.warm_start in WARM_STARTS,
                f"one of {', '.join(WARM_STARTS)}",
            ),
            "start_labels": (
                bool(self.start_labels) == (self.warm_start == "labels"),
                'given where warm_start is "labels", and only there',
            ),
            "num_bootstraps": (self.num_bootstraps >= 0, "0 or more"),
        }

    @property
    def num_ascent_steps(self) -> int:
        """Steps in which the warm start takes one replica up; 1 without it, of all together."""
        return {"zero_shot": 2, "bootstrap": 2 + self.num_bootstraps}.get(self.warm_start, 1)

    @property
    def num_warm_steps(self) -> int:
        """Steps before the sampling."""
        is_warm = self.num_ascent_steps > 1
        return self.num_ascent_steps * self.num_replicas if is_warm else 1

    @property
    def num_burn_in(self) -> int:
        """Steps up to the end of the burn-in."""
        return self.num_warm_steps + int(self.burn_in * (self.last_step - self.num_warm_steps))

    @property
    def last_step(self) -> int:
        """The number of steps."""
        return self.num_iterations - self.num_ascent_steps + self.num_warm_steps

    def num_steps(self, num_claims: int) -> int:
        """The number of steps, whatever N."""
        del num_claims
        return self.last_step

    def coldest(self, step: Array) -> Array:
        """Inverse temperature of rung 0 at step n, int32 `[...]` → float32 `[...]`."""
        cold = jnp.float32(1 / self.temperature)
        if self.final_temperature is None:
            return jnp.broadcast_to(cold, step.shape)
        num_annealed = max(self.last_step - 1 - self.num_burn_in, 1)
        share = jnp.clip((step - self.num_burn_in).astype(jnp.float32) / num_annealed, 0, 1)
        return cold * (self.temperature / self.final_temperature) ** share

    def round_ends(self) -> list[int]:
        """Steps after which the ladder is adapted: rounds of 8, 16, 32, ... in the burn-in."""
        end, length, ends = self.num_warm_steps - 1 + FIRST_ROUND, FIRST_ROUND, []
        while end < self.num_burn_in:
            ends.append(end)
            length *= 2
            end += length
        return ends
