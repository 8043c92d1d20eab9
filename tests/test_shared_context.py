"""Contexts that all queries share: against one prompt a query, for every kind of scorer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scorers import table_scorer

from icmjax import load_lm, load_task, make_scorer
from icmjax.errors import InputError
from icmjax.scoring import score_in_context, tokens_in_context

NUM_CLAIMS = 10


@pytest.fixture(scope="module")
def lm():
    return load_lm("persona-world")


@pytest.fixture(scope="module")
def claims():
    return load_task("persona-world:ilvania:0").claims.select(range(NUM_CLAIMS))


def contexts_of(claims):
    """Nothing shown, one claim, and three."""
    labels = np.full((3, NUM_CLAIMS), -1, np.int8)
    labels[1, 4] = 1
    labels[2, [0, 3, 9]] = 1, 0, 0
    return jnp.asarray(labels)


@pytest.mark.parametrize("method", ["tree", "sequential", "blockwise", "chain_rule"])
def test_claims_that_are_not_shown_are_read_as_by_one_prompt_each(lm, claims, method):
    labels = contexts_of(claims)
    expected = np.asarray(make_scorer(lm, claims, "sequential")(labels))
    found = np.asarray(score_in_context(make_scorer(lm, claims, method), labels, 3))
    is_shown = np.asarray(labels) >= 0
    np.testing.assert_allclose(found[~is_shown], expected[~is_shown], atol=2e-5)
    np.testing.assert_allclose(found[is_shown], -np.log(2), atol=1e-6)


def test_without_a_preamble_nothing_is_before_a_query(lm, claims):
    claims = dataclasses.replace(claims, preamble="")
    labels = contexts_of(claims)
    expected = np.asarray(make_scorer(lm, claims, "sequential")(labels))
    found = np.asarray(score_in_context(make_scorer(lm, claims), labels, 3))
    is_shown = np.asarray(labels) >= 0
    np.testing.assert_allclose(found[~is_shown], expected[~is_shown], atol=2e-5)


def test_places_that_are_left_over_and_orders_change_nothing(lm, claims):
    labels = contexts_of(claims)
    scorer = make_scorer(lm, claims)
    few, many = (np.asarray(score_in_context(scorer, labels, places)) for places in (3, 8))
    np.testing.assert_allclose(few, many, atol=2e-5)
    ordered = make_scorer(lm, claims, num_orders=2)
    np.testing.assert_allclose(few, np.asarray(score_in_context(ordered, labels, 3)), atol=2e-5)


def test_tokens_are_those_of_the_context_and_of_all_queries(lm, claims):
    sequential, tree = (make_scorer(lm, claims, method) for method in ("sequential", "tree"))
    tokens = sequential.claims
    for labels in np.asarray(contexts_of(claims)):
        shown = [
            int(tokens.demonstration_lengths[claim, label])
            for claim, label in enumerate(labels)
            if label >= 0
        ]
        expected = len(tokens.preamble) + sum(shown) + int(np.sum(tokens.query_lengths))
        assert tokens_in_context(sequential, labels) == expected
        assert tokens_in_context(tree, labels) == expected
    assert tokens_in_context(table_scorer(0, 4), np.array([1, -1, -1, 0])) == 32


def test_a_scorer_of_no_tokens_makes_a_pass(claims):
    scorer = table_scorer(0, 6)
    labels = jnp.asarray(np.array([1, -1, -1, 0, -1, -1], np.int8))
    found = score_in_context(scorer, labels, 2)
    np.testing.assert_allclose(found[1], scorer(labels)[1])
    np.testing.assert_allclose(found[0], -np.log(2), atol=1e-6)


def test_a_context_keeps_to_the_memory_budget(lm, claims):
    scorer = make_scorer(lm, claims, "sequential", memory_budget=2**22)
    assert scorer.memory_budget == 2**22
    labels = contexts_of(claims)
    whole = np.asarray(score_in_context(make_scorer(lm, claims, "sequential"), labels, 3))
    np.testing.assert_allclose(np.asarray(score_in_context(scorer, labels, 3)), whole, atol=2e-5)
    tight = dataclasses.replace(scorer, memory_budget=1000)
    with pytest.raises(InputError, match="memory"):
        score_in_context(tight, labels, 3)


def test_a_scorer_of_bounded_contexts_keeps_to_its_bound(lm, claims):
    scorer = make_scorer(lm, claims, "sequential", context_size=2)
    labels = contexts_of(claims)
    is_shown = np.asarray(labels) >= 0
    found, own = np.asarray(score_in_context(scorer, labels, 3)), np.asarray(scorer(labels))
    np.testing.assert_allclose(found[~is_shown], own[~is_shown], atol=1e-6)
    row = np.asarray(labels)[2]
    assert tokens_in_context(scorer, row) == scorer.tokens_per_pass(row)
