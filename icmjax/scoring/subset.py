"""Scores of S of the claims alone, with all others in their context, at a lower cost.

On the tree the claims that are not asked about are read once, and a tree over the S queries stands
on them: (N - S) + S log2 S + S encodings. Which claims they are is traced, so that a search may ask
about any it likes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.lm import LanguageModel
from icmjax.prompts import TokenizedClaims
from icmjax.scoring.brief import describe_scorer
from icmjax.scoring.contexts import longest_lengths
from icmjax.scoring.planner import MEMORY_BUDGET
from icmjax.scoring.tree import TreeScorer, scorer_of_plan
from icmjax.scoring.tree_plan import plan_subset


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TreeSubsetScorer:
    """Label log-probs of S claims, each given all the other labelled claims.

    A pytree; make one by `icmjax.make_subset_scorer`.
    """

    tree: TreeScorer  # of the last S claims

    def __repr__(self) -> str:
        return describe_scorer(self)

    @property
    def num_claims(self) -> int:
        """N."""
        return self.tree.num_claims

    @property
    def num_options(self) -> int:
        """Y."""
        return self.tree.num_options

    @property
    def num_queries(self) -> int:
        """S."""
        return self.tree.queries.shape[0]

    def __call__(self, labels: jax.Array, queries: jax.Array) -> jax.Array:
        """Label log-probs in nats, float32 `[..., S, Y]`.

        Args:
          labels: int8 `[..., N]`.
          queries: int32 `[S]`, claims that differ.
        """
        return self.for_queries(queries)(labels)

    def for_queries(self, queries: jax.Array) -> TreeScorer:
        """The tree over these claims, int32 `[S]`, which says its orders and tokens."""
        queries = jnp.asarray(queries, jnp.int32)
        assert queries.shape == (self.num_queries,), f"{queries.shape}, not {self.num_queries}"
        num_others = self.num_claims - self.num_queries
        is_query = jnp.zeros(self.num_claims, bool).at[queries].set(True)
        others = jnp.argsort(is_query, stable=True)[:num_others].astype(jnp.int32)
        ranked = queries[self.tree.order[num_others:] - num_others]
        order = jnp.concatenate([others, ranked])
        return dataclasses.replace(self.tree, order=order, queries=queries)


def make_tree_subset_scorer(
    lm: LanguageModel,
    claims: TokenizedClaims,
    num_queries: int,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> TreeSubsetScorer:
    """A scorer of any S of the claims; arguments as of `make_tree_scorer`.

    Raises:
      InputError: a pass does not fit the budget.
    """
    plan = plan_subset(*longest_lengths(claims), len(claims.preamble), num_queries)
    tree = scorer_of_plan(lm, claims, plan, batch_size, memory_budget)
    first = len(claims.queries) - num_queries
    last = np.arange(first, len(claims.queries), dtype=np.int32)
    return TreeSubsetScorer(dataclasses.replace(tree, queries=jnp.asarray(last)))
