"""Approximate leave-one-out scores: every claim is encoded once, on its own after the preamble.

A query attends to the preamble and to the blocks of all other labelled claims, which have not seen
each other. What a block's tokens hold depends on its claim and label alone, so that all blocks are
encoded when the scorer is made, and a pass over N claims of L tokens reads the N L tokens of the
queries. Blocks start right after the preamble, and a query right after the longest block it reads:
positions stay within what the model was trained on however many claims there are, no block is
nearer than another, and with a single demonstration the score is the exact one (Adaptive Parallel
Encoding, Yang et al., arXiv:2502.05431, from which the temperature and the scale are too).
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.arrays import on_device
from icmjax.lm import KeyValues, LanguageModel, Segment, Tempering
from icmjax.prompts import TokenizedClaims
from icmjax.scoring.brief import OfClaims
from icmjax.scoring.contexts import shown_lengths
from icmjax.scoring.labels import label_log_probs, read_prompts, score_in_batches
from icmjax.scoring.planner import MEMORY_BUDGET, blocks_bytes, fitting_batch

BATCH_TOKENS = 4096  # of queries in memory at a time, where no batch size is asked for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BlockwiseScorer(OfClaims):
    """Label log-probs of every claim given the others, each read apart: an approximation.

    A pytree, to be called inside or outside jit; make one by `icmjax.make_scorer`.
    `icmjax.scoring.measure_fidelity` says how far it is from an exact scorer.
    """

    lm: LanguageModel
    claims: TokenizedClaims
    is_read: jax.Array  # bool [N, N], whether query i may read claim j
    preamble: KeyValues | None  # [L, 1, P, K, head_dim]; None where there are no tokens of it
    blocks: KeyValues  # [N, Y, L, Td, K, head_dim], of every claim with every label
    tempering: Tempering | None  # of the attention to the blocks
    batch_size: int = dataclasses.field(metadata={"static": True})  # queries read together

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs in nats: int8 `[..., N]` → float32 `[..., N, Y]`."""
        return _score(self, jnp.asarray(labels))

    def demonstration_orders(self) -> np.ndarray:
        """The claims that query i reads, side by side: int32 `[N, N - 1]`, -1 after the last."""
        orders = np.full((self.num_claims, self.num_claims - 1), -1, np.int32)
        for query, is_read in enumerate(np.asarray(self.is_read)):
            others = np.flatnonzero(is_read)
            orders[query, : len(others)] = others
        return orders

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Real tokens that scoring int8 `[..., N]` reads, those of `tokens_once` apart."""
        forms = np.maximum(np.asarray(self.claims.label_form_lengths) - 1, 0).sum()
        each = np.sum(self.claims.query_lengths) + forms * self.num_claims
        return math.prod(np.shape(labels)[:-1]) * int(each)

    @property
    def sources(self) -> tuple:
        """All that scores follow from: the blocks are made of the rest."""
        return self.lm, self.claims, self.is_read, self.tempering

    @property
    def tokens_once(self) -> int:
        """Real tokens that were read when the scorer was made: the preamble and all blocks."""
        return len(self.claims.preamble) + int(np.sum(self.claims.demonstration_lengths))


def make_blockwise_scorer(
    lm: LanguageModel,
    claims: TokenizedClaims,
    units: np.ndarray,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> BlockwiseScorer:
    """A blockwise scorer, whose blocks are encoded here.

    Args:
      claims: numpy arrays.
      units: int `[N]`; claims of one unit do not read each other.
      batch_size: queries read together, which changes memory and speed, not scores; by default as
        many as make `BATCH_TOKENS` within the memory budget.
      memory_budget: bytes for key-values and activations, the weights apart.
      temperature: T of APE: scores of blocks are divided by it. Below 1 attention is sharper.
      scale: S of APE: the log-sum-exp of the blocks' scores is multiplied by T S.

    Raises:
      InputError: the blocks and one query, or as many as are asked for, do not fit the budget.
    """
    num_claims = len(claims.queries)
    batch_size = fitting_batch(
        lambda size: blocks_bytes(lm, claims, size)[1],
        min(num_claims, BATCH_TOKENS // claims.queries.shape[1]),
        memory_budget,
        None if batch_size is None else min(batch_size, num_claims),
    )
    device_claims = on_device(claims)
    preamble, blocks = _encode(lm, device_claims, batch_size)
    is_plain = temperature == 1.0 and scale == 1.0
    tempering = Tempering(jnp.float32(temperature), jnp.float32(scale))
    return BlockwiseScorer(
        lm=lm,
        claims=device_claims,
        is_read=jnp.asarray(units[:, None] != units[None, :]),
        preamble=preamble,
        blocks=blocks,
        tempering=None if is_plain else tempering,
        batch_size=batch_size,
    )


@partial(jax.jit, static_argnames="batch_size")
def _encode(
    lm: LanguageModel, claims: TokenizedClaims, batch_size: int
) -> tuple[KeyValues | None, KeyValues]:
    """Key-values of the preamble and of all blocks, as `BlockwiseScorer` has them."""
    decoder, config = lm.decoder(), lm.config
    num_claims, num_options, width = claims.demonstrations.shape
    num_before = claims.preamble.shape[0]
    preamble = None
    if num_before:
        column = jnp.arange(num_before, dtype=jnp.int32)[None]
        opening = jnp.asarray(claims.preamble)[None]
        preamble = decoder.key_values(opening, column, jnp.ones(column.shape, bool))

    rows = (
        jnp.asarray(claims.demonstrations).reshape(-1, width),
        jnp.asarray(claims.demonstration_lengths).reshape(-1),
    )
    num_rows = num_claims * num_options
    size = min(num_rows, batch_size, max(1, BATCH_TOKENS // width))
    segments = _preamble_segment(preamble)

    def encode_batch(blocks: KeyValues, start: jax.Array) -> tuple[KeyValues, None]:
        tokens, lengths = (jax.lax.dynamic_slice_in_dim(each, start, size) for each in rows)
        column = jnp.arange(width, dtype=jnp.int32)
        positions = jnp.broadcast_to(num_before + column, tokens.shape)
        read = decoder.key_values(tokens, positions, column < lengths[:, None], segments)
        return jax.tree.map(
            lambda kept, new: jax.lax.dynamic_update_slice_in_dim(
                kept, jnp.moveaxis(new, 1, 0), start, axis=0
            ),
            blocks,
            read,
        ), None

    shape = (num_rows, config.num_layers, width, config.num_kv_heads, config.head_dim)
    empty = jnp.zeros(shape, jax.tree.leaves(lm.params)[0].dtype)
    # Batches are of one size, so that the last one begins where it still has as many rows.
    starts = jnp.minimum(jnp.arange(0, num_rows, size, dtype=jnp.int32), num_rows - size)
    blocks, _ = jax.lax.scan(encode_batch, KeyValues(empty, empty), starts)
    by_claim = (num_claims, num_options)
    return preamble, jax.tree.map(lambda each: each.reshape(*by_claim, *each.shape[1:]), blocks)


def _preamble_segment(preamble: KeyValues | None) -> tuple[Segment, ...]:
    if preamble is None:
        return ()
    column = jnp.arange(preamble.keys.shape[2], dtype=jnp.int32)[None]
    return (Segment(preamble, column, jnp.ones(column.shape, bool)),)


@jax.jit
def _score(scorer: BlockwiseScorer, labels: jax.Array) -> jax.Array:
    flat = labels.reshape(-1, scorer.num_claims)
    logp = jax.lax.map(lambda labels: _score_labelling(scorer, labels), flat)
    return logp.reshape(*labels.shape, scorer.num_options)


def _score_labelling(scorer: BlockwiseScorer, labels: jax.Array) -> jax.Array:
    """Label log-probs `[N, Y]` of one labelling `[N]`."""
    score_queries = partial(_score_queries, scorer, _shown_blocks(scorer, labels), labels)
    return score_in_batches(score_queries, scorer.num_claims, scorer.batch_size)


def _shown_blocks(scorer: BlockwiseScorer, labels: jax.Array) -> Segment:
    """The blocks of all claims with these labels, in one row."""
    num_claims, _, width = scorer.claims.demonstrations.shape
    index = jnp.arange(num_claims), jnp.maximum(labels, 0).astype(jnp.int32)

    def side_by_side(each: jax.Array) -> jax.Array:
        """`[N, Y, L, Td, K, head_dim]` → `[L, 1, N Td, K, head_dim]`."""
        return jnp.moveaxis(each[index], 1, 0).reshape(each.shape[2], 1, -1, *each.shape[-2:])

    chosen = jax.tree.map(side_by_side, scorer.blocks)
    column = jnp.arange(width, dtype=jnp.int32)
    is_real = column < shown_lengths(scorer.claims, labels)[:, None]
    positions = jnp.tile(scorer.claims.preamble.shape[0] + column, num_claims)
    return Segment(chosen, positions[None], is_real.reshape(1, -1), tempering=scorer.tempering)


def _score_queries(
    scorer: BlockwiseScorer, blocks: Segment, labels: jax.Array, queries: jax.Array
) -> jax.Array:
    """Label log-probs `[n, Y]` of queries int32 `[n]`."""
    claims, decoder = scorer.claims, scorer.lm.decoder()
    is_read = scorer.is_read[queries]  # [n, N]
    longest = jnp.where(is_read, shown_lengths(claims, labels), 0).max(axis=1)
    num_before = claims.preamble.shape[0] + longest
    context = (
        *_preamble_segment(scorer.preamble),
        blocks._replace(is_read=jnp.repeat(is_read, claims.demonstrations.shape[2], axis=1)),
    )
    lengths = jnp.asarray(claims.query_lengths)[queries]
    tokens = jnp.asarray(claims.queries)[queries]
    prompts = read_prompts(decoder, tokens, lengths, num_before, context)
    return label_log_probs(decoder, prompts, claims)
