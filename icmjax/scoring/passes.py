"""What a pass of any scorer takes, in one line."""

import math

import jax.numpy as jnp
import numpy as np

from icmjax.scoring.blockwise import BlockwiseScorer
from icmjax.scoring.chain_rule import ChainRuleScorer
from icmjax.scoring.make import AnyScorer
from icmjax.scoring.orders import OrderMeanScorer
from icmjax.scoring.planner import (
    MEMORY_BUDGET,
    PassPlan,
    blocks_bytes,
    form_tokens,
    key_value_bytes,
    level_bytes,
    prompt_bytes,
    text_bytes,
)
from icmjax.scoring.sequential import SequentialScorer
from icmjax.scoring.subset import TreeSubsetScorer
from icmjax.scoring.tree import TreeScorer


def describe(scorer: AnyScorer | TreeSubsetScorer, memory_budget: int = MEMORY_BUDGET) -> PassPlan:
    """What a pass over one labelling takes, every claim with its longest label.

    Args:
      scorer: of any method.
      memory_budget: bytes that it was made for, on each device.
    """
    if isinstance(scorer, OrderMeanScorer):
        each = describe(scorer.scorer, memory_budget)
        count = scorer.num_orders
        return each._replace(
            method=f"{each.method}, mean of {count} orders",
            num_tokens=count * each.num_tokens,
            num_padded_tokens=count * each.num_padded_tokens,
            num_passes=count * each.num_passes,
        )
    if isinstance(scorer, TreeSubsetScorer):
        last = np.arange(scorer.num_claims - scorer.num_queries, scorer.num_claims)
        each = describe(scorer.for_queries(jnp.asarray(last)), memory_budget)
        return each._replace(method=f"tree over {scorer.num_queries} queries")
    longest = np.asarray(scorer.claims.demonstration_lengths).argmax(axis=1)
    labels = longest[: scorer.num_claims].astype(np.int8)
    shapes = {
        TreeScorer: _tree_shapes,
        SequentialScorer: _sequential_shapes,
        BlockwiseScorer: _blockwise_shapes,
        ChainRuleScorer: _chain_rule_shapes,
    }[type(scorer)]
    method, padded, num_passes, cached, peak = shapes(scorer)  # type: ignore[operator]
    return PassPlan(
        method=method,
        num_claims=scorer.num_claims,
        num_tokens=scorer.tokens_per_pass(labels),
        num_padded_tokens=padded,
        num_passes=num_passes,
        batch_size=scorer.batch_size,
        cache_bytes=cached,
        peak_bytes=peak,
        memory_budget=memory_budget,
        num_devices=scorer.num_devices if isinstance(scorer, TreeScorer) else 1,
    )


def _tree_shapes(scorer: TreeScorer) -> tuple[str, int, int, int, int]:
    shares, widths, num_serial = scorer.shares, scorer.widths, scorer.num_serial
    cached, peak = level_bytes(scorer.lm, scorer.claims, shares, widths, num_serial)
    calls = [
        math.prod(shares[: min(level + 1, num_serial)])
        for level, width in enumerate(widths)
        if width
    ]
    per_query = form_tokens(scorer.claims)
    read = [*widths[:-1], widths[-1] + per_query]
    padded = scorer.num_devices * int(np.cumprod(shares) @ read)
    num_calls = sum(calls) + calls[-1] * (per_query > 0)
    return "tree", padded, num_calls, scorer.batch_size * cached, scorer.batch_size * peak


def _sequential_shapes(scorer: SequentialScorer) -> tuple[str, int, int, int, int]:
    num_calls = -(-scorer.num_claims // scorer.batch_size)
    size, width = -(-scorer.num_claims // num_calls), scorer.widths[-1]
    # Of several labellings whole batches are read.
    cached = scorer.batch_size * width * key_value_bytes(scorer.lm)
    peak = scorer.batch_size * prompt_bytes(scorer.lm, scorer.claims, width)
    per_query = form_tokens(scorer.claims)
    padded = num_calls * size * (width + per_query)
    return "sequential", padded, num_calls * (1 + (per_query > 0)), cached, peak


def _blockwise_shapes(scorer: BlockwiseScorer) -> tuple[str, int, int, int, int]:
    num_claims, query_width = scorer.claims.queries.shape
    num_calls = -(-num_claims // scorer.batch_size)
    size = -(-num_claims // num_calls)
    cached, peak = blocks_bytes(scorer.lm, scorer.claims, size)
    per_query = form_tokens(scorer.claims)
    padded = num_calls * size * (query_width + per_query)
    return "blockwise", padded, num_calls * (1 + (per_query > 0)), cached, peak


def _chain_rule_shapes(scorer: ChainRuleScorer) -> tuple[str, int, int, int, int]:
    num_orders = len(scorer.orders)
    size = min(scorer.batch_size, num_orders)
    num_calls = -(-num_orders // size)
    num_batches = -(-scorer.num_claims // scorer.query_batch_size)
    per_query = form_tokens(scorer.claims)
    num_queries = num_batches * -(-scorer.num_claims // num_batches)
    padded = num_calls * size * (scorer.width + num_queries * per_query)
    batches = scorer.batch_size, scorer.query_batch_size
    cached, peak = text_bytes(scorer.lm, scorer.claims, scorer.width, *batches)
    num_calls *= 1 + num_batches * (per_query > 0)
    return "chain_rule", padded, num_calls, cached, peak
