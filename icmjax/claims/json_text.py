"""JSON as claim files hold it, value by value, with the line of what cannot be read."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_DIGITS = 1000  # of a whole number; Python itself refuses to write more than 4,300
MAX_DEPTH = 100  # of lists and objects in one another; Python's own limit depends on its callers

_SPACE = re.compile(r"[ \t\r\n]*")


class Malformed(ValueError):
    """Text that is no JSON, or JSON that does not say one thing."""

    def __init__(self, found: str, position: int):
        super().__init__(found)
        self.found = found
        self.position = position


class Element(NamedTuple):
    """One element of a JSON list."""

    line: int  # on which it starts, from 1
    value: Any


def read_value(text: str) -> Any:
    """The one JSON value of a text.

    Raises:
      Malformed: see there.
    """
    value, end = _decode(text, _skip_space(text, 0))
    _expect_end(text, end)
    return value


def list_elements(text: str) -> Iterator[Element]:
    """The elements of a JSON list, one after the other.

    Raises:
      Malformed: when the place is reached; the elements before it have been given by then.
    """
    start = _skip_space(text, 0)
    if text[start : start + 1] != "[":
        value = read_value(text)
        raise Malformed(f"{type(value).__name__} instead of a list of rows", start)
    line, counted = 1, 0
    position = _skip_space(text, start + 1)
    is_more = text[position : position + 1] != "]"
    while is_more:
        value, end = _decode(text, position)
        line += text.count("\n", counted, position)
        counted = position
        yield Element(line, value)
        position = _skip_space(text, end)
        is_more = text[position : position + 1] == ","
        if is_more:
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise Malformed("Expecting ',' delimiter", position)
    _expect_end(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # matches always


def _expect_end(text: str, position: int) -> None:
    end = _skip_space(text, position)
    if end < len(text):
        raise Malformed("Extra data; one object a line belongs in a .jsonl file", end)


def _decode(text: str, position: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise Malformed(error.msg, error.pos) from None
    except RecursionError:
        raise Malformed(_TOO_DEEP, position) from None
    except _RefusedError as error:
        raise Malformed(str(error), position) from None
    if _is_deep(value):
        raise Malformed(_TOO_DEEP, position)
    return value, end


_TOO_DEEP = f"lists or objects more than {MAX_DEPTH} deep in one another"


class _RefusedError(Exception):
    """JSON that Python would read, though it is not fit for use."""


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _RefusedError(f"a whole number of {len(digits)} characters")
    return int(digits)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"the key {twice!r:.60} twice in one object")
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return bool(level)


_DECODER = json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=_object)
