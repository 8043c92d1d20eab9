"""Transition matrices by enumeration, from the kernels' own probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.scoring import utility
from icmjax.search import assignment_scores, labels_of
from icmjax.search.base import acceptance_probability
from icmjax.search.units import assignment_of

ALPHA = 5.0


class Space:
    """All labellings that the units allow, with U and the scores of every assignment; float64."""

    def __init__(self, units, scorer, rules):
        self.units = units._replace(penalties=units.penalties.astype(jnp.float64))
        counts = np.asarray(units.is_allowed).sum(axis=1)
        self.assignments = np.array(list(itertools.product(*map(range, counts))), np.int32)
        self.index = {tuple(row): i for i, row in enumerate(self.assignments.tolist())}
        scorer = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), scorer)
        labels_fn = jax.vmap(lambda a: labels_of(units, a, scorer.num_claims))
        self.labels = jax.jit(labels_fn)(self.assignments)
        back = jax.jit(jax.vmap(lambda labels: assignment_of(units, labels)))(self.labels)
        np.testing.assert_array_equal(back, self.assignments)
        logp = scorer(self.labels)
        assert logp.dtype == jnp.float64
        self.utility = np.asarray(utility(logp, self.labels, rules, ALPHA))
        self.scores = jax.vmap(lambda x: assignment_scores(self.units, x, ALPHA))(logp)

    def __len__(self):
        return len(self.assignments)

    def law(self, beta):
        weights = np.exp(beta * (self.utility - self.utility.max()))
        return weights / weights.sum()

    def neighbours(self, units):
        """Pairs (x, x') that differ in each of these units and in no other, as index arrays."""
        pairs = []
        for x, row in enumerate(self.assignments):
            for y, other in enumerate(self.assignments):
                if set(np.flatnonzero(row != other)) == set(units):
                    pairs.append((x, y))
        return np.array(pairs).reshape(-1, 2).T


def accepted(proposed, log_ratio):
    """The transition matrix of proposals `[X, X]` under log acceptance ratios `[X, X]`."""
    matrix = proposed * np.asarray(acceptance_probability(jnp.asarray(log_ratio)))
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


def check_invariant(matrix, law):
    assert matrix.min() > -1e-12
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(law @ matrix, law, rtol=0, atol=1e-12)
    assert np.abs(matrix - np.diag(np.diag(matrix))).sum() > 0.01, "nothing moves"
