"""What an experiment costs: the times that were published, and what its first unit took."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click
from tqdm import tqdm

QUICK = "less than 3 minutes for all of them on two CPU cores (experiments/README.md)"
SIZES = ("out", "groups", "personas", "num_seeds", "data")  # that no unit's time depends on


class Published(NamedTuple):
    """A run that was timed, and whose time stands in experiments/README.md."""

    options: str  # as on the command line, without those of its size
    seconds: float  # a unit
    run: str  # how long how much of it took, and on what

    def describe(self, noun: str) -> str:
        """Its time a unit, and where that is from."""
        each = f"{duration(self.seconds)} a {noun.removesuffix('s')}"
        return f"{each} ({self.run}; experiments/README.md)"


class Cost:
    """The cost of one call of a command, of whose runs some were timed.

    Args:
      context: of the call.
      published: the runs that were timed.
      part: an option whose values are experiments of their own, which are not near one another.
      kinds: seconds of a unit by its kind, where units are of kinds that were timed one by one.
      is_sized: whether its --quick is the one that was timed.
    """

    def __init__(
        self,
        context: click.Context,
        published: Sequence[Published],
        part: str | None = None,
        kinds: Mapping[str, float] | None = None,
        is_sized: bool = True,
    ):
        self.part, self.kinds = part, kinds or {}
        self.asked = _without_sizes(context.params)
        self.known = [(one, _options_of(context.command, one.options)) for one in published]
        is_quick = is_sized and any(option.name == "quick" for option in context.command.params)
        self.quick = _options_of(context.command, "--quick") if is_quick else None

    def say(self, num_done: int, left: Sequence[str], noun: str = "units") -> None:
        """One line on stderr: what is there, what is left, and the time that is known of it.

        Args:
          num_done: units that are there.
          left: the kind of each unit that is not.
          noun: what units are called.
        """
        time = self._time(left, noun)
        num_units = num_done + len(left)
        line = f"cost: {num_done} of {num_units} {noun} are there already; {time}"
        click.echo(line, err=True)

    def say_rate(
        self, seconds: float, run: Sequence[str], left: Sequence[str], noun: str = "units"
    ) -> None:
        """One line on stderr: what the first units took, and what the others take at that rate.

        Where kinds were timed the rate is that of the first units to what is known of theirs.
        """
        if left:
            one = noun.removesuffix("s")
            first = f"first {one}" if len(run) == 1 else f"first {len(run)} {noun}"
            others = f"1 more {one}" if len(left) == 1 else f"{len(left)} more {noun}"
            time = duration(seconds / self._known_seconds(run) * self._known_seconds(left))
            line = f"cost: the {first} took {duration(seconds)}, with compilation; "
            tqdm.write(f"{line}{others} at that rate: {time}", file=sys.stderr)

    def _known_seconds(self, units: Sequence[str]) -> float:
        """What units of these kinds took; their number where kinds were not timed.

        A kind that was not timed counts as the longest one that was.
        """
        longest = max(self.kinds.values(), default=1.0)
        return sum(self.kinds.get(kind, longest) for kind in units)

    def _time(self, left: Sequence[str], noun: str) -> str:
        num_left = len(left)
        if not left:
            return "nothing is left to run"
        if self.asked == self.quick:
            return QUICK
        if self.kinds:
            time = duration(self._known_seconds(left))
            return (
                f"{time} for the {num_left} left, by each kind's time with the options by default"
            )
        if not self.known:
            return f"no time is published; the first {noun.removesuffix('s')} will tell"
        nearest, options = min(self.known, key=lambda known: self._distance(known[1]))
        known = nearest.describe(noun)
        if options == self.asked:
            left = duration(nearest.seconds * num_left)
            return f"{known}; at that rate {left} for the {num_left} left"
        named = f"of `{nearest.options}`" if nearest.options else "without options"
        first = f"the first {noun.removesuffix('s')} will tell"
        return f"no time is published of these options, {first}; the nearest is {named}, {known}"

    def _distance(self, options: Mapping[str, Any]) -> tuple[bool, int]:
        others = [name for name, value in options.items() if self.asked[name] != value]
        return self.part in others, len(others)


def duration(seconds: float) -> str:
    """A time in words, to two digits or three."""
    if seconds < 240:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _options_of(command: click.Command, words: str) -> dict[str, Any]:
    """Options and their values, by default where the words do not name them."""
    return _without_sizes(command.make_context(command.name, shlex.split(words)).params)


def _without_sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in SIZES}
