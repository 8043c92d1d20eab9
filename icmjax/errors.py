"""Errors that say the rule, what was found, where, and what to do about it."""

import re
import reprlib
from collections.abc import Sequence
from typing import NamedTuple

# Controls move a terminal's cursor or colour it, some turn the direction of writing round, and
# halves of surrogate pairs cannot be printed at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with all that would steer a terminal written as escapes, such as \\x1b.

    Args:
      text: any text.
      keep: control characters that stay as they are; "" keeps the text on one line.
    """
    return _UNPRINTABLE.sub(lambda found: _escape(found[0], keep), text)


def _escape(character: str, keep: str) -> str:
    return character if character in keep else repr(character)[1:-1]


class Fault(NamedTuple):
    """One broken rule of the input."""

    rule: str  # what must hold, as a full sentence
    found: str  # what was there instead
    where: str  # file, line and field, or the argument's name
    remedy: str  # what to do

    def __str__(self) -> str:
        rule, found, where, remedy = (printable(text, keep="") for text in self)
        return f"expected: {rule}\n  found: {found}\n  where: {where}\n  to do: {remedy}"


class InputError(ValueError):
    """Input that breaks one or more rules; all faults found are in `faults`.

    The command line prints the message alone, without a traceback, and exits with status 2. Faults
    of one cause, which is the same rule and remedy, are shown together.
    """

    max_causes = 20
    max_places = 3  # of one cause

    def __init__(self, faults: Fault | Sequence[Fault]):
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        assert self.faults, "an InputError needs at least one fault"
        causes: dict[tuple[str, str], list[Fault]] = {}
        for fault in self.faults:
            causes.setdefault((fault.rule, fault.remedy), []).append(fault)
        groups = list(causes.values())
        shown = [_message(group, self.max_places) for group in groups[: self.max_causes]]
        left_out = groups[self.max_causes :]
        if left_out:
            num_faults = sum(map(len, left_out))
            shown.append(f"... and {num_faults} more faults of {len(left_out)} other causes")
        super().__init__("\n".join(shown))

    def __reduce__(self) -> tuple:
        return type(self), (self.faults,)


def _message(faults: Sequence[Fault], max_places: int) -> str:
    """Faults of one cause: the rule and the remedy once, what was found at the first places."""
    first, *others = faults
    rule, *places, remedy = str(first).split("\n")
    for fault in others[: max_places - 1]:
        places += str(fault).split("\n")[1:-1]
    if len(faults) > max_places:
        places.append(f"  and {len(faults) - max_places} more")
    return "\n".join([rule, *places, remedy])


class Kind(NamedTuple):
    """What an argument of the library has to be, and whether it is."""

    value: object  # that was given
    is_right: bool
    kind: str  # in words, with its article
    remedy: str


def check_kinds(error: "type[InputError] | None" = None, /, **arguments: Kind) -> None:
    """Raise for all arguments of the wrong kind at once.

    Args:
      error: which; by default an `InputError`.
      arguments: by name.

    Raises:
      InputError: an argument is of another kind.
    """
    faults = [
        Fault(f"`{name}` is {kind}.", _shown(value), name, remedy)
        for name, (value, is_right, kind, remedy) in arguments.items()
        if not is_right
    ]
    if faults:
        raise (error or InputError)(faults)


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{type(value).__name__} {reprlib.repr(value)}"


class ClaimsError(InputError):
    """The claims, their labels or their pair rules are not usable."""


class PromptError(InputError):
    """A prompt does not fit the model, or labels cannot be told apart by their tokens."""


class CheckpointError(InputError):
    """A model folder lacks files, or holds weights or a configuration that do not fit."""


class ScoreError(InputError):
    """A label log-prob is not a finite number."""


class RunError(InputError):
    """A run folder cannot be written to, read from or resumed."""


class RunWarning(UserWarning):
    """Part of a run folder is damaged, and the search goes on without it."""


class Preempted(Exception):
    """A search ended between two of its blocks, as it was asked to; what it had taken is saved.

    Nothing is wrong with what it was given: this is no `InputError`.
    """

    def __init__(self, num_steps: int):
        self.num_steps = num_steps  # that it had taken
        super().__init__(num_steps)

    def __str__(self) -> str:
        return f"the search ended as it was asked to, after {self.num_steps} steps"
