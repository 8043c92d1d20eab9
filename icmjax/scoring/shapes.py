"""Shapes that trees share, so that another number of claims compiles nothing.

A tree of N claims takes the shape of a bucket: the next number of leaves of the form 2^k or
3 · 2^k, rows of claims filled up to it with ones that hold nothing, and widths a little larger than
needed.
Shapes that were given out in this process are given out again where they fit without much more
padding than the claims' own: so another N of the same bucket, or other claims of like lengths, run
the program that is compiled already.
"""

from collections.abc import Hashable

import jax
import numpy as np

from icmjax.lm import DecoderConfig
from icmjax.prompts import TokenizedClaims
from icmjax.scoring.contexts import longest_lengths
from icmjax.scoring.tree_plan import TreePlan, plan_shaped

SLACK = 16  # widths are rounded up by less than one part in this
MAX_WASTE = 1.6  # tokens of shapes given out again, over those of the claims' own shapes
Shape = tuple[int, int, tuple[int, ...]]  # tokens of a query, of a demonstration; widths

_given_out: dict[Hashable, list[Shape]] = {}


def shared_shapes(
    config: DecoderConfig, claims: TokenizedClaims, units: np.ndarray
) -> tuple[TokenizedClaims, TreePlan, int]:
    """Claims and their tree in the shapes of a bucket.

    Args:
      claims: of N claims, numpy arrays.
      units: int `[N]`, from 0 on; claims of one unit do not read each other.

    Returns:
      the claims with M rows, the plan of the N claims, and M - N.
    """
    plans = (
        (arities, plan_shaped(arities, *longest_lengths(claims), len(claims.preamble), units))
        for arities in _bucket_arities(len(units))
    )
    arities, plan = next((arities, plan) for arities, plan in plans if plan is not None)
    key = (config, len(claims.preamble), claims.label_forms.shape, arities)
    text = (claims.queries.shape[1], claims.demonstrations.shape[2])
    rows = np.cumprod(arities)
    known = _given_out.setdefault(key, [])
    fitting = [
        shape
        for shape in known
        if np.all(np.array([*shape[:2], *shape[2]]) >= [*text, *plan.widths])
        and rows @ shape[2] <= MAX_WASTE * plan.num_padded_tokens
    ]
    if fitting:
        shape = min(fitting, key=lambda shape: rows @ shape[2])
    else:
        shape = (round_up(text[0]), round_up(text[1]), tuple(map(round_up, plan.widths)))
        known.append(shape)
    num_spare = int(rows[-1]) - len(units)
    return _fill_up(claims, num_spare, *shape[:2]), plan._replace(widths=shape[2]), num_spare


def _bucket_arities(num_claims: int) -> list[tuple[int, ...]]:
    """The shapes of the buckets that hold so many claims, from the smallest on."""
    depths = range(1, num_claims.bit_length() + 4)
    shapes = [(*top, *(2,) * depth) for depth in depths for top in ((), (3,))]
    return sorted((shape for shape in shapes if np.prod(shape) >= num_claims), key=np.prod)


def round_up(width: int, slack: int = SLACK) -> int:
    """The next of few widths, tokens: larger by less than one part in `slack`, a power of two."""
    step = max(1, 1 << max(0, int(width).bit_length() - slack.bit_length()))
    return -(-int(width) // step) * step


def _fill_up(
    claims: TokenizedClaims, num_spare: int, query_width: int, width: int
) -> TokenizedClaims:
    def pad(array: np.ndarray | jax.Array, last: int | None = None) -> np.ndarray | jax.Array:
        amounts = [(0, num_spare)] + [(0, 0)] * (array.ndim - 1)
        if last is not None:
            amounts[-1] = (0, last - array.shape[-1])
        return np.pad(array, amounts)

    return claims._replace(
        queries=pad(claims.queries, query_width),
        query_lengths=pad(claims.query_lengths),
        demonstrations=pad(claims.demonstrations, width),
        demonstration_lengths=pad(claims.demonstration_lengths),
    )
