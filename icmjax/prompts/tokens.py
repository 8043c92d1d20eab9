"""Claims as padded integer arrays, each piece tokenised apart.

Pieces are the preamble, every claim's query text, every label form and the separator; text never
merges across their borders, so that a demonstration has the same tokens wherever it stands.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, PromptError
from icmjax.prompts.templates import Template

Array = np.ndarray | jax.Array
Tokens = list[int]

_SPACE_MARKS = ("▁", "Ġ")  # how SentencePiece and byte-level BPE write a space inside of a token


class TokenizedClaims(NamedTuple):
    """The pieces of N claims with Y label options of up to F forms; a pytree, padded with 0."""

    preamble: Array  # int32 [P], with the tokenizer's BOS where it has one
    queries: Array  # int32 [N, Tq], text up to the label
    query_lengths: Array  # int32 [N]
    demonstrations: Array  # int32 [N, Y, Td]: query, first form of the label, separator
    demonstration_lengths: Array  # int32 [N, Y]
    label_forms: Array  # int32 [Y, F, Tl]
    label_form_lengths: Array  # int32 [Y, F], 0 where an option has fewer forms


def tokenize_claims(
    claims: ClaimSet,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
) -> TokenizedClaims:
    """Tokenises claims under a template; the result holds numpy arrays.

    Names of special tokens inside of a claim are plain text, and nothing is ever cut.

    Args:
      claims: N claims.
      template: their wording, with one set of label forms for each of the Y options.
      tokenizer: of the model that is to read them.
      max_length: the most tokens of a prompt, for `check_prompt_lengths`; None to leave that out.

    Raises:
      PromptError: the template does not fit the claims, a piece has no tokens or words that the
        tokenizer does not know, label options cannot be told apart by their first token, or a
        prompt is too long; all faults found.
    """
    _check_template(claims, template)
    encode = _make_encoder(tokenizer)
    forms = [encode(option) for option in template.label_forms]
    texts = [template.preamble_text(claims.preamble), template.separator]
    texts += [template.query_fn(claim) for claim in claims.claims]
    places = ["the preamble", "the separator", *(f"claim {claim.id!r}" for claim in claims.claims)]
    preamble, separator, *queries = pieces = encode(texts)
    faults = _unknown_faults(places, texts, pieces, tokenizer)
    faults += [
        Fault("A claim has tokens.", "none", place, "give it words that the tokenizer keeps")
        for place, query in zip(places[2:], queries, strict=True)
        if not query
    ]
    faults += _label_faults(forms, template, tokenizer)
    if faults:
        raise PromptError(faults)

    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    num_forms = max(len(option) for option in forms)
    by_claim, by_option = (len(queries), len(forms)), (len(forms), num_forms)
    query_tokens, query_lengths = pad_tokens(queries)
    demonstrations, demonstration_lengths = pad_tokens(
        [query + option[0] + separator for query in queries for option in forms]
    )
    label_forms, label_form_lengths = pad_tokens(
        [form for option in forms for form in option + [[]] * (num_forms - len(option))]
    )
    tokens = TokenizedClaims(
        preamble=np.array(bos + preamble, np.int32),
        queries=query_tokens,
        query_lengths=query_lengths,
        demonstrations=demonstrations.reshape(*by_claim, -1),
        demonstration_lengths=demonstration_lengths.reshape(by_claim),
        label_forms=label_forms.reshape(*by_option, -1),
        label_form_lengths=label_form_lengths.reshape(by_option),
    )
    if max_length is not None:
        check_prompt_lengths(tokens, max_length)
    return tokens


def prompt_lengths(tokens: TokenizedClaims, context_size: int | None = None) -> np.ndarray:
    """Tokens of each claim's longest prompt: preamble, demonstrations, query and label.

    Args:
      tokens: N claims.
      context_size: how many others a query reads, at most; None for all of them. The longest
        ones count.

    Returns:
      int64 `[N]`, with every label in its longest form.
    """
    longest = np.asarray(tokens.demonstration_lengths, np.int64).max(axis=1)
    num_others = len(longest) - 1
    num_read = num_others if context_size is None else min(context_size, num_others)
    by_length = np.argsort(-longest, kind="stable")
    shown, next_one = by_length[:num_read], by_length[num_read]
    context = np.full(len(longest), longest[shown].sum())
    context[shown] += longest[next_one] - longest[shown]  # a claim is not in its own context
    label = np.asarray(tokens.label_form_lengths).max()
    return len(tokens.preamble) + context + np.asarray(tokens.query_lengths) + label


def check_prompt_lengths(
    tokens: TokenizedClaims, max_length: int, context_size: int | None = None
) -> None:
    """Refuses claims whose longest prompt does not fit; nothing is ever cut.

    Args:
      tokens: N claims.
      max_length: the most tokens that the model reads.
      context_size: how many others a query reads, at most; None for all of them.

    Raises:
      PromptError: with the number of tokens too many, the longest claim and what would fit.
    """
    lengths = prompt_lengths(tokens, context_size)
    worst = int(lengths.argmax())
    excess = int(lengths[worst]) - max_length
    if excess <= 0:
        return
    demonstrations = np.asarray(tokens.demonstration_lengths).max(axis=1)
    longest = int(demonstrations.argmax())
    remedies = ["use a model with a longer context"]
    limit = _largest(
        lambda size: prompt_lengths(_first(tokens, size)).max() <= max_length, len(demonstrations)
    )
    if limit >= 2:
        remedies.insert(0, f"search over fewer claims (limit={limit} fits)")
    raise PromptError(
        Fault(
            rule="A prompt of a query and the claims that it reads fits the model's context.",
            found=f"{lengths[worst]} tokens, {excess} more than the {max_length} that fit",
            where=f"the prompt of claim number {worst}, counted from 0; the longest claim is "
            f"number {longest}, with {demonstrations[longest]} tokens",
            remedy=", or ".join(remedies),
        )
    )


def _first(tokens: TokenizedClaims, num_claims: int) -> TokenizedClaims:
    return tokens._replace(
        query_lengths=tokens.query_lengths[:num_claims],
        demonstration_lengths=tokens.demonstration_lengths[:num_claims],
    )


def _largest(fits: Callable[[int], bool], upper: int) -> int:
    """The largest size from 1 to `upper` that fits, where all smaller ones do; 0 for none."""
    low, high = 0, upper
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _make_encoder(
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Sequence[str]], list[Tokens]]:
    """An encoder of pieces, which neither adds special tokens nor a space before a piece.

    SentencePiece tokenizers of the Llama 2 kind put a space before whatever they are given; they
    are given a line break first, whose tokens are then dropped.

    Raises:
      PromptError: the tokenizer puts a space before a piece that cannot be told from it.
    """

    def encode_as_is(texts: Sequence[str]) -> list[Tokens]:
        return tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            padding=False,
            truncation=False,
        )["input_ids"]

    (word,) = encode_as_is(["True"])
    begins = tokenizer.convert_ids_to_tokens(word[:1])
    if not any(token.startswith(_SPACE_MARKS) for token in begins):
        return encode_as_is
    (guard,) = encode_as_is(["\n"])

    def encode_guarded(texts: Sequence[str]) -> list[Tokens]:
        encoded = encode_as_is([f"\n{text}" for text in texts])
        for text, tokens in zip(texts, encoded, strict=True):
            if tokens[: len(guard)] != guard:
                raise PromptError(
                    Fault(
                        rule="Pieces of a prompt are tokenised apart, without a space before them.",
                        found="a tokenizer that adds a space, and merges it with a line break",
                        where=f"the piece {text!r:.60}",
                        remedy="load the tokenizer with add_prefix_space=False",
                    )
                )
        return [tokens[len(guard) :] for tokens in encoded]

    return encode_guarded


def pad_tokens(rows: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    """Rows as int32 `[B, T]`, padded on the right with 0, and their lengths, int32 `[B]`."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), max(1, lengths.max())), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return tokens, lengths


