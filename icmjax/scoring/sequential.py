"""Exact leave-one-out scores, one full prompt a query: the reference's own method.

Every query reads all the other labelled claims in their given order. A pass over N claims of L
tokens reads about N² L tokens.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.arrays import on_device
from icmjax.lm import LanguageModel
from icmjax.prompts import TokenizedClaims, prompt_lengths
from icmjax.scoring.brief import OfClaims
from icmjax.scoring.contexts import add_query, build_context, shown_lengths
from icmjax.scoring.labels import label_log_probs, read_prompts
from icmjax.scoring.planner import MEMORY_BUDGET, fitting_batch, prompt_bytes

Leave = Literal["claim", "group"]
NUM_WIDTHS = 3  # shapes that one scorer may compile: the full width, a half, a quarter
MIN_WIDTH = 64
BATCH_TOKENS = 4096  # of prompts in memory at a time, where no batch size is asked for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SequentialScorer(OfClaims):
    """Label log-probs of every claim given all the other labelled claims.

    A pytree, to be called inside or outside jit; make one by `icmjax.make_scorer`.
    """

    lm: LanguageModel
    claims: TokenizedClaims
    groups: jax.Array  # int32 [N], the consistency group of each claim
    # "claim" leaves the query alone out of its context; "group" its whole consistency group.
    leave: Leave = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(metadata={"static": True})  # prompts in memory at a time
    widths: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # of prompts, rising
    order: jax.Array | None = None  # int32 [N], in which claims are read; None for the given one
    rng_key: jax.Array | None = None  # [], draws which claims a query reads of those it may
    # The most claims that a query reads: the labelled ones that come first in an order of its own.
    context_size: int | None = dataclasses.field(default=None, metadata={"static": True})
    # Bytes beside the weights, to which contexts that all queries share keep too.
    memory_budget: int = dataclasses.field(default=MEMORY_BUDGET, metadata={"static": True})

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs in nats: int8 `[..., N]` → float32 `[..., N, Y]`.

        Prompts are as wide as the longest one needs, rounded up to one of `widths`, so that a
        pass over few labelled claims is cheap. Under `jax.vmap` all widths would be computed:
        hand a batch of labellings over as leading axes instead.
        """
        return self.score_queries(labels, jnp.arange(self.num_claims, dtype=jnp.int32))

    def score_queries(self, labels: jax.Array, queries: jax.Array) -> jax.Array:
        """Label log-probs of the claims int32 `[S]` alone, in nats: float32 `[..., S, Y]`."""
        return _score(self, jnp.asarray(labels), jnp.asarray(queries))

    def is_read(self, labels: np.ndarray | None = None) -> np.ndarray:
        """Whether query i reads claim j: bool `[..., N, N]`.

        Args:
          labels: int8 `[..., N]`, on which it depends under a `context_size`; by default all
            claims are labelled.
        """
        if labels is None:
            labels = np.zeros(self.num_claims, np.int8)
        flat = jnp.asarray(labels).reshape(-1, self.num_claims)
        read = _is_read(self, flat)
        return np.asarray(read).reshape(*np.shape(labels), self.num_claims)

    def demonstration_orders(self, labels: np.ndarray | None = None) -> np.ndarray:
        """The order in which query i reads the others: int32 `[N, N - 1]`, -1 after the last.

        Args:
          labels: as of `is_read`, int8 `[N]`.
        """
        order = np.arange(self.num_claims) if self.order is None else np.asarray(self.order)
        orders = np.full((self.num_claims, self.num_claims - 1), -1, np.int32)
        for query, is_read in enumerate(self.is_read(labels)):
            others = order[is_read[order]]
            orders[query, : len(others)] = others
        return orders

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Real tokens that scoring int8 `[..., N]` reads, those of long label forms included."""
        lengths = shown_lengths(self.claims, np.asarray(labels), np)
        context = np.einsum("...j,...ij->...", lengths, self.is_read(labels))
        num_labellings = int(np.prod(labels.shape[:-1]))
        forms = np.maximum(np.asarray(self.claims.label_form_lengths) - 1, 0).sum()
        each = len(self.claims.preamble) * self.num_claims + np.sum(self.claims.query_lengths)
        return int(context.sum() + num_labellings * (each + forms * self.num_claims))


def make_sequential_scorer(
    lm: LanguageModel,
    claims: TokenizedClaims,
    groups: np.ndarray,
    leave: Leave = "claim",
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    context_size: int | None = None,
    rng_key: jax.Array | None = None,
) -> SequentialScorer:
    """A sequential scorer of claims that fit the model.

    Args:
      claims: numpy arrays.
      groups: int `[N]`, the consistency group of each claim.
      leave: what a query's context leaves out.
      batch_size: prompts in memory at a time; by default as many as make `BATCH_TOKENS` within the
        memory budget.
      memory_budget: bytes for key-values and activations, the weights apart.
      context_size: the most others that a query reads.
      rng_key: draws which ones; needed for a `context_size`.

    Raises:
      InputError: not even one prompt, or not as many as are asked for, fit the budget.
    """
    if context_size is not None:
        context_size = min(context_size, len(groups) - 1)
    widths = prompt_widths(claims, context_size)
    needed = prompt_bytes(lm, claims, widths[-1])
    batch_size = fitting_batch(
        lambda size: size * needed, BATCH_TOKENS // widths[-1], memory_budget, batch_size
    )
    return SequentialScorer(
        lm=lm,
        claims=on_device(claims),
        groups=jnp.asarray(groups, np.int32),
        leave=leave,
        batch_size=batch_size,
        widths=widths,
        rng_key=None if context_size is None else rng_key,
        context_size=context_size,
        memory_budget=memory_budget,
    )


def prompt_widths(claims: TokenizedClaims, context_size: int | None = None) -> tuple[int, ...]:
    """The widths that prompts of these claims are padded to, the last wide enough for any."""
    label = int(np.asarray(claims.label_form_lengths).max())
    longest = prompt_lengths(claims, context_size).max() - label
    widths = {_round_up(max(MIN_WIDTH, -(-int(longest) >> shift))) for shift in range(NUM_WIDTHS)}
    full = _round_up(int(longest))
    return tuple(sorted({min(width, full) for width in widths}))


def _round_up(width: int, multiple: int = 16) -> int:
    return -(-width // multiple) * multiple


def _score_query(
    scorer: SequentialScorer, labels: jax.Array, query: jax.Array, width: int
) -> jax.Array:
    """Label log-probs of one query: float32 `[Y]`."""
    claims = scorer.claims
    order = scorer.order
    if order is None:
        order = jnp.arange(scorer.num_claims, dtype=jnp.int32)
    is_read = _row_is_read(scorer, labels, query)
    context = build_context(claims, labels, is_read, order, width)
    tokens, num_tokens = add_query(claims, *context, query)
    decoder = scorer.lm.decoder()
    prompts = read_prompts(decoder, tokens[None], num_tokens[None], jnp.zeros(1, jnp.int32))
    return label_log_probs(decoder, prompts, claims)[0]


def _row_is_read(scorer: SequentialScorer, labels: jax.Array, query: jax.Array) -> jax.Array:
    """Which claims one query reads under labels int8 `[N]`: bool `[N]`."""
    num_claims = scorer.num_claims
    if scorer.leave == "group":
        is_read = scorer.groups != scorer.groups[query]
    else:
        is_read = jnp.arange(num_claims) != query
    if scorer.context_size is None or scorer.rng_key is None:
        return is_read
    is_read &= labels >= 0
    own_order = jax.random.permutation(jax.random.fold_in(scorer.rng_key, query), num_claims)
    first = jnp.argsort(jnp.where(is_read, own_order, num_claims))[: scorer.context_size]
    return is_read & jnp.zeros(num_claims, bool).at[first].set(True)


@jax.jit
def _is_read(scorer: SequentialScorer, labels: jax.Array) -> jax.Array:
    """bool `[B, N, N]` under labels int8 `[B, N]`."""
    queries = jnp.arange(scorer.num_claims, dtype=jnp.int32)
    by_query = jax.vmap(partial(_row_is_read, scorer), (None, 0))
    return jax.vmap(by_query, (0, None))(labels, queries)


@jax.jit
def _score(scorer: SequentialScorer, labels: jax.Array, queries: jax.Array) -> jax.Array:
    num_claims = scorer.num_claims
    flat = labels.reshape(-1, num_claims)
    num_prompts = flat.shape[0] * len(queries)
    # Batches of one size, the last filled up with earlier prompts, compile one program a width.
    num_batches = -(-num_prompts // scorer.batch_size)
    batch_size = -(-num_prompts // num_batches)
    prompts = jnp.arange(num_batches * batch_size, dtype=jnp.int32) % num_prompts

    def score_at(width: int, flat: jax.Array) -> jax.Array:
        def score_one(prompt: jax.Array) -> jax.Array:
            row, query = prompt // len(queries), queries[prompt % len(queries)]
            return _score_query(scorer, flat[row], query, width)

        logp = jax.lax.map(jax.vmap(score_one), prompts.reshape(num_batches, batch_size))
        return logp.reshape(-1, scorer.num_options)[:num_prompts]

    longest = jax.lax.top_k(shown_lengths(scorer.claims, flat), scorer.context_size or num_claims)
    shown = longest[0].sum(-1).max()
    needed = scorer.claims.preamble.shape[0] + shown + scorer.claims.query_lengths.max()
    choice = jnp.searchsorted(jnp.asarray(scorer.widths), needed, side="left")
    # The sum can count the query's own demonstration, and so pass the largest width.
    choice = jnp.minimum(choice, len(scorer.widths) - 1)
    branches = [partial(score_at, width) for width in scorer.widths]
    logp = jax.lax.switch(choice, branches, flat)
    return logp.reshape(*labels.shape[:-1], len(queries), scorer.num_options)
