"""Labels as files write them: which option a cell names, and what options there may be."""

import math
import re
from collections.abc import Sequence
from typing import Any

from icmjax.claims.claim_set import BINARY_OPTIONS, UNLABELLED
from icmjax.claims.texts import is_blank, short, surrogate
from icmjax.errors import ClaimsError, Fault

_INDEX = re.compile(r"0*([0-9]{1,3})(?:\.0*)?")  # whole, as 1 or 1.0
_MAX_OPTIONS = 128  # labels are int8
_TRUE_WORDS = {"yes", "y", "t", "agree", "agreed", "correct", "right", "support"}
_FALSE_WORDS = {"no", "n", "f", "disagree", "disagreed", "incorrect", "wrong", "oppose"}


def label_index(value: Any, options: tuple[str, ...]) -> int | None:
    """The index of a label's option, UNLABELLED where there is none, None where it is no label.

    A number is the option of that name where options are numbers, and an index elsewhere. It means
    the same whether a file has it as a number or, as CSV does, as text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNLABELLED
    if isinstance(value, bool):
        return int(value) if options == BINARY_OPTIONS else None
    if isinstance(value, str):
        if value in options:
            return options.index(value)
        text = value.strip()
        if not text:
            return UNLABELLED
        names = [option.strip() for option in options]
        if text in names:
            return names.index(text)
        if options == BINARY_OPTIONS and text.lower() in ("false", "true"):
            return int(text.lower() == "true")
        number = _INDEX.fullmatch(text)
        value = int(number[1]) if number else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        return None
    # On a scale whose options are numbers, a number is the option of that name.
    named = {option.strip(): index for index, option in enumerate(options)}
    if any(name.isdecimal() for name in named):
        return named.get(str(value))
    return value if 0 <= value < len(options) else None


def label_hint(value: Any, options: tuple[str, ...]) -> str:
    """What to do about a label that is none of the options."""
    word = value.strip().lower() if isinstance(value, str) else ""
    is_true, is_false = word in _TRUE_WORDS, word in _FALSE_WORDS
    if options == BINARY_OPTIONS and (is_true or is_false):
        return (
            "write True for labels such as yes and agree, False for no and disagree; or name the "
            'options, false first, such as options=("No", "Yes")'
        )
    return "mend the label, or name the options"


def label_options(
    asked: Sequence[str] | str | None, of_file: Sequence[str] | None, name: str
) -> tuple[str, ...]:
    """The label options that were asked for, else those of the file, else False and True.

    Args:
      asked: from false to true.
      of_file: that a written file has.
      name: what messages call the file.

    Raises:
      ClaimsError: they are fewer than two, too many, or no distinct names.
    """
    given = (asked,) if isinstance(asked, str) else asked
    chosen = tuple(given or of_file or BINARY_OPTIONS)
    is_named = all(isinstance(option, str) and not is_blank(option) for option in chosen)
    is_distinct = is_named and len({option.strip() for option in chosen}) == len(chosen)
    is_text = is_named and surrogate("".join(chosen)) is None
    if len(chosen) < 2 or not (is_distinct and is_text):
        remedy = "name at least two, from false to true"
        found = short(chosen, 200)
        raise ClaimsError(Fault("Label options are distinct names.", found, name, remedy))
    if len(chosen) > _MAX_OPTIONS:
        rule, remedy = f"There are at most {_MAX_OPTIONS} label options.", "name fewer"
        raise ClaimsError(Fault(rule, str(len(chosen)), name, remedy))
    return chosen
