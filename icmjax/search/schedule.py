"""When tempering does what: the warm start, the burn-in and the sampling, one after the other."""

import dataclasses
from typing import NamedTuple

from icmjax.search.base import check_ranges

FIRST_ROUND = 8  # steps before the ladder is first adapted; every round is twice as long


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


@dataclasses.dataclass(frozen=True)
class TemperingSchedule:
    """How long parallel tempering takes, and which share of it adapts the ladder.

    Attributes:
      num_iterations: passes for every replica, those of the warm start among them.
      burn_in: share of the steps after the warm start in which the ladder adapts, in rounds of
        doubling length; after it the ladder is frozen.

    Raises:
      InputError: a field is out of its range.
    """

    num_iterations: int = 64
    burn_in: float = 0.3

    def __post_init__(self) -> None:
        ranges = {
            "num_iterations": (self.num_iterations >= 2, "2 or more"),
            "burn_in": (0 <= self.burn_in < 1, "0 or more, and below 1"),
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
