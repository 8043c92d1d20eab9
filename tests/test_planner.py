"""Plans keep their budgets, shapes are shared, and any number of claims is scored alike."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tree import (
    SEVERAL,
    SINGLE,
    TOLERANCE,
    full_prompts,
    models,  # noqa: F401  # a fixture
    random_claims,
    random_labels,
)

from icmjax import devices
from icmjax.errors import InputError
from icmjax.scoring import (
    OrderMeanScorer,
    describe,
    make_blockwise_scorer,
    make_chain_rule_scorer,
    make_sequential_scorer,
    make_tree_scorer,
    text_bytes,
)
from icmjax.scoring.blockwise import _encode
from icmjax.scoring.planner import blocks_bytes, in_units
from icmjax.scoring.subset import make_tree_subset_scorer
from icmjax.scoring.tree import _score, make_tree_orders


@pytest.fixture(scope="module")
def lm(models):  # noqa: F811
    return models["llama"]


def shared(lm, claims, **arguments):
    units = np.arange(len(claims.queries))
    return make_tree_scorer(lm, claims, units, is_shared=True, **arguments)


@pytest.mark.slow
def test_other_numbers_of_claims_compile_nothing(lm):
    claims = random_claims(12)
    largest = shared(lm, claims, batch_size=1)
    assert largest.num_claims == 12
    assert largest(random_labels(0, (12,))).shape == (12, 2)
    size = _score._cache_size()
    for num_claims in (11, 10, 9):
        few = jax.tree.map(np.asarray, claims)._replace(
            queries=claims.queries[:num_claims],
            query_lengths=claims.query_lengths[:num_claims],
            demonstrations=claims.demonstrations[:num_claims],
            demonstration_lengths=claims.demonstration_lengths[:num_claims],
        )
        scorer = shared(lm, few, batch_size=1)
        labels = random_labels(num_claims, (num_claims,))
        logp = scorer(labels)
        if num_claims == 9:
            np.testing.assert_allclose(logp, full_prompts(scorer, labels), **TOLERANCE)
    assert _score._cache_size() == size
    # 13 claims take the next bucket.
    assert shared(lm, random_claims(13), batch_size=1).plan().num_leaves == 16


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.integers(2, 65), st.integers(0, 2**16))
def test_any_number_of_claims_is_scored_as_its_prompts(lm, num_claims, seed):
    # Few buckets, so that few programs are compiled.
    claims = random_claims(num_claims, seed=seed)
    scorer = shared(lm, claims, batch_size=1)
    labels = random_labels(seed, (num_claims,))
    np.testing.assert_allclose(scorer(labels), full_prompts(scorer, labels), **TOLERANCE)


def test_groups_share_shapes_too(lm):
    units = np.repeat(np.arange(3), 2)
    scorer = make_tree_scorer(lm, random_claims(6), units, is_shared=True)
    labels = random_labels(1, (2, 6))
    for each, scores in zip(labels, scorer(labels), strict=True):
        np.testing.assert_allclose(scores, full_prompts(scorer, each), **TOLERANCE)
    # A group of five does not fit the half of a tree of six leaves.
    wide = make_tree_scorer(lm, random_claims(6), np.array([0, 0, 0, 0, 0, 1]), is_shared=True)
    assert wide.plan().num_leaves > 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exponent", "forms"), [(20, SINGLE), (21, SINGLE), (24, SINGLE), (22, SEVERAL)]
)
def test_compiled_passes_keep_their_budget(lm, exponent, forms):
    claims, budget = random_claims(24, forms), 1 << exponent
    scorer = make_tree_scorer(lm, claims, np.arange(24), memory_budget=budget)
    labels = random_labels(2, (scorer.batch_size, 24))
    program = jax.jit(lambda scorer, labels: scorer(labels)).lower(scorer, labels).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 1.1 * budget
    assert describe(scorer, budget).peak_bytes <= budget


@pytest.mark.slow
@pytest.mark.parametrize("method", ["blockwise", "chain_rule"])
def test_queries_read_together_are_as_many_as_fit(lm, method):
    claims, budget = random_claims(24, SEVERAL), 1 << 24
    full = np.abs(random_labels(3, (24,)))
    # By the chain rule claims are read apart where some are unlabelled.
    labellings = full, np.where(np.arange(24) % 5 == 0, -1, full)

    def make(memory_budget):
        if method == "blockwise":
            return make_blockwise_scorer(lm, claims, np.arange(24), memory_budget=memory_budget)
        return make_chain_rule_scorer(lm, claims, jax.random.key(0), memory_budget=memory_budget)

    def num_together(scorer):
        return scorer.batch_size if method == "blockwise" else scorer.query_batch_size

    def needed(num_queries):
        if method == "blockwise":
            return blocks_bytes(lm, claims, num_queries)[1]
        return text_bytes(lm, claims, make(budget).width, 1, num_queries)[1]

    expected = [make(budget)(labels) for labels in labellings]
    for num_queries in (20, 5):
        scorer = make(needed(num_queries))
        # A text of its own may take more than a few of its queries.
        assert num_queries <= num_together(scorer) < 24
        assert needed(num_together(scorer) + 1) > needed(num_queries)
        assert describe(scorer).peak_bytes <= needed(num_queries)
        program = jax.jit(lambda scorer, labels: scorer(labels)).lower(scorer, full).compile()
        taken = program.memory_analysis().temp_size_in_bytes
        if method == "blockwise":
            taken += sum(each.nbytes for each in scorer.blocks)
        assert taken <= 1.1 * needed(num_queries)
        for labels, logp in zip(labellings, expected, strict=True):
            np.testing.assert_allclose(program(scorer, labels), logp, **TOLERANCE)
    assert num_together(make(budget)) == 24


def test_what_does_not_fit_the_budget_is_refused(lm):
    claims, units = random_claims(8), np.arange(8)

    def chain_rule(lm, claims, units, **arguments):
        return make_chain_rule_scorer(lm, claims, jax.random.key(0), **arguments)

    for make in (make_tree_scorer, make_sequential_scorer, make_blockwise_scorer, chain_rule):
        with pytest.raises(InputError, match="fewer or shorter claims"):
            make(lm, claims, units, batch_size=8, memory_budget=1000)
        least = describe(make(lm, claims, units, batch_size=1)).peak_bytes
        make(lm, claims, units, batch_size=1, memory_budget=least)
        with pytest.raises(InputError, match="leave `batch_size` out"):
            make(lm, claims, units, batch_size=8, memory_budget=least)


def test_blocks_are_encoded_within_the_plan_of_their_pass(lm):
    claims = random_claims(24, SEVERAL)
    for batch_size in (5, 1000):
        scorer = make_blockwise_scorer(lm, claims, np.arange(24), batch_size)
        assert scorer.batch_size == min(batch_size, 24)
        program = _encode.lower(lm, scorer.claims, scorer.batch_size).compile()
        sizes = program.memory_analysis()
        taken = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
        assert taken <= describe(scorer).peak_bytes


@pytest.mark.parametrize("forms", [SINGLE, SEVERAL])
def test_a_plan_says_in_one_line_what_a_pass_takes(lm, forms):
    claims, units = random_claims(8, forms), np.arange(8)
    longest = claims.demonstration_lengths.argmax(axis=1).astype(np.int8)
    scorers = [
        make_tree_scorer(lm, claims, units),
        make_sequential_scorer(lm, claims, units),
        make_blockwise_scorer(lm, claims, units),
        make_chain_rule_scorer(lm, claims, jax.random.key(0), num_orders=2),
    ]
    for scorer in scorers:
        plan = describe(scorer)
        assert plan.num_tokens == scorer.tokens_per_pass(longest) <= plan.num_padded_tokens
        assert 0 < plan.cache_bytes < plan.peak_bytes
        assert str(plan).startswith(f"{plan.method}: 8 claims, {plan.num_tokens} tokens a pass")
        assert "\n" not in str(plan)
    tree = describe(scorers[0])
    # Long forms are read by a call of their own.
    assert tree.num_passes == (3 if forms is SINGLE else 4)
    serial = describe(dataclasses.replace(scorers[0], num_serial=1))
    assert serial.num_passes == 2 * tree.num_passes
    orders = OrderMeanScorer(*make_tree_orders(lm, claims, units, jax.random.key(0), 4))
    assert describe(orders).num_passes == 4 * describe(orders.scorer).num_passes
    subset = describe(make_tree_subset_scorer(lm, claims, 2))
    assert subset.num_tokens < tree.num_tokens
    assert [in_units(2048), in_units(3 << 20), in_units(5 << 40)] == ["2 KiB", "3 MiB", "5 TiB"]


def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, tmp_path):
    option = devices.OPTION
    before = getattr(jax.config, option)
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr("sys.platform", "linux")
        monkeypatch.delenv(devices.VARIABLE, raising=False)
        devices.use_compilation_cache()
        assert getattr(jax.config, option) == before  # one that is set stays
        jax.config.update(option, None)
        monkeypatch.setenv(devices.VARIABLE, "")
        devices.use_compilation_cache()
        assert getattr(jax.config, option) is None
        monkeypatch.delenv(devices.VARIABLE)
        devices.use_compilation_cache()
        assert getattr(jax.config, option) == str(tmp_path / "icmjax" / "compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.jit(lambda x: x * 3 + 1)(np.float32(2)).block_until_ready()
        assert list((tmp_path / "icmjax" / "compiled").iterdir())
    finally:
        jax.config.update(option, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        devices.compilation_cache.reset_cache()