def _check_template(claims: ClaimSet, template: Template) -> None:
    where = f"template {template.name!r}"
    faults = []
    if len(template.label_forms) != len(claims.options) or not all(template.label_forms):
        found = f"{len(template.label_forms)} for {', '.join(claims.options)}"
        remedy = "take the template from resolve_template, or template.for_options(claims.options)"
        faults.append(Fault("A template has label forms for every option.", found, where, remedy))
    alone = [claim.id for claim in claims.claims if claim.choice_2 is None]
    if template.needs_choice_2 and alone:
        found = f"no choice_2 in {len(alone)} claims, such as {alone[0]!r}"
        remedy = "choose a template for single claims, or give each row a choice_2"
        faults.append(Fault("A preference compares two responses.", found, where, remedy))
    if faults:
        raise PromptError(faults)


def _unknown_faults(
    places: Sequence[str],
    texts: Sequence[str],
    pieces: Sequence[Tokens],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Fault]:
    unknown = tokenizer.unk_token_id
    return [
        Fault(
            rule="The model's tokenizer knows every word.",
            found=f"words that it does not know: {_unknown_words(text, tokenizer)}",
            where=place,
            remedy="use a model with an open vocabulary, or words of this one's world",
        )
        for place, text, tokens in zip(places, texts, pieces, strict=True)
        if unknown is not None and unknown in tokens
    ]


def _unknown_words(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.is_fast:
        return f"some of {text!r}"
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    words = [text[start:end] for token, (start, end) in spans if token == tokenizer.unk_token_id]
    return ", ".join(repr(word) for word in dict.fromkeys(words))


def _label_faults(
    forms: list[list[Tokens]], template: Template, tokenizer: PreTrainedTokenizerBase
) -> list[Fault]:
    where = f"the label forms of template {template.name!r}, under this tokenizer"
    named = [
        (option, text, form)
        for option, texts in enumerate(template.label_forms)
        for text, form in zip(texts, forms[option], strict=True)
    ]
    faults = [
        Fault("A label has tokens, all of them known.", repr(text), where, "use other words")
        for _, text, form in named
        if not form or tokenizer.unk_token_id in form
    ]
    for (option, text, form), (other_option, other_text, other) in itertools.combinations(named, 2):
        if option != other_option:
            num_told_apart = 1
            rule = "Label options differ in their first token."
        else:
            num_told_apart = min(len(form), len(other))
            rule = "No form of a label begins with another one, whose probability it would repeat."
        if form and other and form[:num_told_apart] == other[:num_told_apart]:
            shared = tokenizer.decode(form[:num_told_apart])
            found = f"{text!r} and {other_text!r} both begin with {shared!r}"
            faults.append(Fault(rule, found, where, "choose label words that begin differently"))
    return faults
