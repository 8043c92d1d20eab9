"""Prompts cut into pieces whose tokens join to those of the whole text.

A tokenizer may read a piece otherwise than the same words inside of a prompt: two line breaks are
one token at the end of a text and two before a word, and a first word may get a space that a later
one does not. So each piece is read within its surroundings and cut out where the tokenizer itself
has a border. Where a claim's first words differ between the start of a text and its middle, the
border moves behind them: the words that all claims begin with then belong to what stands before.
Whole prompts are compared in the end; what does not join is refused.
"""

from collections.abc import Sequence
from typing import NamedTuple

from icmjax.errors import Fault, PromptError
from icmjax.prompts.encoding import Encoded, Encoder, Tokens, num_alike

MAX_BORDERS = 4  # where the border between claims may lie: tokens from the start of a claim


class Wording(NamedTuple):
    """The texts that prompts are made of."""

    preamble: str  # its separator included; "" for none
    queries: tuple[str, ...]  # of N claims, up to the label
    forms: tuple[tuple[str, ...], ...]  # [Y][F], of the labels; the first is shown
    separator: str  # after a label, before the next claim
    # Whether the label is read as a text of its own, after a prompt that ends in a space.
    is_label_apart: bool = False

    def prompt(self, order: Sequence[int], labels: Sequence[int], query: int) -> str:
        """The whole text of a query after labelled claims, up to its label."""
        shown = (
            self.queries[claim] + self.shown(label) + self.separator
            for claim, label in zip(order, labels, strict=True)
        )
        return self.preamble + "".join(shown) + self.queries[query]

    def shown(self, label: int) -> str:
        """A label as demonstrations show it."""
        return self.forms[label][0]


class Pieces(NamedTuple):
    """Tokens that join to the prompts of N claims with Y labels of several forms."""

    opening: Tokens  # the tokens that the tokenizer adds, the preamble, and moved first words
    queries: list[Tokens]  # [N]
    demonstrations: list[list[Tokens]]  # [N][Y]: query, label, separator, and moved first words
    forms: list[list[Tokens]]  # [Y][F]

    def prompt(self, order: Sequence[int], labels: Sequence[int], query: int) -> Tokens:
        """The tokens of a query's prompt."""
        shown = [self.demonstrations[i][y] for i, y in zip(order, labels, strict=True)]
        return [token for piece in (self.opening, *shown, self.queries[query]) for token in piece]


class _Misfit(Exception):
    """Pieces with this border do not join; says what was found, and where."""

    def __init__(self, found: str, where: str) -> None:
        super().__init__(found, where)
        self.found, self.where = found, where


def cut_pieces(wording: Wording, encode: Encoder) -> Pieces:
    """The pieces of all prompts that the claims may make.

    Raises:
      PromptError: no border between claims that the tokenizer keeps was found.
    """
    first: _Misfit | None = None
    for border in _borders(wording, encode):
        try:
            pieces = _cut(wording, encode, border)
            _check_whole(wording, encode, pieces)
            return pieces
        except _Misfit as misfit:
            first = first or misfit
    assert first is not None, "a border is tried"
    raise PromptError(
        Fault(
            rule="The tokens of a prompt's pieces join to those of the whole text.",
            found=first.found,
            where=first.where,
            remedy="let all claims begin alike (each with a question, or none), give a preamble, "
            "or choose label words that begin with a space",
        )
    ) from None


def _borders(wording: Wording, encode: Encoder) -> list[int]:
    """Characters from the start of every claim after which a border may lie."""
    num_common = num_alike(wording.queries)
    (alone,) = encode([wording.separator + wording.queries[0]])
    ends = [end - len(wording.separator) for _, end in alone.spans]
    shortest = min(map(len, wording.queries))
    inside = sorted({end for end in ends if 0 < end <= num_common and end < shortest})
    return [0, *inside[:MAX_BORDERS]]


def _cut(wording: Wording, encode: Encoder, border: int) -> Pieces:
    queries, forms = _queries_and_forms(wording, encode, border)
    return Pieces(
        opening=encode.added + _opening(wording, encode, border, queries),
        queries=queries,
        demonstrations=_demonstrations(wording, encode, border),
        forms=forms,
    )


