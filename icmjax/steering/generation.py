"""Text in the model's own words after a shared context, and how probable given text is there.

The context is read once, into a key-value cache; every query reads it, then its own tokens, then
what it has generated or what it is to be continued by.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.errors import Fault, InputError, PromptError
from icmjax.lm import Decoder, KeyValues, LanguageModel, Segment
from icmjax.prompts import encoder_of, num_alike, row_faults
from icmjax.scoring import read_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIDTH_MULTIPLE = 16  # the least step of widths, so that few programs are compiled
ROWS_AT_A_TIME = 8  # whose logits over the vocabulary are in memory together


class Likelihood(NamedTuple):
    """How probable M continuations are."""

    log_probs: np.ndarray  # float32 [M], nats, summed over tokens
    num_tokens: np.ndarray  # int32 [M]


class _Generated(NamedTuple):
    """What B queries have generated up to here."""

    tokens: jax.Array  # int32 [B, G]
    is_real: jax.Array  # bool [B, G], tokens that were read
    is_stopped: jax.Array  # bool [B]
    last_hidden: jax.Array  # [B, D], predicts the next token
    key_values: KeyValues  # [L, B, G, K, head_dim]
    num_new: jax.Array  # int32 [], steps taken


def generate(
    lm: LanguageModel,
    context: Sequence[str],
    queries: Sequence[str],
    *,
    rng_key: jax.Array | None = None,
    temperature: float = 0.0,
    max_new_tokens: int = 16,
    stop: str = "\n",
) -> list[str]:
    """What the model says after the context and each query.

    Args:
      context: pieces of text that all queries share. A prompt is tokenised as a whole, with the
        special tokens that the tokenizer adds; what is alike in all of them is read once.
      queries: M texts.
      rng_key: a typed key; needed where the temperature is above 0.
      temperature: 0 takes the most probable token (greedy), 1 samples from the model.
      max_new_tokens: for each query.
      stop: what ends an answer, if the end-of-sequence token does not come first.

    Returns:
      M texts, without `stop` and what follows it.

    Raises:
      InputError: an argument is out of its range.
      PromptError: a prompt and its answer do not fit the model.
    """
    _check_arguments(queries, rng_key, temperature, max_new_tokens, stop)
    opening = "".join(context)
    rows = _encode(lm, [opening + query for query in queries])
    if not all(rows):
        rule, remedy = "An answer has a token before it.", "give a context or a query"
        raise InputError(Fault(rule, "an empty prompt", "queries", remedy))
    _check_length(lm, max(map(len, rows)) + max_new_tokens)
    shared, own = _share(rows)
    context_tokens, context_lengths = _pad([shared])
    query_tokens, query_lengths = _pad(own)
    tokens, is_real = _generate(
        lm,
        context_tokens,
        context_lengths,
        query_tokens,
        query_lengths,
        _is_stop(lm, stop),
        jax.random.key(0) if rng_key is None else rng_key,
        jnp.float32(temperature),
        max_new_tokens=max_new_tokens,
    )
    texts = [
        lm.tokenizer.decode(row[kept], skip_special_tokens=True)
        for row, kept in zip(np.asarray(tokens), np.asarray(is_real), strict=True)
    ]
    return [str(text).split(stop)[0] for text in texts]


def continuation_likelihood(
    lm: LanguageModel, context: Sequence[str], queries: Sequence[str], continuations: Sequence[str]
) -> Likelihood:
    """How probable the model finds each continuation after the context and its query.

    Args:
      context: as of `generate`.
      queries, continuations: M texts each; a space between the two belongs to the continuation.

    Raises:
      InputError: there is no query, or a continuation is empty or missing.
      PromptError: a prompt and its continuation do not fit the model.
    """
    if len(queries) != len(continuations) or not queries or not all(continuations):
        found = f"{len(queries)} queries, {sum(map(bool, continuations))} continuations with text"
        rule, remedy = "Every query has a continuation.", "give as many texts, none of them empty"
        raise InputError(Fault(rule, found, "continuations", remedy))
    prompts = ["".join(context) + query for query in queries]
    texts = [prompt + after for prompt, after in zip(prompts, continuations, strict=True)]
    rows = _encode(lm, texts)
    # A token across the border is the continuation's: it says some of it.
    num_after = np.array(
        [
            sum(end > len(prompt) for _, end in each.spans)
            for prompt, each in zip(prompts, encoder_of(lm.tokenizer)(texts), strict=True)
        ],
        np.int32,
    )
    if any(num == len(row) for num, row in zip(num_after, rows, strict=True)):
        rule, remedy = "Every continuation has a token before it.", "give a context or a query"
        raise InputError(Fault(rule, "an empty prompt", "queries", remedy))
    _check_length(lm, max(map(len, rows)))
    # The token before a continuation predicts its first one, and goes with its row.
    shared, own = _share(rows, int(num_after.max()) + 1)
    log_probs = _continuation_log_probs(lm, *_pad([shared]), *_pad(own), num_after)
    return Likelihood(np.asarray(log_probs), num_after)


def _check_length(lm: LanguageModel, needed: int) -> None:
    if needed > lm.max_length:
        found = f"{needed} tokens, {needed - lm.max_length} more than {lm.max_length}"
        remedy = "shorten the context, or take a model with a longer one"
        raise PromptError(Fault("A prompt and its answer fit the model.", found, "context", remedy))


def _check_arguments(
    queries: Sequence[str],
    rng_key: jax.Array | None,
    temperature: float,
    max_new_tokens: int,
    stop: str,
) -> None:
    rules = (
        ("queries", len(queries) > 0, "There is something to answer.", "give a query"),
        ("max_new_tokens", max_new_tokens > 0, "An answer has a token.", "choose 1 or more"),
        ("temperature", temperature >= 0, "A temperature is at least 0.", "choose 0 or more"),
        ("stop", bool(stop), "An answer ends somewhere.", "give the text that ends it"),
        (
            "rng_key",
            temperature <= 0 or rng_key is not None,
            "Sampling needs randomness.",
            "give a key, or temperature 0",
        ),
    )
    values = {"queries": f"{len(queries)}", "max_new_tokens": f"{max_new_tokens}"}
    values |= {"temperature": f"{temperature}", "stop": repr(stop), "rng_key": "none"}
    faults = [Fault(rule, values[name], name, do) for name, is_met, rule, do in rules if not is_met]
    if faults:
        raise InputError(faults)


def _encode(lm: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of whole texts, with those that the tokenizer adds; texts are data.

    Raises:
      PromptError: a token has no row in the embedding.
    """
    encode = encoder_of(lm.tokenizer)
    rows = [encode.added + each.ids for each in encode(texts)]
    named = [(f"query {number}", row) for number, row in enumerate(rows)]
    if faults := row_faults(named, lm.tokenizer, lm.config.vocab_size):
        raise PromptError(faults)
    return rows


