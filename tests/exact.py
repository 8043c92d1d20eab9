"""Exact laws of enumerable tasks, and tests of samples against them."""

import jax.numpy as jnp
import numpy as np
from scipy import stats
from scorers import all_labellings

from icmjax.claims import violated_pairs
from icmjax.scoring import utility
from icmjax.search.diagnostics import effective_sample_size


def enumerated(scorer, rules, alpha=50.0, clamped=None):
    """All labellings that keep the hard rules and the clamped labels, and their U."""
    labellings = all_labellings(scorer.num_claims, scorer.bias.shape[1])
    is_kept = ~(np.asarray(violated_pairs(jnp.asarray(labellings), rules)) & rules.is_hard).any(-1)
    if clamped is not None:
        is_kept &= ((clamped < 0) | (labellings == clamped)).all(axis=1)
    labellings = labellings[is_kept]
    x = jnp.asarray(labellings)
    return labellings, np.asarray(utility(scorer(x), x, rules, alpha), np.float64)


def boltzmann(utilities, temperature):
    weights = np.exp((utilities - utilities.max()) / temperature)
    return weights / weights.sum()


def true_shares(scorer, rules, temperature, clamped=None):
    """Exact probability of the label 1 of every claim: `[N]`."""
    labellings, utilities = enumerated(scorer, rules, clamped=clamped)
    return boltzmann(utilities, temperature) @ (labellings == 1)


def worst_p_value(samples, expected):
    """The smallest p-value of z-tests of every claim's share of label 1, times their number.

    The standard error is that of as many independent draws as the samples are worth. A false alarm
    below p has a probability of about p.

    Args:
      samples: labels `[T, C, N]`.
      expected: `[N]`.
    """
    p_values = []
    for claim, share in enumerate(expected):
        values = (samples[..., claim] == 1).T.astype(float)
        if share < 1e-4 or share > 1 - 1e-4:
            p_values.append(float(abs(values.mean() - share) < 0.01))
            continue
        if values.min() == values.max():  # no sample is worth more draws than it has
            chance = share if values.min() else 1 - share
            p_values.append(float(chance**values.size))
            continue
        num_draws = effective_sample_size(values)
        error = np.sqrt(share * (1 - share) / num_draws)
        p_values.append(2 * stats.norm.sf(abs(values.mean() - share) / error))
    return min(1.0, min(p_values) * len(expected))
