"""Claims as padded integer arrays, in pieces that join to the tokens of whole prompts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, PromptError
from icmjax.prompts.encoding import Encoded, Encoder, Tokens, encoder_of
from icmjax.prompts.pieces import Pieces, Wording, cut_pieces
from icmjax.prompts.templates import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = np.ndarray | jax.Array

MOST_SHOWN = 5  # words of a text that a message names


class TokenizedClaims(NamedTuple):
    """The pieces of N claims with Y label options of up to F forms; a pytree, padded with 0."""

    preamble: Array  # int32 [P], after the special tokens that the tokenizer adds
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
    vocab_size: int | None = None,
) -> TokenizedClaims:
    """Tokenises claims under a template; the result holds numpy arrays.

    The ids of every prompt, pieces joined, are those of the tokenizer on the whole text, with the
    special tokens that it adds itself (see `icmjax.prompts.pieces`). Names of special tokens inside
    of a claim are plain text, and nothing is ever cut.

    Args:
      claims: N claims.
      template: their wording, with one set of label forms for each of the Y options.
      tokenizer: of the model that is to read them.
      max_length: the most tokens of a prompt, for `check_prompt_lengths`; None to leave that out.
      vocab_size: rows of the model's embedding; None to leave that check out.

    Raises:
      PromptError: the template does not fit the claims, a piece has no tokens or words that the
        tokenizer does not know or that have no row in the embedding, a label begins with another
        one, pieces do not join, or a prompt is too long; all faults found.
    """
    (tokens,) = tokenize_together([claims], template, tokenizer, vocab_size)
    if max_length is not None:
        check_prompt_lengths(tokens, max_length)
    return tokens


def tokenize_together(
    claim_sets: Sequence[ClaimSet],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int | None = None,
) -> list[TokenizedClaims]:
    """Tokenises claim sets of one preamble, so that their pieces join to common prompts.

    Args, errors: as of `tokenize_claims`.
    """
    for claims in claim_sets:
        check_template(claims, template)
    together = [claim for claims in claim_sets for claim in claims.claims]
    wording = Wording(
        preamble=template.preamble_text(claim_sets[0].preamble),
        queries=tuple(template.query_fn(claim) for claim in together),
        forms=template.label_forms,
        separator=template.separator,
        is_label_apart=template.is_label_apart,
    )
    encode = encoder_of(tokenizer)
    _check_words(wording, [claim.id for claim in together], encode, tokenizer)
    pieces = cut_pieces(wording, encode)
    faults = _label_faults(pieces.forms, template, tokenizer)
    faults += row_faults(_named(pieces, [claim.id for claim in together]), tokenizer, vocab_size)
    if faults:
        raise PromptError(faults)
    ends = np.cumsum([0, *map(len, claim_sets)])
    return [
        _padded(
            pieces._replace(
                queries=pieces.queries[begin:end], demonstrations=pieces.demonstrations[begin:end]
            )
        )
        for begin, end in itertools.pairwise(ends.tolist())
    ]


def _padded(pieces: Pieces) -> TokenizedClaims:
    num_claims, num_options = len(pieces.queries), len(pieces.forms)
    num_forms = max(map(len, pieces.forms))
    queries, query_lengths = pad_tokens(pieces.queries)
    demonstrations, demonstration_lengths = pad_tokens(
        [piece for by_label in pieces.demonstrations for piece in by_label]
    )
    label_forms, label_form_lengths = pad_tokens(
        [form for option in pieces.forms for form in option + [[]] * (num_forms - len(option))]
    )
    return TokenizedClaims(
        preamble=np.array(pieces.opening, np.int32),
        queries=queries,
        query_lengths=query_lengths,
        demonstrations=demonstrations.reshape(num_claims, num_options, -1),
        demonstration_lengths=demonstration_lengths.reshape(num_claims, num_options),
        label_forms=label_forms.reshape(num_options, num_forms, -1),
        label_form_lengths=label_form_lengths.reshape(num_options, num_forms),
    )


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


def pad_tokens(rows: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    """Rows as int32 `[B, T]`, padded on the right with 0, and their lengths, int32 `[B]`."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), max(1, lengths.max())), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return tokens, lengths


