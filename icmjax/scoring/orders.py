"""Scores averaged over several orders of the demonstrations, with their standard error."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.scoring.brief import describe_scorer
from icmjax.scoring.sequential import SequentialScorer
from icmjax.scoring.tree import TreeScorer


def standard_error(by_order: jax.Array) -> jax.Array:
    """Standard error of the mean over the first axis: `[K, ...]` → `[...]`, NaN where K is 1."""
    num_orders = by_order.shape[0]
    if num_orders == 1:
        return jnp.full(by_order.shape[1:], jnp.nan, by_order.dtype)
    return by_order.std(axis=0, ddof=1) / math.sqrt(num_orders)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OrderMeanScorer:
    """The mean over K orders of an exact scorer's label log-probs.

    Means of log-probs are not normalised over the options: so U of the mean is the mean of U. The
    orders stay fixed, so that U is a function of the labels alone.
    """

    scorer: SequentialScorer | TreeScorer  # of the first order
    layouts: dict[str, Any]  # fields of `scorer` that differ between orders, with a leading [K]

    def __repr__(self) -> str:
        return describe_scorer(self)

    @property
    def num_claims(self) -> int:
        """N."""
        return self.scorer.num_claims

    @property
    def num_options(self) -> int:
        """Y."""
        return self.scorer.num_options

    @property
    def num_orders(self) -> int:
        """K."""
        return jax.tree.leaves(self.layouts)[0].shape[0]

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Mean label log-probs over the orders, nats: int8 `[..., N]` → float32 `[..., N, Y]`."""
        return self.by_order(labels).mean(axis=0)

    def by_order(self, labels: jax.Array) -> jax.Array:
        """Label log-probs of each order, nats: int8 `[..., N]` → float32 `[K, ..., N, Y]`."""
        return _by_order(self, jnp.asarray(labels))

    def standard_error(self, labels: jax.Array) -> jax.Array:
        """Standard error of the scores over the orders, nats, float32 `[..., N, Y]`.

        That of U is `standard_error(utility(scorer.by_order(labels), ...))`.
        """
        return standard_error(self.by_order(labels))

    def scorers(self) -> list[SequentialScorer | TreeScorer]:
        """The scorer of each order."""

        def of_order(k: int) -> SequentialScorer | TreeScorer:
            return dataclasses.replace(
                self.scorer, **jax.tree.map(lambda each: each[k], self.layouts)
            )

        return [of_order(k) for k in range(self.num_orders)]

    def demonstration_orders(self) -> np.ndarray:
        """What query i reads in each order: int32 `[K, N, N - 1]`, -1 after the last."""
        return np.stack([scorer.demonstration_orders() for scorer in self.scorers()])

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Real tokens that scoring int8 `[..., N]` reads."""
        return sum(scorer.tokens_per_pass(labels) for scorer in self.scorers())


@jax.jit
def _by_order(scorer: OrderMeanScorer, labels: jax.Array) -> jax.Array:
    return jax.lax.map(
        lambda layout: dataclasses.replace(scorer.scorer, **layout)(labels), scorer.layouts
    )