def _queries_and_forms(
    wording: Wording, encode: Encoder, border: int
) -> tuple[list[Tokens], list[list[Tokens]]]:
    """Each claim after a labelled one and before every label: one text for each of the two."""
    before = wording.shown(0) + wording.separator
    texts = [form for option in wording.forms for form in option]
    if wording.is_label_apart:
        # After a line break, so that no tokenizer puts a space before them.
        broken = encode([f"\n{text}" for text in texts])
        apart = [_cut_at(each, [1], "a label")[1] for each in broken]
        encoded = encode([before + query for query in wording.queries])
        cuts = [_cut_at(each, [len(before) + border], before) for each in encoded]
        return [cut[1] for cut in cuts], _by_option(wording, apart)
    encoded = encode([before + query + text for query in wording.queries for text in texts])
    queries, forms = [], list[Tokens]()
    for number, query in enumerate(wording.queries):
        borders = [len(before) + border, len(before) + len(query)]
        cuts = [
            _cut_at(each, borders, before + query)
            for each in encoded[number * len(texts) : (number + 1) * len(texts)]
        ]
        if any(cut[1] != cuts[0][1] for cut in cuts):
            raise _Misfit(f"tokens of {query[-20:]!r} that the label changes", f"claim {number}")
        queries.append(cuts[0][1])
        forms = forms or [cut[2] for cut in cuts]
        if forms != [cut[2] for cut in cuts]:
            raise _Misfit("tokens of the labels that the claim before them changes", query[-20:])
    return queries, _by_option(wording, forms)


def _by_option(wording: Wording, forms: Sequence[Tokens]) -> list[list[Tokens]]:
    rest = iter(forms)
    return [[next(rest) for _ in option] for option in wording.forms]


def _opening(wording: Wording, encode: Encoder, border: int, queries: list[Tokens]) -> Tokens:
    """What stands before the first claim, whichever it is."""
    start = len(wording.preamble)
    label = "" if wording.is_label_apart else wording.shown(0)
    encoded = encode([wording.preamble + query + label for query in wording.queries])
    opening: Tokens | None = None
    for number, (each, query) in enumerate(zip(encoded, wording.queries, strict=True)):
        cut = _cut_at(each, [start + border, start + len(query)], wording.preamble + query)
        opening = cut[0] if opening is None else opening
        if cut[0] != opening or cut[1] != queries[number]:
            raise _Misfit(
                f"{query[:20]!r}, which has other tokens at the start of a text than inside of it",
                f"claim {number}",
            )
    return opening or []


def _demonstrations(wording: Wording, encode: Encoder, border: int) -> list[list[Tokens]]:
    """Each claim with each label, between a labelled claim and the one after it."""
    before = wording.shown(0) + wording.separator
    num_claims, num_options = len(wording.queries), len(wording.forms)
    texts, borders = [], []
    for number, query in enumerate(wording.queries):
        after = wording.queries[(number + 1) % num_claims]
        for label in range(num_options):
            own = query + wording.shown(label) + wording.separator
            texts.append(before + own + after)
            borders.append([len(before) + border, len(before) + len(own) + border])
    cuts = [
        _cut_at(each, where, text)[1]
        for each, where, text in zip(encode(texts), borders, texts, strict=True)
    ]
    return [cuts[start : start + num_options] for start in range(0, len(cuts), num_options)]


def _cut_at(encoded: Encoded, borders: list[int], text: str) -> list[Tokens]:
    pieces = encoded.cut(borders)
    if pieces is None:
        near = [text[max(0, border - 12) : border + 12] for border in borders]
        raise _Misfit("a token across the border of two pieces", " or ".join(map(repr, near)))
    return pieces


def _check_whole(wording: Wording, encode: Encoder, pieces: Pieces) -> None:
    """Compares whole prompts of all claims, forwards and back, with every label in turn."""
    num_claims, num_options = len(wording.queries), len(wording.forms)
    forwards = list(range(num_claims))
    for order in (forwards, forwards[::-1]):
        for first in range(num_options):
            *shown, query = order
            labels = [(claim + first) % num_options for claim in shown]
            text = wording.prompt(shown, labels, query)
            label = "" if wording.is_label_apart else wording.shown(first)
            (whole,) = encode([text + label])
            expected = pieces.prompt(shown, labels, query)
            if label:
                expected = expected + pieces.forms[first][0]
            ids = encode.added + whole.ids
            if ids != expected:
                same = num_alike([ids, expected])
                where = whole.spans[min(same - len(encode.added), len(whole.spans) - 1)][0]
                near = text[max(0, where - 20) : where + 20]
                raise _Misfit("tokens of the whole prompt that differ", f"near {near!r}")
            if not encode.gives_back(text + label, whole.ids):
                raise PromptError(
                    Fault(
                        rule="A tokenizer gives back the text that it is given.",
                        found=f"{encode.decode(whole.ids)[:60]!r} for {(text + label)[:60]!r}",
                        where="the tokenizer of the model, as this version of transformers has it",
                        remedy="install another version of transformers (pip install "
                        "--upgrade transformers), or use the tokenizer.json that the model came "
                        "with",
                    )
                )