def check_template(claims: ClaimSet, template: Template) -> None:
    """Refuses a template that cannot word the claims or their labels.

    Raises:
      PromptError: it lacks label forms of an option, or compares two responses of which a claim has
        one; all faults found.
    """
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


def _check_words(
    wording: Wording, ids: Sequence[str], encode: Encoder, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuses words that the tokenizer does not know, and texts that it finds nothing in."""
    claims = [f"claim {id_!r}" for id_ in ids]
    texts = [wording.preamble, wording.separator, *wording.queries]
    places = ["the preamble", "the separator", *claims]
    encoded = encode(texts)
    faults = [
        Fault(
            rule="The model's tokenizer knows every word.",
            found=f"words that it does not know: {words}",
            where=place,
            remedy="use a real model, such as Qwen/Qwen3-0.6B-Base; this one knows the words that "
            "it was made with alone, and a bundled one those of its made-up world",
        )
        for place, text, each in zip(places, texts, encoded, strict=True)
        if (words := _unknown_words(text, each, tokenizer))
    ]
    faults += [
        Fault("A claim has tokens.", "none", place, "give it words that the tokenizer keeps")
        for place, each in zip(claims, encoded[2:], strict=True)
        if not each.ids
    ]
    forms = [form for option in wording.forms for form in option]
    faults += [
        Fault("A label has tokens, all of them known.", repr(form), "the labels", "use other words")
        for form, each in zip(forms, encode(forms), strict=True)
        if not each.ids or _unknown_words(form, each, tokenizer)
    ]
    if faults:
        raise PromptError(faults)


def _unknown_words(text: str, encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> str:
    words = [
        text[start:end]
        for token, (start, end) in zip(encoded.ids, encoded.spans, strict=True)
        if token == tokenizer.unk_token_id
    ]
    distinct = list(dict.fromkeys(words))
    shown = ", ".join(map(repr, distinct[:MOST_SHOWN]))
    num_more = len(distinct) - MOST_SHOWN
    return shown + (f" and {num_more} more" if num_more > 0 else "")


def row_faults(
    named: Iterable[tuple[str, Tokens]],
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int | None,
) -> list[Fault]:
    """Tokens that the embedding has no row for; JAX would read its last row for them.

    Args:
      named: places and their tokens.
      vocab_size: rows of the embedding; None to leave the check out.
    """
    return [
        Fault(
            rule="Every token has a row in the model's embedding.",
            found=f"token {token} ({tokenizer.convert_ids_to_tokens(token)!r}) for {vocab_size} "
            "rows",
            where=place,
            remedy="use the tokenizer that the model came with; after adding tokens, resize the "
            "embedding and train it",
        )
        for place, tokens in named
        if vocab_size is not None and (token := max(tokens, default=0)) >= vocab_size
    ]


def _named(pieces: Pieces, ids: Sequence[str]) -> Iterator[tuple[str, Tokens]]:
    """All pieces, and what messages call them."""
    yield "the preamble or what the tokenizer adds", pieces.opening
    for id_, query, by_label in zip(ids, pieces.queries, pieces.demonstrations, strict=True):
        yield f"claim {id_!r}", [*query, *itertools.chain(*by_label)]
    for option in pieces.forms:
        for form in option:
            yield "a label", form


def _label_faults(
    forms: list[list[Tokens]], template: Template, tokenizer: PreTrainedTokenizerBase
) -> list[Fault]:
    """A label that begins with another one, whose probability would hold its own."""
    named = [
        (text, form)
        for texts, option in zip(template.label_forms, forms, strict=True)
        for text, form in zip(texts, option, strict=True)
    ]
    return [
        Fault(
            rule="No label begins with another one, whose probability would hold its own.",
            found=f"{text!r} and {other_text!r} both begin with "
            f"{tokenizer.decode(min(form, other, key=len))!r}",
            where=f"the label forms of template {template.name!r}, under this tokenizer",
            remedy="choose label words of which none begins another",
        )
        for (text, form), (other_text, other) in itertools.combinations(named, 2)
        if form[: len(other)] == other[: len(form)]
    ]
