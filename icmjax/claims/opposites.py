"""Two opposite options of one question, found by their texts where no column says so.

A claim such as "People from Japan would answer this question as: 'Yes'" has a frame, which names
whoever answers, and an option. Only a wording that shows its option counts: one in quotes, one
after a colon at the end, or one of a few words that are each other's opposite. The frame must say
that somebody answers, and not that some or all do: of other texts two may be right together.
"""

import re
from typing import Protocol

from icmjax.claims.texts import is_blank

# A quote opens before a word and closes after one, which an apostrophe does not.
_QUOTED = re.compile(
    r"""(?<!\w)(["']).*?\1(?!\w)|“.*?”|‘.*?’(?!\w)|«.*?»""",
    re.DOTALL,
)
# From the first quote after a colon to a quote at the end.
_LAST_QUOTED = re.compile(r"""(.*?:\s["'“‘«])(.*)(["'”’»]\W{0,3})""", re.DOTALL)
_ANSWERS = re.compile(
    r"""\w.*\b(would|will|(answer|respond|vote|select|pick)(s|ed)?|says?|said|choos(e|es)|chose|"""
    r"""repl(y|ies|ied))\b""",
    re.DOTALL | re.IGNORECASE,
)
_QUANTIFIED = re.compile(
    r"\b(some\w*|many|several|few|any\w*|all|every\w*|each|none|nobody|at least|often)\b",
    re.IGNORECASE,
)
_OPPOSITES = ({"yes", "no"}, {"true", "false"}, {"agree", "disagree"})
_LONGEST = 10_000  # characters; quotes that do not close take time with the square of it


class Worded(Protocol):
    """What has a question and the text of a claim."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def choice(self) -> str:
        """The claim."""


def are_opposite(first: Worded, second: Worded) -> bool:
    """Whether two claims of one consistency group are two options of one question.

    They have the same question and differ in the option alone.
    """
    one, other = first.choice, second.choice
    if first.question != second.question or max(len(one), len(other)) > _LONGEST:
        return False
    if _QUANTIFIED.search(_frame(one)):
        return False
    if _differ_in_opposite_words(one, other):
        return True
    if is_blank(first.question) or not _ANSWERS.search(_frame(one)):
        return False
    if _QUOTED.search(one) or _QUOTED.search(other):
        return _differ_in_one_quote(one, other) or _differ_in_last_quote(one, other)
    return _differ_after_colon(one, other)


def _frame(text: str) -> str:
    """A text without what it quotes, or says after its last colon."""
    without = _QUOTED.sub("''", text)
    return without.rpartition(": ")[0] or without


def _differ_in_one_quote(first: str, second: str) -> bool:
    frame, other_frame = _QUOTED.sub("''", first), _QUOTED.sub("''", second)
    if frame != other_frame or not _has_words(frame):
        return False
    quoted = [[found[0] for found in _QUOTED.finditer(text)] for text in (first, second)]
    different = [pair for pair in zip(*quoted, strict=True) if not _is_same(*pair)]
    return len(different) == 1 and all(_has_words(text) for text in different[0])


def _differ_in_last_quote(first: str, second: str) -> bool:
    """As: 'the doctors' work', whose apostrophe is taken for the end of a quote elsewhere."""
    quoted, other = _LAST_QUOTED.fullmatch(first), _LAST_QUOTED.fullmatch(second)
    if quoted is None or other is None or quoted.group(1, 3) != other.group(1, 3):
        return False
    has_all = all(map(_has_words, (quoted[1], quoted[2], other[2])))
    return has_all and not _is_same(quoted[2], other[2])


def _differ_after_colon(first: str, second: str) -> bool:
    frame, _, option = first.rpartition(": ")
    other_frame, _, other = second.rpartition(": ")
    has_all = all(map(_has_words, (frame, option, other)))
    return frame == other_frame and has_all and not _is_same(option, other)


def _differ_in_opposite_words(first: str, second: str) -> bool:
    frame, word, end = _split_last_word(first)
    other_frame, other_word, other_end = _split_last_word(second)
    words = {word.casefold(), other_word.casefold()}
    return (frame, end) == (other_frame, other_end) and words in _OPPOSITES


def _split_last_word(text: str) -> tuple[str, str, str]:
    end = len(text)
    while end and not text[end - 1].isalnum():
        end -= 1
    start = end
    while start and text[start - 1].isalnum():
        start -= 1
    return text[:start], text[start:end], text[end:]


def _is_same(first: str, second: str) -> bool:
    """Whether two options have the same words; their case, spaces and signs tell nothing apart."""
    return re.findall(r"\w+", first.casefold()) == re.findall(r"\w+", second.casefold())


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)
