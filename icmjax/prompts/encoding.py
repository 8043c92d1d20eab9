"""A tokenizer with what pieces of a prompt need of it: where each token lies in the text."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

from icmjax.errors import Fault, PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = list[int]


class Encoded(NamedTuple):
    """The tokens of one text."""

    ids: Tokens  # those that the tokenizer adds are left out
    spans: list[tuple[int, int]]  # of each token, in characters of the text

    def cut(self, borders: Sequence[int]) -> list[Tokens] | None:
        """The tokens between the borders, those before the first and after the last included.

        Args:
          borders: positions in the text, rising.

        Returns:
          One list more than there are borders; None where a border lies inside of a token.
        """
        pieces, begin = [], 0
        for border in borders:
            end = begin
            while end < len(self.ids) and self.spans[end][1] <= border:
                end += 1
            if end < len(self.ids) and self.spans[end][0] < border:
                return None
            pieces.append(self.ids[begin:end])
            begin = end
        return [*pieces, self.ids[begin:]]


class Encoder:
    """Encodes whole texts as the tokenizer itself does.

    Names of special tokens inside of a text are plain text: a text is data. Nothing is ever cut.

    Raises:
      PromptError: the tokenizer tells no positions, or it puts tokens after a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        where = f"the tokenizer {type(tokenizer).__name__}"
        if not tokenizer.is_fast:
            rule = "A tokenizer tells where in the text its tokens lie."
            remedy = "save it as tokenizer.json, which tokenizers of the package `tokenizers` have"
            raise PromptError(Fault(rule, "one written in Python", where, remedy))
        self._tokenizer = _untrimmed(tokenizer)
        encoded = self._call(["a"], add_special_tokens=True, return_special_tokens_mask=True)
        (ids,), (mask,) = encoded["input_ids"], encoded["special_tokens_mask"]
        num_before = mask.index(0) if 0 in mask else len(mask)
        self.added: Tokens = ids[:num_before]  # what the tokenizer puts before every text
        if any(mask[num_before:]):
            rule = "A prompt ends where its label begins: the tokenizer adds nothing after a text."
            found = tokenizer.convert_ids_to_tokens(ids[-1:])[0]
            remedy = "load a tokenizer that adds no end token (add_eos_token: false)"
            raise PromptError(Fault(rule, f"{found!r} after it", where, remedy))

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts, each as a whole; without the tokens that are `added` before them."""
        if not texts:
            return []
        encoded = self._call(texts, add_special_tokens=True, return_offsets_mapping=True)
        num_added = len(self.added)
        return [
            Encoded(ids[num_added:], [tuple(span) for span in spans[num_added:]])
            for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        text = self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return str(text)

    def gives_back(self, text: str, ids: Sequence[int]) -> bool:
        """Whether the tokens say the text, up to what normalisation of Unicode changes.

        Some versions of transformers give byte-level tokenizers the wrong splits, and spaces are
        lost without a word.
        """
        return _comparable(self.decode(ids)) == _comparable(text)

    def _call(self, texts: Sequence[str], **options: bool) -> dict:
        return self._tokenizer(
            list(texts),
            split_special_tokens=True,
            padding=False,
            truncation=False,
            verbose=False,
            **options,
        )


def num_alike(rows: Sequence[Sequence]) -> int:
    """How many first items, tokens or characters, all rows have in common."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if any(r[i] != rows[0][i] for r in rows)), shortest)


def encoder_of(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a tokenizer as it is now; raises as `Encoder` does."""
    processor = tokenizer.backend_tokenizer.post_processor if tokenizer.is_fast else None
    return _encoder_of(tokenizer, b"" if processor is None else bytes(processor.__getstate__()))


@functools.lru_cache(maxsize=8)
def _encoder_of(tokenizer: PreTrainedTokenizerBase, processor: bytes) -> Encoder:
    del processor  # a tokenizer can be told to add other tokens
    return Encoder(tokenizer)


def _untrimmed(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy where it leaves spaces out of its tokens' positions."""
    backend = tokenizer.backend_tokenizer
    if backend.post_processor is None or b'"trim_offsets":true' not in bytes(
        backend.post_processor.__getstate__()
    ):
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    settings = json.loads(backend.to_str())
    for step in _steps(settings["post_processor"]):
        step.pop("trim_offsets", None)
        if step["type"] == "ByteLevel":
            step["trim_offsets"] = False
    copy = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)))
    return copy


def _steps(processor: dict) -> list[dict]:
    """A post-processor's steps."""
    if processor["type"] == "Sequence":
        return [step for each in processor["processors"] for step in _steps(each)]
    return [processor]


def _comparable(text: str) -> str:
    # "▁" is how SentencePiece writes a space: it gives back one for the other.
    return unicodedata.normalize("NFKC", text.replace("▁", " ")).casefold().lstrip()
