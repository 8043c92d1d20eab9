"""Floating-point operations of a pass, counted on real tokens, and what the device can do."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.lm.loading import LanguageModel
from icmjax.scoring import ChainRuleScorer, SequentialScorer, TreeScorer
from icmjax.scoring.blockwise import BlockwiseScorer
from icmjax.scoring.prompts import shown_lengths
from icmjax.scoring.tree import _piece_starts, _stretches

Rows = tuple[np.ndarray, np.ndarray]  # tokens of each row, and tokens that it reads before its own


def rows_of(scorer, labels: np.ndarray) -> Rows:
    """The rows of a pass over int8 `[N]`."""
    claims = jax.tree.map(np.asarray, scorer.claims)
    shown = shown_lengths(claims, labels, np) if len(labels) == len(claims.queries) else None
    if isinstance(scorer, TreeScorer):
        starts = _piece_starts(scorer, np.asarray(scorer._fill(labels)), np)
        leaves = np.asarray(scorer.leaves)[: scorer.num_claims]
        num_leaves = scorer.plan().num_leaves
        lengths, before = [], []
        read = np.zeros(num_leaves, int)
        for level, bounds in enumerate(scorer.bounds):
            own = _stretches(starts, np.asarray(bounds))[1].astype(int)
            node = np.arange(num_leaves) // (num_leaves // len(bounds))
            past = read[:: num_leaves // len(bounds)]
            read = read + own[node]
            if level + 1 == len(scorer.bounds):
                own = own[leaves] + claims.query_lengths[: scorer.num_claims]
                past = past[leaves]
            lengths.append(own)
            before.append(past)
        return np.concatenate(lengths), np.concatenate(before)
    if isinstance(scorer, SequentialScorer):
        context = len(claims.preamble) + scorer.is_read(labels) @ shown
        lengths = context + claims.query_lengths
        return lengths, np.zeros_like(lengths)
    if isinstance(scorer, BlockwiseScorer):
        read = np.asarray(scorer.is_read) @ shown + len(claims.preamble)
        return claims.query_lengths, read
    assert isinstance(scorer, ChainRuleScorer)
    text = len(claims.preamble) + shown.sum()
    return np.full(len(scorer.orders), text), np.zeros(len(scorer.orders), int)


def pass_flops(lm: LanguageModel, rows: Rows, num_queries: int) -> float:
    """Multiplications and additions of the matmuls of these rows, and of the queries' logits."""
    config = lm.config
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    per_token = 2 * config.hidden_size * (2 * heads + 2 * kv_heads + 3 * config.mlp_size)
    lengths, before = (each.astype(float) for each in rows)
    pairs = (lengths * before + lengths * (lengths + 1) / 2).sum()
    layers = config.num_layers * (per_token * lengths.sum() + 4 * heads * pairs)
    return layers + 2 * num_queries * config.hidden_size * config.vocab_size


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
