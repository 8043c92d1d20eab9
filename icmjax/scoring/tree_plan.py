"""The prefix tree of a scoring pass: which claims every node reads, planned on the host.

A node of the tree stands for the claims below it, and its segment of text holds the claims of its
siblings. So the path from the root to a leaf reads every claim but the leaf's own (the recursion of
TreeCV, Joulani et al., arXiv:1507.00066, applied to prefixes of text).
"""

from collections.abc import Iterator
from itertools import combinations, count, product
from typing import NamedTuple

import numpy as np

MAX_TERNARY = 2  # levels of three children a node; more cost more tokens than they save in padding


class TreePlan(NamedTuple):
    """A complete tree of K levels below the root; the last level's nodes are the leaves.

    The nodes of a level are numbered from left to right and the children of node v of a level of
    `arity` are nodes `v * arity` to `(v + 1) * arity - 1`. A leaf holds one claim or none.

    A node reads two stretches of one text: the preamble, then all demonstrations in leaf order.
    `bounds[k][v]` says which: pieces `bounds[0]` to `bounds[1] - 1`, then `bounds[2]` to
    `bounds[3] - 1`, where piece 0 is the preamble and piece r + 1 the claim `order[r]`. The nodes
    of the first level read the preamble, so that the root needs no call of its own.
    """

    arities: tuple[int, ...]  # [K], children of a node of the level above
    order: np.ndarray  # int32 [N], the claims in leaf order
    leaves: np.ndarray  # int32 [S], the leaf of each claim that is scored: all, or a subset
    bounds: tuple[np.ndarray, ...]  # per level int32 [nodes, 4]
    widths: tuple[int, ...]  # per level tokens of its longest row; at the last one with the query

    @property
    def num_leaves(self) -> int:
        """Leaves, with those that hold no claim."""
        return self.bounds[-1].shape[0]

    @property
    def num_padded_tokens(self) -> int:
        """Tokens that a pass computes, padding included."""
        return sum(
            len(bounds) * width for bounds, width in zip(self.bounds, self.widths, strict=True)
        )

    def demonstration_orders(self) -> np.ndarray:
        """The order in which query i reads the others: int32 `[S, N - 1]`, -1 after the last."""
        orders = np.full((len(self.leaves), len(self.order) - 1), -1, np.int32)
        for claim, leaf in enumerate(self.leaves):
            pieces = []
            for bounds in self.bounds:
                first, second, third, fourth = bounds[leaf // (self.num_leaves // len(bounds))]
                pieces += [np.arange(first, second), np.arange(third, fourth)]
            read = np.concatenate(pieces)
            read = self.order[read[read > 0] - 1]
            orders[claim, : len(read)] = read
        return orders


def plan_tree(
    demonstration_lengths: np.ndarray,
    query_lengths: np.ndarray,
    num_preamble: int,
    units: np.ndarray,
) -> TreePlan:
    """Plan the tree that pads least.

    Args:
      demonstration_lengths: `[N]`, tokens of each claim with its longest label.
      query_lengths: `[N]`, tokens.
      num_preamble: tokens.
      units: int `[N]`, from 0 on; claims of one unit do not read each other, all others do.
    """
    plans = (
        _plan(arities, demonstration_lengths, query_lengths, num_preamble, units)
        for arities in _shapes(units)
    )
    return min(plans, key=lambda plan: (plan.num_padded_tokens, len(plan.arities)))


def plan_random_trees(
    demonstration_lengths: np.ndarray,
    query_lengths: np.ndarray,
    num_preamble: int,
    units: np.ndarray,
    num_trees: int,
    rng: np.random.Generator,
) -> list[TreePlan]:
    """Plan trees of one shape whose leaves are drawn at random; arguments as of `plan_tree`."""
    weights = rng.random((num_trees, len(units)))
    lengths = (demonstration_lengths, query_lengths, num_preamble, units)
    first = min(
        (_plan(arities, *lengths, weights[0]) for arities in _shapes(units)),
        key=lambda plan: (plan.num_padded_tokens, len(plan.arities)),
    )
    plans = [_plan(first.arities, *lengths, each) for each in weights]
    widths = np.max([plan.widths for plan in plans], axis=0)
    return [plan._replace(widths=tuple(int(width) for width in widths)) for plan in plans]


def plan_subset(
    demonstration_lengths: np.ndarray,
    query_lengths: np.ndarray,
    num_preamble: int,
    num_queries: int,
) -> TreePlan:
    """Plan a tree over any S of the claims, below a root that reads all others.

    (N - S) + S log2 S + S claims are encoded. Which claims the queries are is not known here, so
    that the widths are those of the longest ones.

    Args:
      demonstration_lengths: int `[N]`, tokens of each claim with its longest label.
      query_lengths: int `[N]`, tokens.
      num_preamble: tokens.
      num_queries: S.

    Returns:
      the plan in which the last S claims are the queries: query j is claim N - S + j.
    """
    num_others = len(query_lengths) - num_queries
    equal = np.ones(num_queries, int)
    plan = plan_tree(equal, equal, 0, np.arange(num_queries))
    root = np.array([[0, num_others + 1, 0, 0]], np.int32)
    bounds = [root, *(each + np.int32(num_others) for each in plan.bounds)]
    # The root has read the preamble and the others.
    bounds[1][:, 0] = np.minimum(bounds[1][:, 1], num_others + 1)
    longest_first = np.sort(demonstration_lengths)[::-1]
    longest = num_preamble * np.eye(1, len(bounds), dtype=int)[0]
    ends = np.cumsum([0, *longest_first])
    for level, each in enumerate(bounds):
        num_pieces = (each[:, 1] - each[:, 0] + each[:, 3] - each[:, 2]).max() - (level == 0)
        longest[level] += ends[num_pieces]
    longest[-1] += query_lengths.max()
    others = np.arange(num_others, dtype=np.int32)
    return TreePlan(
        arities=(1, *plan.arities),
        order=np.concatenate([others, num_others + plan.order]).astype(np.int32),
        leaves=plan.leaves,
        bounds=tuple(bounds),
        widths=tuple(int(width) for width in longest),
    )


def plan_shaped(
    arities: tuple[int, ...],
    demonstration_lengths: np.ndarray,
    query_lengths: np.ndarray,
    num_preamble: int,
    units: np.ndarray,
) -> TreePlan | None:
    """Plan a tree of these arities; None where the units do not fit it."""
    if not _fits(arities, units):
        return None
    return _plan(arities, demonstration_lengths, query_lengths, num_preamble, units)


def _shapes(units: np.ndarray) -> Iterator[tuple[int, ...]]:
    """The arities to choose from: twos and a few threes, no more levels than twos alone need."""
    depth = next(depth for depth in count(1) if _fits((2,) * depth, units))
    for num_levels, num_ternary in product(range(1, depth + 1), range(MAX_TERNARY + 1)):
        for ternary in combinations(range(num_levels), num_ternary):
            arities = tuple(3 if level in ternary else 2 for level in range(num_levels))
            if _fits(arities, units):
                yield arities


def _fits(arities: tuple[int, ...], units: np.ndarray) -> bool:
    sizes = np.bincount(units)
    spans = _spans(arities)
    return sizes.max() <= spans[-1] and _round_up(sizes, spans).sum() <= spans[-1]


def _spans(arities: tuple[int, ...]) -> np.ndarray:
    """Leaves below one node of each level, int `[K + 1]`, from the leaves up to the root."""
    return np.cumprod([1, *reversed(arities)])


def _round_up(sizes: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Leaves of the smallest subtree that holds each unit, so that no other is in it."""
    return spans[np.searchsorted(spans, sizes)]


def _plan(
    arities: tuple[int, ...],
    demonstration_lengths: np.ndarray,
    query_lengths: np.ndarray,
    num_preamble: int,
    units: np.ndarray,
    weights: np.ndarray | None = None,  # by which claims are laid out, in place of their lengths
) -> TreePlan:
    weights = demonstration_lengths if weights is None else weights
    claim_of_leaf = _lay_out(arities, weights, units)
    is_taken = claim_of_leaf >= 0
    order = claim_of_leaf[is_taken]
    ends = np.cumsum([num_preamble, *demonstration_lengths[order]])
    ends = np.concatenate([[0], ends])  # [N + 2], where each piece of the text ends and begins
    bounds, widths = [], []
    for level in range(len(arities)):
        bounds.append(_bounds(arities, level, is_taken, units[order]))
        starts = ends[bounds[-1]]
        widths.append(starts[:, 1] - starts[:, 0] + starts[:, 3] - starts[:, 2])
    widths[-1] = np.where(is_taken, widths[-1] + query_lengths[claim_of_leaf], 0)
    leaves = np.empty(len(order), np.int32)
    leaves[order] = np.flatnonzero(is_taken)
    return TreePlan(
        arities=arities,
        order=order.astype(np.int32),
        leaves=leaves,
        bounds=tuple(bounds),
        widths=tuple(int(width.max()) for width in widths),
    )


def _lay_out(arities: tuple[int, ...], lengths: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The claim in each leaf, int `[leaves]`, -1 in those that hold none.

    From the leaves up, the heaviest nodes of a level join the lightest, which keeps all rows of a
    level about as long; units join where a subtree of their size is a node.
    """
    spans = _spans(arities)
    sizes = np.bincount(units)
    taken = _round_up(sizes, spans)
    taken[sizes == 0] = 0
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(sizes)[:-1])
    num_empty = spans[-1] - taken.sum()
    nodes = np.full((num_empty, 1), -1)  # [nodes, leaves below each]
    padded_lengths = np.append(lengths, 0)
    for span, arity in zip(spans, [*reversed(arities), 1], strict=True):
        of_span = np.flatnonzero(taken == span)
        new = np.full((len(of_span), span), -1)
        for row, unit in zip(new, of_span, strict=True):
            row[: sizes[unit]] = members[unit]
        nodes = np.concatenate([new, nodes])
        nodes = _join(nodes, padded_lengths[nodes].sum(axis=1), arity)
    return nodes[0]


def _join(nodes: np.ndarray, totals: np.ndarray, arity: int) -> np.ndarray:
    """Join nodes `[n, span]` of these token totals to parents `[n / arity, arity * span]`."""
    heaviest_first = np.argsort(-totals, kind="stable").reshape(arity, -1)
    parents, sums = nodes[heaviest_first[0]], totals[heaviest_first[0]]
    for block in heaviest_first[1:]:
        lightest_first = np.argsort(sums, kind="stable")
        parents, sums = parents[lightest_first], sums[lightest_first] + totals[block]
        parents = np.concatenate([parents, nodes[block]], axis=1)
    return parents


def _bounds(
    arities: tuple[int, ...], level: int, is_taken: np.ndarray, units: np.ndarray
) -> np.ndarray:
    """The pieces that each node of a level reads, as `TreePlan.bounds` has them.

    Args:
      is_taken: bool `[leaves]`, whether a leaf holds a claim.
      units: int `[N]`, of the claims in leaf order.
    """
    num_nodes = int(np.prod(arities[: level + 1]))
    rank = np.concatenate([[0], np.cumsum(is_taken)])  # claims in the leaves before each
    edges = rank[:: len(is_taken) // num_nodes]
    start, end = edges[:-1], edges[1:]
    parent_start = np.repeat(start[:: arities[level]], arities[level])
    parent_end = np.repeat(end[arities[level] - 1 :: arities[level]], arities[level])
    # A subtree within one unit, where siblings are not read; the claims of a unit are neighbours.
    last = len(units) - 1
    is_apart = units[np.minimum(parent_start, last)] == units[np.maximum(parent_end - 1, 0)]
    bounds = 1 + np.stack(
        [
            parent_start if level else np.full(num_nodes, -1),
            np.where(is_apart, parent_start, start),
            np.where(is_apart, parent_end, end),
            parent_end,
        ],
        axis=1,
    )
    is_empty = start == end
    bounds[is_empty] = 0
    return bounds.astype(np.int32)
