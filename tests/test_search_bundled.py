"""Tempering on the bundled model at tiny size: the optimum, and the law of its cold rung."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import boltzmann, worst_p_value

import icmjax
from icmjax.persona_world import make_task, make_world


@pytest.mark.slow
def test_tempering_finds_the_optimum_and_samples_the_law():
    """On 6 claims; false alarms about 1e-4."""
    task = make_task(make_world(), "hestonia", 0, num_claims=6)
    scorer = icmjax.make_scorer(icmjax.load_lm("persona-world"), task.claims, "tree")
    labellings = jnp.array(list(itertools.product([0, 1], repeat=6)), jnp.int8)
    rules = jax.tree.map(jnp.asarray, task.claims.rules)
    utilities = np.asarray(icmjax.utility(scorer(labellings), labellings, rules), np.float64)
    algorithm = icmjax.search.with_fields(
        icmjax.ParallelTempering(),
        num_iterations=240,
        num_replicas=4,
        num_chains=2,
        temperature=2.0,
        hot_temperature=10.0,
    )
    result = icmjax.run_search(
        scorer, task.claims.rules, algorithm, jax.random.key(0), progress=False
    )
    assert result.utility == pytest.approx(utilities.max(), abs=1e-3)
    exact = boltzmann(utilities, 2.0) @ np.asarray(labellings)
    samples = result.trace.cold_labels[algorithm.phases.burn_in :]
    assert worst_p_value(samples, exact) > 1e-4
