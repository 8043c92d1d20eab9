"""Bounded contexts, several orders and subsets of queries score as their prompts do."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import make_checkpoint
from test_tree import (
    TOLERANCE,
    full_prompts,
    models,  # noqa: F401  # a fixture
    random_claims,
    random_labels,
)

from icmjax.claims import claims_from_rows
from icmjax.errors import InputError, PromptError
from icmjax.lm import load_lm
from icmjax.scoring import (
    OrderMeanScorer,
    make_scorer,
    make_sequential_scorer,
    make_subset_scorer,
    mutual_predictability,
    standard_error,
)
from icmjax.scoring.subset import make_tree_subset_scorer
from icmjax.scoring.tree import make_tree_orders


def by_prompts(scorer, orders: np.ndarray, labels: np.ndarray) -> np.ndarray:
    read = SimpleNamespace(
        lm=scorer.lm, claims=scorer.claims, demonstration_orders=lambda: np.asarray(orders)
    )
    return full_prompts(read, labels)


@pytest.fixture(scope="module")
def bounded(models):  # noqa: F811
    return make_sequential_scorer(
        models["llama"],
        random_claims(7),
        np.array([0, 0, 1, 2, 3, 4, 4]),
        leave="group",
        batch_size=7,
        context_size=3,
        rng_key=jax.random.key(0),
    )


def test_a_query_reads_so_many_labelled_others(bounded):
    labels = np.array([0, 1, -1, 1, 0, 1, 1], np.int8)
    orders = bounded.demonstration_orders(labels)
    for query, order in enumerate(orders):
        read = order[order >= 0]
        assert len(read) == 3
        assert (labels[read] >= 0).all()
        assert not set(read) & set(np.flatnonzero(bounded.groups == bounded.groups[query]))
    np.testing.assert_allclose(bounded(labels), by_prompts(bounded, orders, labels), **TOLERANCE)
    lengths = np.asarray(bounded.claims.demonstration_lengths)[np.arange(7), np.maximum(labels, 0)]
    expected = 2 * 7 + lengths[orders[:, :3]].sum() + np.sum(bounded.claims.query_lengths)
    assert bounded.tokens_per_pass(labels) == expected
    few = np.array([0, -1, -1, 1, -1, -1, -1], np.int8)
    assert sorted(bounded.demonstration_orders(few)[4][:3]) == [-1, 0, 3]


def test_the_subset_is_drawn_by_the_key(bounded):
    labels = random_labels(1, (7,))
    other = make_sequential_scorer(
        bounded.lm,
        jax.tree.map(np.asarray, bounded.claims),
        np.asarray(bounded.groups),
        leave="group",
        batch_size=7,
        context_size=3,
        rng_key=jax.random.key(1),
    )
    assert (other.demonstration_orders() != bounded.demonstration_orders()).any()
    flipped = np.where(labels >= 0, 1 - labels, -1).astype(np.int8)
    # It depends on which claims are labelled, and not on how.
    np.testing.assert_array_equal(
        bounded.demonstration_orders(labels), bounded.demonstration_orders(flipped)
    )


def test_claims_may_exceed_the_context_window(tmp_path):
    make_checkpoint(tmp_path, "llama", max_position_embeddings=128)
    lm = load_lm(tmp_path)
    rows = [{"question": "q", "choice": f"Yes {k}", "consistency_id": k} for k in range(24)]
    claims = claims_from_rows(rows)
    with pytest.raises(PromptError, match="more than the 128"):
        make_scorer(lm, claims, "sequential")
    scorer = make_scorer(lm, claims, "sequential", context_size=1)
    assert scorer.widths[-1] <= 128
    assert (scorer.demonstration_orders()[:, 1] == -1).all()


@pytest.fixture(scope="module")
def mean_of_trees(models):  # noqa: F811
    claims = random_claims(5)
    units = np.arange(5)
    return OrderMeanScorer(
        *make_tree_orders(models["llama"], claims, units, jax.random.key(0), 3, batch_size=1)
    )


def test_scores_are_the_mean_over_random_trees(mean_of_trees):
    scorer, labels = mean_of_trees, random_labels(2, (5,))
    orders = scorer.demonstration_orders()
    assert orders.shape == (3, 5, 4)
    assert len({each.tobytes() for each in orders}) == 3
    by_order = np.stack([by_prompts(scorer.scorer, each, labels) for each in orders])
    np.testing.assert_allclose(scorer.by_order(labels), by_order, **TOLERANCE)
    np.testing.assert_allclose(scorer(labels), by_order.mean(0), **TOLERANCE)
    error = by_order.std(0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(scorer.standard_error(labels), error, rtol=1e-3, atol=1e-5)
    known = jnp.asarray(np.abs(labels))
    predictability = mutual_predictability(scorer.by_order(known), known[None])
    assert standard_error(predictability) > 0
    assert scorer.tokens_per_pass(labels) == sum(
        each.tokens_per_pass(labels) for each in scorer.scorers()
    )


@pytest.mark.slow
def test_scores_are_the_mean_over_random_sequences(models):  # noqa: F811
    rows = [{"question": "q", "choice": word, "consistency_id": word} for word in "abcd"]
    scorer = make_scorer(
        models["llama"], claims_from_rows(rows), "sequential", num_orders=2, batch_size=4
    )
    labels = np.array([0, 1, 1, -1], np.int8)
    orders = scorer.demonstration_orders()
    assert (orders[0] != orders[1]).any()
    by_order = np.stack([by_prompts(scorer.scorer, each, labels) for each in orders])
    np.testing.assert_allclose(scorer.by_order(labels), by_order, **TOLERANCE)
    # One order has no spread.
    assert np.isnan(standard_error(jnp.zeros((1, 2)))).all()


def test_a_subset_is_scored_with_all_others_in_context(models):  # noqa: F811
    claims = random_claims(9)
    scorer = make_tree_subset_scorer(models["llama"], claims, 3, batch_size=2)
    labels = random_labels(3, (2, 9))
    score = jax.jit(lambda labels, queries: scorer(labels, queries))
    for queries in ([7, 0, 4], [1, 2, 8]):
        tree = scorer.for_queries(np.array(queries))
        orders = np.full((9, 8), -1)
        orders[queries] = tree.demonstration_orders()
        for query in queries:
            assert sorted(orders[query]) == [claim for claim in range(9) if claim != query]
        logp = score(labels, np.array(queries))
        assert logp.shape == (2, 3, 2)
        for each, scores in zip(labels, logp, strict=True):
            expected = by_prompts(tree, orders, each)[queries]
            np.testing.assert_allclose(scores, expected, **TOLERANCE)
    assert score._cache_size() == 1  # which claims they are is traced


def test_a_subset_costs_its_own(models):  # noqa: F811
    num_claims, num_queries, length = 64, 8, 8
    claims = random_claims(num_claims)
    equal = claims._replace(
        query_lengths=np.full(num_claims, length - 2, np.int32),
        demonstration_lengths=np.full((num_claims, 2), length, np.int32),
    )
    scorer = make_tree_subset_scorer(models["llama"], equal, num_queries)
    tokens = scorer.for_queries(np.arange(num_queries) * 3).tokens_per_pass(
        np.zeros(num_claims, np.int8)
    )
    demonstrations = (num_claims - num_queries) + num_queries * 3  # S log2 S
    assert tokens == 2 + length * demonstrations + num_queries * (length - 2)
    assert scorer.tree.plan().num_padded_tokens == tokens


def test_a_sequential_subset(bounded):
    labels, queries = random_labels(4, (2, 7)), np.array([5, 1], np.int32)
    scores = bounded.score_queries(labels, queries)
    np.testing.assert_allclose(scores, bounded(labels)[:, queries], **TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "tree", "context_size": 2}, "goes with a method"),
        ({"method": "blockwise", "num_orders": 2}, "goes with a method"),
        ({"attention_temperature": 0.5}, "goes with a method"),
        ({"context_size": 0}, "has a claim"),
        ({"num_orders": 0}, "one order or more"),
    ],
)
def test_options_go_with_their_methods(models, arguments, message):  # noqa: F811
    rows = [{"question": "q", "choice": word, "consistency_id": word} for word in "abcd"]
    with pytest.raises(InputError, match=message):
        make_scorer(models["llama"], claims_from_rows(rows), **arguments)


@pytest.mark.parametrize(("num", "message"), [(0, "A subset has a claim"), (4, "is smaller than")])
def test_a_subset_is_smaller_than_its_set(models, num, message):  # noqa: F811
    rows = [{"question": "q", "choice": word, "consistency_id": word} for word in "abcd"]
    with pytest.raises(InputError, match=message):
        make_subset_scorer(models["llama"], claims_from_rows(rows), num)