def _share(rows: list[list[int]], num_own: int = 1) -> tuple[list[int], list[list[int]]]:
    """The tokens that all rows begin with, and the rest of each, of so many or more."""
    num_shared = min(num_alike(rows), min(map(len, rows)) - num_own)
    num_shared = max(num_shared, 0)
    return rows[0][:num_shared], [row[num_shared:] for row in rows]


def _width(length: int) -> int:
    """A width for a length, in steps that grow with it, so that long contexts share programs."""
    step = max(WIDTH_MULTIPLE, 1 << max(length.bit_length() - 4, 0))
    return -(-max(1, length) // step) * step


def _pad(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 `[B, T]`, padded on the right with 0, and lengths int32 `[B]`."""
    lengths = np.array([len(row) for row in rows], np.int32)
    width = _width(int(lengths.max()))
    tokens = np.zeros((len(rows), width), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    return tokens, lengths


@functools.lru_cache(maxsize=8)
def _stop_tokens(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, stop: str, ends: tuple[int, ...]
) -> np.ndarray:
    """Which tokens end an answer, bool `[V]`: their text holds `stop`, or they end a sequence."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    # Either may be the longer one: tokens without a row are never said.
    is_stop = np.zeros(max(vocab_size, len(texts)), bool)
    is_stop[: len(texts)] = [stop in text for text in texts]
    is_stop[list(ends)] = True
    return is_stop[:vocab_size]


def _is_stop(lm: LanguageModel, stop: str) -> np.ndarray:
    own_end = lm.tokenizer.eos_token_id
    ends = {*lm.eos_token_ids, *([] if own_end is None else [own_end])}
    vocab_size = lm.config.vocab_size
    known = tuple(sorted(end for end in ends if end < max(vocab_size, len(lm.tokenizer))))
    return _stop_tokens(lm.tokenizer, vocab_size, stop, known)


def _read_context(decoder: Decoder, tokens: jax.Array, lengths: jax.Array) -> Segment:
    """Tokens `[1, T]`, of which so many `[1]` are real, as a segment."""
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    is_real = positions < lengths[:, None]
    return Segment(decoder.key_values(tokens, positions, is_real), positions, is_real)


@functools.partial(jax.jit, static_argnames="max_new_tokens")
def _generate(
    lm: LanguageModel,
    context: jax.Array,
    context_lengths: jax.Array,
    queries: jax.Array,
    query_lengths: jax.Array,
    is_stop: jax.Array,
    rng_key: jax.Array,
    temperature: jax.Array,
    *,
    max_new_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """Tokens int32 `[M, G]`, the one that ends an answer included, and which are real."""
    decoder, (batch, _) = lm.decoder(), queries.shape
    context, context_lengths = jnp.asarray(context), jnp.asarray(context_lengths)
    shared = _read_context(decoder, context, context_lengths)
    num_before = jnp.broadcast_to(context_lengths, (batch,))
    prompts = read_prompts(decoder, queries, query_lengths, num_before, (shared,))
    own = prompts.segments[-1]
    positions = prompts.num_tokens[:, None] + jnp.arange(max_new_tokens, dtype=jnp.int32)

    def next_token(state: _Generated) -> _Generated:
        logits = decoder.logits(state.last_hidden)
        key = jax.random.fold_in(rng_key, state.num_new)
        sampled = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        chosen = jnp.where(temperature > 0, sampled, logits.argmax(-1)).astype(jnp.int32)
        past = Segment(state.key_values, positions, state.is_real)
        at = positions[:, state.num_new][:, None]
        is_read = ~state.is_stopped[:, None]
        hidden, new = decoder(chosen[:, None], at, is_read, (shared, own, past))
        place = (slice(None), state.num_new)
        return _Generated(
            tokens=state.tokens.at[place].set(chosen),
            is_real=state.is_real.at[place].set(is_read[:, 0]),
            is_stopped=state.is_stopped | is_stop[chosen],
            last_hidden=hidden[:, 0],
            key_values=jax.tree.map(
                lambda cache, one: cache.at[:, :, state.num_new].set(one[:, :, 0]),
                state.key_values,
                new,
            ),
            num_new=state.num_new + 1,
        )

    empty = jax.tree.map(
        lambda one: jnp.zeros((*one.shape[:2], max_new_tokens, *one.shape[3:]), one.dtype),
        own.key_values,
    )
    state = _Generated(
        tokens=jnp.zeros((batch, max_new_tokens), jnp.int32),
        is_real=jnp.zeros((batch, max_new_tokens), bool),
        is_stopped=jnp.zeros(batch, bool),
        last_hidden=prompts.last_hidden,
        key_values=empty,
        num_new=jnp.int32(0),
    )
    state = jax.lax.while_loop(
        lambda state: (state.num_new < max_new_tokens) & ~jnp.all(state.is_stopped),
        next_token,
        state,
    )
    return state.tokens, state.is_real


@jax.jit
def _continuation_log_probs(
    lm: LanguageModel,
    context: jax.Array,
    context_lengths: jax.Array,
    rows: jax.Array,
    lengths: jax.Array,
    num_after: jax.Array,
) -> jax.Array:
    """Log-probs, float32 `[M]`, of the last `num_after` tokens of each row."""
    decoder = lm.decoder()
    context, context_lengths = jnp.asarray(context), jnp.asarray(context_lengths)
    shared = _read_context(decoder, context, context_lengths)
    column = jnp.arange(rows.shape[1], dtype=jnp.int32)

    def log_prob(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        tokens, length, num = row
        is_real = column < length
        positions = context_lengths[0] + column
        hidden, _ = decoder(tokens[None], positions[None], is_real[None], (shared,))
        logp = jax.nn.log_softmax(decoder.logits(hidden[0, :-1]), axis=-1)
        chosen = jnp.take_along_axis(logp, tokens[1:, None], axis=-1)[:, 0]
        is_after = (column >= length - num) & is_real
        return jnp.sum(jnp.where(is_after[1:], chosen, 0.0))

    return jax.lax.map(log_prob, (rows, lengths, num_after), batch_size=ROWS_AT_A_TIME)
