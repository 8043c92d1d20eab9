"""The utility against a loop over claims and pairs, written from its definition."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icmjax.claims import PairRules
from icmjax.scoring import label_log_odds, mutual_predictability, utility


def naive_utility(logp, labels, rules, alpha, objective):
    scores = []
    for claim, label in enumerate(labels):
        if label < 0:
            continue
        own = float(logp[claim, label])
        rest = sum(math.exp(float(p)) for y, p in enumerate(logp[claim]) if y != label)
        scores.append(own if objective == "log_prob" else own - math.log(rest))
    violated = 0
    for (i, j), penalty in zip(rules.pairs, rules.penalties, strict=True):
        if labels[i] >= 0 and labels[j] >= 0:
            violated += float(penalty[labels[i], labels[j]])
    return alpha * (sum(scores) / len(scores) if scores else 0.0) - violated


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    num_options=st.integers(2, 4),
    objective=st.sampled_from(["log_prob", "log_odds"]),
)
@hypothesis.settings(deadline=None, max_examples=40)
def test_utility_is_its_definition(seed, num_options, objective):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 2, 7, num_options)).astype(np.float32) * 3
    logp = np.asarray(jax.nn.log_softmax(logits))
    labels = rng.integers(-1, num_options, size=(3, 2, 7)).astype(np.int8)
    labels[0, 0] = -1
    pairs = np.array([(0, 1), (0, 2), (3, 6), (4, 5)])
    penalties = rng.integers(0, 2, size=(4, num_options, num_options)).astype(np.float32)
    rules = PairRules(pairs, penalties, np.zeros(4, bool))
    device_rules = jax.tree.map(jnp.asarray, rules)

    found = utility(jnp.asarray(logp), jnp.asarray(labels), device_rules, 7.0, objective)

    assert found.shape == (3, 2)
    assert found.dtype == jnp.float32
    for index in np.ndindex(3, 2):
        expected = naive_utility(logp[index], labels[index], rules, 7.0, objective)
        np.testing.assert_allclose(found[index], expected, rtol=2e-5, atol=1e-4)


def test_no_label_no_predictability():
    logp = jnp.log(jnp.full((3, 2), 0.5))
    assert mutual_predictability(logp, jnp.full((3,), -1, jnp.int8)) == 0


def test_binary_log_odds_are_true_against_false():
    logp = jax.nn.log_softmax(jnp.array([[0.3, -2.0], [40.0, -40.0]]))
    odds = label_log_odds(logp)
    np.testing.assert_array_equal(odds[:, 1], logp[:, 1] - logp[:, 0])
    np.testing.assert_array_equal(odds[:, 0], -odds[:, 1])


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="objective must be one of"):
        mutual_predictability(jnp.zeros((2, 2)), jnp.zeros((2,), jnp.int8), "energy")
