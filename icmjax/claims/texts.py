"""Texts and other cells as readers see them: blank, not printable, or too long for a message."""

import math
import unicodedata
from typing import Any

# Letters, marks and symbols by their category that nevertheless show nothing.
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_INVISIBLE = {"Cc", "Cf", "Mn", "Me", "Zl", "Zp", "Zs"}


def is_blank(value: Any) -> bool:
    """Whether a cell is empty: null, text that shows nothing or the NaN of a table with gaps."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not any(map(_is_visible, value)))


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in _INVISIBLE and character not in _FILLERS


def surrogate(text: str) -> str | None:
    """The first half of a surrogate pair as "U+D800"; None in text that UTF-8 can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X}"
    return None


def short(value: Any, limit: int = 60) -> str:
    """A value as Python writes it, cut to `limit` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        text = f"too long a {type(value).__name__} to show"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_and_value(value: Any) -> str:
    """What a message says was found in a cell, such as "int 7"; "nothing" for null."""
    return "nothing" if value is None else f"{type(value).__name__} {short(value)}"
