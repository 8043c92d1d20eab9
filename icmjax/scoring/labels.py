"""Label log-probs at the end of a prompt, shared by every scoring method."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from icmjax.lm import Decoder, Segment
from icmjax.prompts import TokenizedClaims


class Prompts(NamedTuple):
    """What the decoder made of B prompts, each ending where its label begins."""

    last_hidden: jax.Array  # [B, D], of the last real token
    segments: tuple[Segment, ...]  # all that the label's tokens attend to; batches divide B
    num_tokens: jax.Array  # int32 [B], real tokens so far: the position of the label's first token


def read_prompts(
    decoder: Decoder,
    tokens: jax.Array,
    lengths: jax.Array,
    num_before: jax.Array,
    segments: tuple[Segment, ...] = (),
) -> Prompts:
    """What the decoder makes of the rows that end B prompts.

    Args:
      tokens: int32 `[B, T]`, padded on the right.
      lengths: int32 `[B]`, real tokens of each row.
      num_before: int32 `[B]`, real tokens before it.
      segments: what those are; batches divide B.
    """
    column = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions, is_real = num_before[:, None] + column, column < lengths[:, None]
    last = (lengths - 1)[:, None]
    hidden, key_values = decoder.read_at(last, tokens, positions, is_real, segments)
    own = Segment(key_values, positions, is_real)
    return Prompts(hidden[:, 0], (*segments, own), num_before + lengths)


def label_log_probs(decoder: Decoder, prompts: Prompts, claims: TokenizedClaims) -> jax.Array:
    """log P(label y | prompt), normalised over the label set, in nats.

    A form of several tokens has the sum of their log-probs, an option of several forms the
    log-sum-exp of theirs. Where every form is one token this costs nothing beyond the prompt: what
    the first tokens' log-probs are normalised by is the same for all forms, so that no other
    token of the vocabulary is looked at.

    Returns:
      float32 `[B, Y]`.
    """
    num_options, num_forms, width = claims.label_forms.shape
    batch = prompts.last_hidden.shape[0]
    forms = jnp.asarray(claims.label_forms).reshape(num_options * num_forms, width)
    lengths = jnp.asarray(claims.label_form_lengths).reshape(num_options * num_forms)

    form_log_probs = decoder.logits(prompts.last_hidden, forms[:, 0])  # [B, Y F], up to a constant
    if width > 1:
        form_log_probs += _rest_log_probs(decoder, prompts, forms, lengths).reshape(batch, -1)
    form_log_probs = jnp.where(lengths > 0, form_log_probs, -jnp.inf)
    by_form = form_log_probs.reshape(batch, num_options, num_forms)
    return jax.nn.log_softmax(jax.nn.logsumexp(by_form, axis=-1), axis=-1)


def score_in_batches(
    score_queries: Callable[[jax.Array], jax.Array], num_claims: int, batch_size: int
) -> jax.Array:
    """Label log-probs of all claims, float32 `[N, Y]`, in batches of one size.

    Args:
      score_queries: turns queries int32 `[n]` into float32 `[n, Y]`.
      num_claims: N.
      batch_size: queries in a batch at the most.
    """
    num_batches = -(-num_claims // batch_size)
    size = -(-num_claims // num_batches)
    # The last batch is filled up with claims that were scored before.
    queries = jnp.arange(num_batches * size, dtype=jnp.int32) % num_claims
    logp = jax.lax.map(score_queries, queries.reshape(num_batches, size))
    return logp.reshape(-1, logp.shape[-1])[:num_claims]


def _rest_log_probs(
    decoder: Decoder, prompts: Prompts, forms: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Sum of the log-probs of each form's tokens after its first: float32 `[B * Y * F]`."""
    batch, (num_rows, width) = prompts.last_hidden.shape[0], forms.shape
    inputs = jnp.tile(forms[:, :-1], (batch, 1))  # [B Y F, Tl - 1], forms inside a prompt
    targets = jnp.tile(forms[:, 1:], (batch, 1))
    column = jnp.arange(width - 1, dtype=jnp.int32)
    is_real = jnp.tile(column < lengths[:, None], (batch, 1))
    positions = jnp.repeat(prompts.num_tokens, num_rows)[:, None] + column
    hidden, _ = decoder(inputs, positions, is_real, prompts.segments)
    log_probs = jax.nn.log_softmax(decoder.logits(hidden))
    log_probs = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    is_target = jnp.tile(column + 1 < lengths[:, None], (batch, 1))
    return jnp.where(is_target, log_probs, 0.0).sum(-1)
