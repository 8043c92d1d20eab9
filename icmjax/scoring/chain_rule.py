"""The joint likelihood of a labelling by the chain rule, over K sampled orders of the claims.

In each order a query reads the claims before it, so that one pass over the text scores all of them:
K N L tokens for N claims of L. The joint log-likelihood Σ_i log P(y_i | x_i, claims before i) is a
second definition of coherence beside mutual predictability (Qiu et al., arXiv:2601.13566).
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.arrays import on_device
from icmjax.lm import LanguageModel, Segment
from icmjax.prompts import TokenizedClaims
from icmjax.scoring.brief import OfClaims
from icmjax.scoring.contexts import build_context, shown_lengths
from icmjax.scoring.labels import Prompts, label_log_probs, read_prompts, score_in_batches
from icmjax.scoring.orders import standard_error
from icmjax.scoring.planner import MEMORY_BUDGET, fitting_batch, refuse, text_bytes

BATCH_TOKENS = 4096  # of texts, or of queries, read together


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ChainRuleScorer(OfClaims):
    """Label log-probs of every claim given the labelled claims before it, over K orders.

    A pytree, to be called inside or outside jit; make one by `icmjax.make_scorer`.
    """

    lm: LanguageModel
    claims: TokenizedClaims
    orders: jax.Array  # int32 [K, N], permutations
    width: int = dataclasses.field(metadata={"static": True})  # of a text, tokens
    batch_size: int = dataclasses.field(metadata={"static": True})  # texts read together
    query_batch_size: int = dataclasses.field(metadata={"static": True})  # queries of a text
    # Whether a query's tokens are the first of its demonstrations: not where labels are read apart.
    is_query_inside: bool = dataclasses.field(default=True, metadata={"static": True})

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Mean label log-probs over the orders, nats: int8 `[..., N]` → float32 `[..., N, Y]`."""
        return self.by_order(labels).mean(axis=0)

    def by_order(self, labels: jax.Array) -> jax.Array:
        """Label log-probs of each order, nats: int8 `[..., N]` → float32 `[K, ..., N, Y]`."""
        return _score(self, jnp.asarray(labels))

    def joint_log_likelihood(self, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """log P(all labels) of the labelled claims and its standard error over the orders.

        Args:
          labels: int8 `[..., N]`.

        Returns:
          two float32 `[...]` in nats; the standard error of one order is NaN.
        """
        labels = jnp.asarray(labels)
        own = jnp.maximum(labels, 0).astype(jnp.int32)[None, ..., None]
        logp = jnp.take_along_axis(self.by_order(labels), own, axis=-1)[..., 0]
        by_order = jnp.where(labels >= 0, logp, 0.0).sum(axis=-1)
        return by_order.mean(axis=0), standard_error(by_order)

    def demonstration_orders(self) -> np.ndarray:
        """What query i reads in each order: int32 `[K, N, N - 1]`, -1 after the last."""
        orders = np.asarray(self.orders)
        read = np.full((*orders.shape, self.num_claims - 1), -1, np.int32)
        for each, order in zip(read, orders, strict=True):
            for rank, claim in enumerate(order):
                each[claim, :rank] = order[:rank]
        return read

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Real tokens that scoring int8 `[..., N]` reads, those of long label forms included."""
        labels = np.asarray(labels)
        num_texts = len(self.orders) * math.prod(labels.shape[:-1])
        forms = np.maximum(np.asarray(self.claims.label_form_lengths) - 1, 0).sum()
        each = len(self.claims.preamble) + int(forms) * self.num_claims
        if (labels < 0).any():  # then the queries are rows of their own
            each += int(np.sum(self.claims.query_lengths))
        shown = shown_lengths(self.claims, labels, np).sum()
        return num_texts * each + len(self.orders) * int(shown)


def make_chain_rule_scorer(
    lm: LanguageModel,
    claims: TokenizedClaims,
    rng_key: jax.Array,
    num_orders: int = 1,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> ChainRuleScorer:
    """A chain rule scorer of claims that fit the model.

    Args:
      claims: numpy arrays.
      rng_key: draws the orders.
      num_orders: K.
      batch_size: texts read together, which changes memory and speed, not scores; by default as
        many as make `BATCH_TOKENS` within the memory budget.
      memory_budget: bytes for key-values and activations, the weights apart.

    Raises:
      InputError: one text and one query, or as many texts as are asked for, do not fit the budget.
    """
    num_claims = len(claims.queries)
    keys = jax.random.split(rng_key, num_orders)
    orders = jax.vmap(lambda key: jax.random.permutation(key, num_claims))(keys)
    width = len(claims.preamble) + int(claims.demonstration_lengths.max(axis=1).sum())
    least = batch_size or 1
    refuse(text_bytes(lm, claims, width, 1, 1)[1], memory_budget)
    refuse(text_bytes(lm, claims, width, least, 1)[1], memory_budget, batch_size)
    query_batch_size = fitting_batch(
        lambda size: text_bytes(lm, claims, width, least, size)[1],
        min(num_claims, BATCH_TOKENS // claims.queries.shape[1]),
        memory_budget,
        None,
    )
    batch_size = fitting_batch(
        lambda size: text_bytes(lm, claims, width, size, query_batch_size)[1],
        BATCH_TOKENS // width,
        memory_budget,
        batch_size,
    )
    return ChainRuleScorer(
        is_query_inside=_is_query_inside(claims),
        lm=lm,
        claims=on_device(claims),
        orders=orders.astype(jnp.int32),
        width=width,
        batch_size=batch_size,
        query_batch_size=query_batch_size,
    )


@jax.jit
def _score(scorer: ChainRuleScorer, labels: jax.Array) -> jax.Array:
    flat = labels.reshape(-1, scorer.num_claims)
    num_orders, num_labellings = len(scorer.orders), len(flat)
    texts = (
        jnp.tile(flat, (num_orders, 1)),
        jnp.repeat(scorer.orders, num_labellings, axis=0),
    )

    def score_texts(is_apart: bool) -> jax.Array:
        score_text = partial(_score_text, scorer, is_apart)
        batch_size = min(scorer.batch_size, len(texts[0]))
        return jax.lax.map(lambda text: score_text(*text), texts, batch_size=batch_size)

    # A labelled claim is scored where it stands. An unlabelled one stands nowhere, so that where
    # there are any the queries are read as rows of their own, at twice the tokens.
    if scorer.is_query_inside:
        logp = jax.lax.cond(
            (flat >= 0).all(), partial(score_texts, False), partial(score_texts, True)
        )
    else:
        logp = score_texts(True)
    return logp.reshape(num_orders, *labels.shape, scorer.num_options)


def _is_query_inside(claims: TokenizedClaims) -> bool:
    queries, shown = np.asarray(claims.queries), np.asarray(claims.demonstrations)
    column = np.arange(min(queries.shape[-1], shown.shape[-1]))
    same = shown[..., column] == queries[:, None, column]
    return bool((same | (column >= np.asarray(claims.query_lengths)[:, None, None])).all())


def _score_text(
    scorer: ChainRuleScorer, is_apart: bool, labels: jax.Array, order: jax.Array
) -> jax.Array:
    """Label log-probs `[N, Y]` of one labelling `[N]` in one order `[N]`."""
    claims, decoder = scorer.claims, scorer.lm.decoder()
    is_shown = jnp.ones(scorer.num_claims, bool)
    tokens, num_tokens = build_context(claims, labels, is_shown, order, scorer.width)
    column = jnp.arange(scorer.width, dtype=jnp.int32)
    is_real = (column < num_tokens)[None]
    before = jnp.cumsum(shown_lengths(claims, labels)[order], dtype=jnp.int32)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), before[:-1]])
    starts = jnp.zeros_like(order).at[order].set(before) + claims.preamble.shape[0]
    lengths = jnp.asarray(claims.query_lengths)
    rows = tokens[None], column[None], is_real
    ends = starts + lengths
    if is_apart:
        text = Segment(decoder.key_values(*rows), *rows[1:])
    else:
        hidden, key_values = decoder.read_at(ends[None] - 1, *rows)
        text = Segment(key_values, *rows[1:])

    def score_queries(queries: jax.Array) -> jax.Array:
        if is_apart:
            read = text._replace(is_read=column < starts[queries, None])
            own = jnp.asarray(claims.queries)[queries], lengths[queries], starts[queries]
            prompts = read_prompts(decoder, *own, (read,))
        else:
            read = text._replace(is_read=column < ends[queries, None])
            prompts = Prompts(hidden[0, queries], (read,), ends[queries])
        return label_log_probs(decoder, prompts, claims)

    return score_in_batches(score_queries, scorer.num_claims, scorer.query_batch_size)
