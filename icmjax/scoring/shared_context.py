"""What a model says of all claims after one context of a few of them, which is read once.

No claim has a context of its own here, so nothing has to be left out: a context of S claims and N
queries are (S + N) L tokens, whatever the scoring method of a whole pass.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.lm import Segment
from icmjax.prompts import TokenizedClaims
from icmjax.scoring.brief import OfClaims
from icmjax.scoring.contexts import build_context, shown_lengths
from icmjax.scoring.labels import label_log_probs, read_prompts, score_in_batches
from icmjax.scoring.orders import OrderMeanScorer
from icmjax.scoring.planner import MEMORY_BUDGET, fitting_batch, text_bytes

BATCH_TOKENS = 4096  # of queries read together


def score_in_context(scorer: Any, labels: jax.Array, num_shown: int) -> jax.Array:
    """Label log-probs of the claims that a context does not show, given those that it does.

    A scorer that is made of no tokens, such as an observer, makes a pass of its own for it, and so
    does one whose contexts have a size.

    Args:
      scorer: any scorer of N claims.
      labels: int8 `[..., N]`; the labelled claims are shown, in their given order.
      num_shown: the most claims that any labelling shows.

    Returns:
      float32 `[..., N, Y]`, nats; even, −log Y, for the claims that are shown.

    Raises:
      InputError: a context and one query do not fit the scorer's memory budget.
    """
    own = of_tokens(scorer)
    logp = scorer(labels) if own is None else _score(own, jnp.asarray(labels), num_shown)
    return jnp.where(labels[..., None] >= 0, -jnp.log(float(logp.shape[-1])), logp)


def tokens_in_context(scorer: Any, labels: np.ndarray) -> int:
    """Real tokens that `score_in_context` reads for int8 `[N]`; on the host."""
    own = of_tokens(scorer)
    if own is None:
        return scorer.tokens_per_pass(labels)
    claims, labels = jax.tree.map(np.asarray, own_rows(own)), np.asarray(labels)
    forms = np.maximum(claims.label_form_lengths - 1, 0).sum() * own.num_claims
    shown = shown_lengths(claims, labels, np).sum()
    return int(len(claims.preamble) + shown + claims.query_lengths.sum() + forms)


def own_rows(scorer: OfClaims) -> TokenizedClaims:
    """The N claims of a scorer, without the rows that fill its arrays up."""
    claims, num = scorer.claims, scorer.num_claims
    return claims._replace(
        queries=claims.queries[:num],
        query_lengths=claims.query_lengths[:num],
        demonstrations=claims.demonstrations[:num],
        demonstration_lengths=claims.demonstration_lengths[:num],
    )


def of_tokens(scorer: Any) -> OfClaims | None:
    """The scorer of tokenised claims that a scorer is, or is a mean over orders of; else None."""
    if isinstance(scorer, OrderMeanScorer):
        scorer = scorer.scorer
    is_bounded = getattr(scorer, "context_size", None) is not None
    return scorer if isinstance(scorer, OfClaims) and not is_bounded else None


@partial(jax.jit, static_argnames="num_shown")
def _score(scorer: Any, labels: jax.Array, num_shown: int) -> jax.Array:
    lm, claims, num_claims = scorer.lm, own_rows(scorer), scorer.num_claims
    decoder = lm.decoder()
    width = max(1, claims.preamble.shape[0] + num_shown * claims.demonstrations.shape[2])
    batch_size = fitting_batch(
        lambda size: text_bytes(lm, claims, width, 1, size)[1],
        min(num_claims, max(1, BATCH_TOKENS // claims.queries.shape[1])),
        getattr(scorer, "memory_budget", MEMORY_BUDGET),
        None,
    )
    column = jnp.arange(width, dtype=jnp.int32)
    order = jnp.arange(num_claims, dtype=jnp.int32)

    def score_text(labels: jax.Array) -> jax.Array:
        tokens, num_tokens = build_context(claims, labels, labels >= 0, order, width)
        rows = tokens[None], column[None], (column < num_tokens)[None]
        context = Segment(decoder.key_values(*rows), *rows[1:])

        def score_queries(queries: jax.Array) -> jax.Array:
            text = jnp.asarray(claims.queries)[queries]
            lengths = jnp.asarray(claims.query_lengths)[queries]
            before = jnp.broadcast_to(num_tokens, lengths.shape)
            prompts = read_prompts(decoder, text, lengths, before, (context,))
            return label_log_probs(decoder, prompts, claims)

        return score_in_batches(score_queries, num_claims, batch_size)

    logp = jax.lax.map(score_text, labels.reshape(-1, num_claims))
    return logp.reshape(*labels.shape, -1)
