"""Floating-point operations of a pass, counted on real tokens, and what the device can do."""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.lm import LanguageModel
from icmjax.scoring import (
    BlockwiseScorer,
    ChainRuleScorer,
    SequentialScorer,
    TreeScorer,
    piece_starts,
    shown_lengths,
    stretches,
)


class Rows(NamedTuple):
    """The rows that a pass reads, and the queries that end in them."""

    lengths: np.ndarray  # int [rows], tokens
    before: np.ndarray  # int [rows], tokens that a row reads before its own
    seen: np.ndarray  # int [queries], tokens that a query's last one attends to, itself included


def rows_of(scorer, labels: np.ndarray) -> Rows:
    """The rows of a pass over int8 `[N]`."""
    claims = jax.tree.map(np.asarray, scorer.claims)
    shown = shown_lengths(claims, labels, np) if len(labels) == len(claims.queries) else None
    if isinstance(scorer, TreeScorer):
        starts = piece_starts(scorer, np.asarray(scorer._fill(labels)), np)
        leaves = np.asarray(scorer.leaves)[: scorer.num_claims]
        num_leaves = scorer.plan().num_leaves
        lengths, before = [], []
        read = np.zeros(num_leaves, int)
        for level, bounds in enumerate(scorer.bounds):
            own = stretches(starts, np.asarray(bounds))[1].astype(int)
            node = np.arange(num_leaves) // (num_leaves // len(bounds))
            past = read[:: num_leaves // len(bounds)]
            read = read + own[node]
            if level + 1 == len(scorer.bounds):
                own = own[leaves] + claims.query_lengths[: scorer.num_claims]
                past = past[leaves]
            lengths.append(own)
            before.append(past)
        return Rows(np.concatenate(lengths), np.concatenate(before), past + own)
    if isinstance(scorer, SequentialScorer):
        context = len(claims.preamble) + scorer.is_read(labels) @ shown
        lengths = context + claims.query_lengths
        return Rows(lengths, np.zeros_like(lengths), lengths)
    if isinstance(scorer, BlockwiseScorer):
        read = np.asarray(scorer.is_read) @ shown + len(claims.preamble)
        return Rows(claims.query_lengths, read, read + claims.query_lengths)
    assert isinstance(scorer, ChainRuleScorer)
    orders = np.asarray(scorer.orders)
    text = len(claims.preamble) + shown.sum()
    ends = len(claims.preamble) + np.cumsum(shown[orders], axis=1) - shown[orders]
    seen = (ends + claims.query_lengths[orders]).ravel()
    return Rows(np.full(len(orders), text), np.zeros(len(orders), int), seen)


class Operations(NamedTuple):
    """Multiplications and additions."""

    dense: float  # of weights and activations
    attention: float  # of queries and keys, of weights of attention and values

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense + self.attention


def pass_flops(lm: LanguageModel, rows: Rows) -> Operations:
    """Multiplications and additions of the matmuls that a pass needs.

    In the last layer that is the keys and values of all tokens, and the rest of the queries' last
    ones. Of the vocabulary the labels alone are looked at, which is nothing beside that.
    """
    config = lm.config
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    of_keys = 2 * config.hidden_size * 2 * kv_heads
    of_rest = 2 * config.hidden_size * (2 * heads + 3 * config.mlp_size)
    lengths, before, seen = (each.astype(float) for each in rows)
    pairs = (lengths * before + lengths * (lengths + 1) / 2).sum()
    below_last = config.num_layers - 1
    dense = (below_last + 1) * of_keys * lengths.sum()
    dense += of_rest * (below_last * lengths.sum() + len(seen))
    return Operations(dense, 4 * heads * (below_last * pairs + seen.sum()))


def matmul_rate(dtype: jnp.dtype, size: int, repeats: int = 5) -> float:
    """FLOP/s of a square matmul of this dtype, measured: the roofline of a compute-bound pass."""
    left, right = (
        jax.random.normal(key, (size, size)).astype(dtype)
        for key in jax.random.split(jax.random.key(0))
    )
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(left, right))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(multiply(left, right))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)
