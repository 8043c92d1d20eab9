"""Chain rule scores are those of one prompt a query, which holds the claims before it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_tree import (
    SEVERAL,
    TOLERANCE,
    full_prompts,
    models,  # noqa: F401  # a fixture
    random_claims,
    random_labels,
)

from icmjax.claims import claims_from_rows
from icmjax.errors import InputError
from icmjax.scoring import ChainRuleScorer, make_chain_rule_scorer, make_scorer


def by_prompts(scorer: ChainRuleScorer, labels: np.ndarray) -> np.ndarray:
    """[K, N, Y]."""
    by_order = []
    for orders in scorer.demonstration_orders():
        read = SimpleNamespace(
            lm=scorer.lm, claims=scorer.claims, demonstration_orders=lambda orders=orders: orders
        )
        by_order.append(full_prompts(read, labels))
    return np.stack(by_order)


@pytest.fixture(scope="module")
def scorer(models):  # noqa: F811
    return make_chain_rule_scorer(
        models["qwen3"], random_claims(6, SEVERAL), jax.random.key(1), num_orders=3, batch_size=2
    )


@pytest.mark.parametrize("is_full", [True, False])
def test_scores_are_those_of_one_prompt_a_query(scorer, is_full):
    labels = np.array([0, 1, 2, 2, 0, 1], np.int8) if is_full else random_labels(3, (6,), 3)
    assert (labels >= 0).all() == is_full
    expected = by_prompts(scorer, labels)
    np.testing.assert_allclose(scorer.by_order(labels), expected, **TOLERANCE)
    np.testing.assert_allclose(scorer(labels), expected.mean(0), **TOLERANCE)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the order matters


@pytest.mark.slow
def test_joint_log_likelihood_is_the_sum_of_own_labels(scorer):
    labels = np.array([[0, 1, 2, 2, 0, 1], [2, 1, 0, 0, 0, 1]], np.int8)
    total, error = scorer.joint_log_likelihood(labels)
    by_order = np.stack([by_prompts(scorer, each) for each in labels], axis=1)
    own = np.take_along_axis(by_order, labels[None, ..., None].astype(int), axis=-1)[..., 0].sum(-1)
    np.testing.assert_allclose(total, own.mean(0), rtol=1e-4)
    np.testing.assert_allclose(error, own.std(0, ddof=1) / np.sqrt(3), rtol=1e-3)
    unlabelled = np.full(6, -1, np.int8)
    assert scorer.joint_log_likelihood(unlabelled)[0] == 0
    alone = make_chain_rule_scorer(
        scorer.lm, jax.tree.map(np.asarray, scorer.claims), jax.random.key(1)
    )
    assert np.isnan(alone.joint_log_likelihood(unlabelled)[1])


def test_orders_are_permutations_and_tokens_are_linear(scorer):
    orders = scorer.demonstration_orders()
    assert orders.shape == (3, 6, 5)
    for order in orders:
        assert sorted((order >= 0).sum(1)) == list(range(6))
    claims = jax.tree.map(np.asarray, scorer.claims)
    labels = np.zeros((2, 6), np.int8)
    text = 2 + claims.demonstration_lengths[:, 0].sum()
    forms = np.maximum(claims.label_form_lengths - 1, 0).sum() * 6
    assert scorer.tokens_per_pass(labels) == 3 * 2 * (text + forms)


@pytest.mark.slow
def test_make_scorer_by_chain_rule(models):  # noqa: F811
    rows = [{"question": "q", "choice": f"Yes {k}", "consistency_id": "0"} for k in range(4)]
    claims = claims_from_rows(rows, rule="none")
    scorer = make_scorer(models["qwen3"], claims, "chain_rule", num_orders=2)
    assert scorer.demonstration_orders().shape == (2, 4, 3)
    labels = np.array([1, 0, 1, 0], np.int8)
    np.testing.assert_allclose(scorer.by_order(labels), by_prompts(scorer, labels), **TOLERANCE)
    with pytest.raises(InputError, match="goes with a method"):
        make_scorer(models["qwen3"], claims, "chain_rule", leave="group")


@pytest.mark.slow
def test_a_label_that_is_read_apart_is_not_in_its_own_query(models):  # noqa: F811
    """The reference's query ends in a space, where a demonstration has its label."""
    rows = [{"question": "q", "choice": f"Yes {k}", "consistency_id": k} for k in range(4)]
    claims = claims_from_rows(rows)
    lm, labels = models["qwen3"], np.array([1, 0, 1, 0], np.int8)
    scorer = make_scorer(lm, claims, "chain_rule", "reference")
    assert not scorer.is_query_inside
    assert make_scorer(lm, claims, "chain_rule", "truth").is_query_inside
    (order,) = np.asarray(scorer.orders)
    by_prompts = make_scorer(lm, claims, "sequential", "reference")
    for place, claim in enumerate(order):
        before = np.full(4, -1, np.int8)
        before[order[:place]] = labels[order[:place]]
        rank = np.argsort(order)
        reordered = make_scorer(lm, claims.select(order), "sequential", "reference")
        expected = np.asarray(reordered(before[order]))[rank[claim]]
        np.testing.assert_allclose(scorer(labels)[claim], expected, atol=2e-5)
    assert by_prompts(labels).shape == (4, 2)
