"""Tree scores are those of one full prompt a query, in the order that the tree reports."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import make_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from icmjax.claims import claims_from_rows
from icmjax.errors import InputError
from icmjax.lm import LanguageModel, load_lm
from icmjax.prompts import TokenizedClaims
from icmjax.scoring import TreeScorer, make_scorer, make_tree_scorer
from icmjax.scoring.tree import _score
from icmjax.scoring.tree_plan import plan_tree

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
SINGLE = [[[3]], [[4]]]
SEVERAL = [[[3], [4, 5, 6]], [[7, 8]], [[9], [10, 11]]]  # three options of one or two forms
VOCAB_SIZE = 256


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    fields = {"llama": {}, "qwen3": {}, "mistral": {"sliding_window": 7}}

    def load(family: str) -> LanguageModel:
        folder = tmp_path_factory.mktemp(family)
        make_checkpoint(folder, family, **fields[family])
        return load_lm(folder)

    return {family: load(family) for family in fields}


def random_claims(
    num_claims: int, forms: list[list[list[int]]] = SINGLE, num_preamble: int = 2, seed: int = 0
) -> TokenizedClaims:
    """Claims of 1 to 6 random tokens, so that every length and every border differs."""
    rng = np.random.default_rng(seed)
    queries = [rng.integers(12, VOCAB_SIZE, rng.integers(1, 7)).tolist() for _ in range(num_claims)]
    separator = [2]
    demonstrations = [[query + option[0] + separator for option in forms] for query in queries]
    num_forms = max(len(option) for option in forms)
    padded_forms = [option + [[]] * (num_forms - len(option)) for option in forms]

    def pad(nested, depth: int) -> tuple[np.ndarray, np.ndarray]:
        flat = nested if depth == 1 else [row for rows in nested for row in rows]
        lengths = np.array([len(row) for row in flat], np.int32)
        tokens = np.zeros((len(flat), lengths.max()), np.int32)
        for padded, row in zip(tokens, flat, strict=True):
            padded[: len(row)] = row
        shape = (len(nested),) if depth == 1 else (len(nested), len(nested[0]))
        return tokens.reshape(*shape, -1), lengths.reshape(shape)

    return TokenizedClaims(
        rng.integers(12, VOCAB_SIZE, num_preamble).astype(np.int32),
        *pad(queries, 1),
        *pad(demonstrations, 2),
        *pad(padded_forms, 2),
    )


def random_labels(seed: int, shape: tuple[int, ...], num_options: int = 2) -> np.ndarray:
    """Labels of which about one in four is missing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_options, shape)
    return np.where(rng.random(shape) < 0.25, -1, labels).astype(np.int8)


@jax.jit
def next_token_log_probs(lm: LanguageModel, tokens: jax.Array) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    decoder = lm.decoder()
    hidden, _ = decoder(tokens, positions, jnp.ones(tokens.shape, bool))
    log_probs = jax.nn.log_softmax(decoder.logits(hidden[:, :-1]))
    return jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]


def full_prompts(scorer: TreeScorer, labels: np.ndarray) -> np.ndarray:
    """[N, Y]: one full prompt a query and label form, in the orders that the scorer reports."""
    claims = jax.tree.map(np.asarray, scorer.claims)
    contexts = []
    for query, order in enumerate(scorer.demonstration_orders()):
        context = claims.preamble.tolist()
        for claim in order[order >= 0]:
            if labels[claim] >= 0:
                length = claims.demonstration_lengths[claim, labels[claim]]
                context += claims.demonstrations[claim, labels[claim], :length].tolist()
        contexts.append(context + claims.queries[query, : claims.query_lengths[query]].tolist())
    num_options, num_forms, _ = claims.label_forms.shape
    longest = max(map(len, contexts)) + claims.label_forms.shape[2]
    width, batch = 128 if longest <= 128 else 512, 16
    log_probs = np.full((len(labels), num_options, num_forms), -np.inf)
    rows = [
        (query, option, form)
        for query, option, form in np.ndindex(log_probs.shape)
        if claims.label_form_lengths[option, form]
    ]
    for start in range(0, len(rows), batch):
        tokens = np.zeros((batch, width), np.int32)
        spans = []
        for row, (query, option, form) in zip(tokens, rows[start : start + batch], strict=False):
            end = len(contexts[query]) + claims.label_form_lengths[option, form]
            label = claims.label_forms[option, form, : claims.label_form_lengths[option, form]]
            row[:end] = [*contexts[query], *label]
            spans.append(slice(len(contexts[query]) - 1, end - 1))
        result = np.asarray(next_token_log_probs(scorer.lm, jnp.asarray(tokens)), np.float64)
        for place, row, span in zip(rows[start : start + batch], result, spans, strict=False):
            log_probs[place] = row[span].sum()
    by_option = np.logaddexp.reduce(log_probs, axis=-1)
    return by_option - np.logaddexp.reduce(by_option, axis=-1, keepdims=True)


def assert_exact(scorer: TreeScorer, labels: np.ndarray) -> None:
    np.testing.assert_allclose(scorer(labels), full_prompts(scorer, labels), **TOLERANCE)


@pytest.mark.parametrize(
    ("num_claims", "family"),
    [
        (2, "llama"),
        (3, "qwen3"),
        (8, "mistral"),
        (13, "qwen3"),
        pytest.param(65, "llama", marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_of_full_prompts(models, num_claims, family):
    scorer = make_tree_scorer(models[family], random_claims(num_claims), np.arange(num_claims))
    assert_exact(scorer, random_labels(num_claims, (num_claims,)))
    orders = scorer.demonstration_orders()
    for query, order in enumerate(orders):
        assert sorted(order) == [claim for claim in range(num_claims) if claim != query]


def test_labels_of_several_tokens_and_three_options(models):
    claims = random_claims(6, SEVERAL)
    scorer = make_tree_scorer(models["qwen3"], claims, np.arange(6))
    labels = np.array([0, 1, 2, -1, 2, 1], np.int8)
    assert_exact(scorer, labels)
    assert not np.allclose(scorer(labels), scorer(labels[::-1]), atol=1e-2)


@pytest.mark.parametrize("units", [[0, 1, 2, 1, 2, 2, 3, 4, 4, 4, 4, 4], [0, 0, 0]])
def test_units_do_not_read_their_own(models, units):
    units = np.array(units)
    scorer = make_tree_scorer(models["llama"], random_claims(len(units)), units)
    for query, order in enumerate(scorer.demonstration_orders()):
        others = np.flatnonzero(units != units[query])
        assert sorted(order[: len(others)]) == list(others)
        assert (order[len(others) :] == -1).all()
    assert_exact(scorer, random_labels(1, units.shape))


@pytest.fixture(scope="module")
def scorer(models):
    return make_tree_scorer(models["llama"], random_claims(5), np.arange(5), batch_size=1)


@pytest.mark.parametrize("batch_size", [1, 4])  # 4: two batches of three
def test_batches_and_leading_axes_change_nothing(scorer, batch_size):
    labels = random_labels(2, (5, 1, 5))
    logp = dataclasses.replace(scorer, batch_size=batch_size)(labels)
    for each, scores in zip(labels[:, 0], logp[:, 0], strict=True):
        np.testing.assert_allclose(scores, full_prompts(scorer, each), **TOLERANCE)


def test_reading_depth_first_changes_nothing(models):
    scorer = make_tree_scorer(models["qwen3"], random_claims(8), np.arange(8), batch_size=2)
    assert len(scorer.arities) == 3
    labels = random_labels(3, (2, 8))
    for each, scores in zip(labels, dataclasses.replace(scorer, num_serial=2)(labels), strict=True):
        np.testing.assert_allclose(scores, full_prompts(scorer, each), **TOLERANCE)


def test_without_a_label_every_claim_is_read_alone(models, scorer):
    assert_exact(scorer, np.full(5, -1, np.int8))
    bare = make_tree_scorer(models["llama"], random_claims(4, num_preamble=0), np.arange(4))
    assert_exact(bare, np.full(4, -1, np.int8))
    assert_exact(bare, np.array([0, -1, -1, -1], np.int8))


def test_labels_are_traced(scorer):
    scorer(random_labels(4, (5,)))
    before = _score._cache_size()
    expected = scorer(random_labels(5, (5,)))
    assert _score._cache_size() == before
    inside = jax.jit(lambda scorer, labels: scorer(labels))(scorer, random_labels(5, (5,)))
    np.testing.assert_allclose(inside, expected, **TOLERANCE)


def test_a_scarce_budget_is_kept_by_reading_depth_first(scorer):
    claims = jax.tree.map(np.asarray, scorer.claims)

    def scorer_within(memory_budget: int) -> TreeScorer:
        return make_tree_scorer(scorer.lm, claims, np.arange(5), memory_budget=memory_budget)

    chosen = [scorer_within(1 << exponent) for exponent in range(17, 26)]
    serial = [each.num_serial for each in chosen]
    batches = [each.batch_size for each in chosen]
    assert serial == sorted(serial, reverse=True)
    assert serial[0] > serial[-1] == 0
    assert batches == sorted(batches)
    assert batches[0] == 1 < batches[-1]
    with pytest.raises(InputError, match="more than the budget"):
        scorer_within(1000)


def test_make_scorer_by_tree(models):
    rows = [
        {"question": "People from Japan", "choice": word, "consistency_id": str(index // 2)}
        for index, word in enumerate(["Yes", "claim", "is True", "Japan", "would answer", "this"])
    ]
    claims = claims_from_rows(rows, rule="none")
    lm = models["llama"]
    labels = np.array([0, 1, -1, 1, 0, 0], np.int8)
    for leave in ("claim", "group"):
        scorer = make_scorer(lm, claims, method="tree", leave=leave)
        assert_exact(scorer, labels)
        by_prompts = make_scorer(lm, claims, "sequential", leave=leave)
        for read, given_order in zip(
            scorer.demonstration_orders(), by_prompts.demonstration_orders(), strict=True
        ):
            assert sorted(read) == sorted(given_order)
    # Of two claims each reads the other, so that there is one order.
    pair = claims.select([1, 3])
    np.testing.assert_allclose(
        make_scorer(lm, pair, method="tree")(labels[:2]),
        make_scorer(lm, pair, "sequential")(labels[:2]),
        **TOLERANCE,
    )


def plan_lengths(rng: np.random.Generator, num_claims: int) -> tuple[np.ndarray, np.ndarray]:
    queries = rng.integers(1, 40, num_claims)
    return queries + rng.integers(1, 5, num_claims), queries


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_every_plan_reads_what_it_may_once(num_claims, num_units, num_preamble, seed):
    rng = np.random.default_rng(seed)
    units = np.unique(rng.integers(0, num_units, num_claims), return_inverse=True)[1]
    demonstrations, queries = plan_lengths(rng, num_claims)
    plan = plan_tree(demonstrations, queries, num_preamble, units)
    assert math.prod(plan.arities) == plan.num_leaves == len(plan.bounds[-1])
    assert len(set(plan.leaves)) == num_claims
    prefixes = {}
    orders = plan.demonstration_orders()
    for query, order in enumerate(orders):
        read = order[order >= 0]
        assert sorted(read) == list(np.flatnonzero(units != units[query]))
        for end in range(1, len(read) + 1):
            prefixes[tuple(read[:end])] = demonstrations[read[end - 1]]
    # What a binary tree reads, the preamble apart, is what a trie of all prompts would hold.
    ends = np.cumsum([0, 0, *demonstrations[plan.order]])
    read = sum(
        (ends[b[:, 1]] - ends[b[:, 0]] + ends[b[:, 3]] - ends[b[:, 2]]).sum() for b in plan.bounds
    )
    assert (
        read == sum(prefixes.values()) if 3 not in plan.arities else read >= sum(prefixes.values())
    )


@pytest.mark.parametrize("num_claims", [16, 64])
def test_tokens_grow_with_the_logarithm(models, num_claims):
    claims = random_claims(num_claims)
    equal = claims._replace(
        query_lengths=np.full(num_claims, 6, np.int32),
        demonstration_lengths=np.full((num_claims, 2), 8, np.int32),
    )
    scorer = make_tree_scorer(models["llama"], equal, np.arange(num_claims))
    labels = np.zeros(num_claims, np.int8)
    expected = 2 * 2 + num_claims * (8 * math.log2(num_claims) + 6)  # the preamble is read twice
    assert scorer.tokens_per_pass(labels) == expected == scorer.plan().num_padded_tokens
    assert scorer.tokens_per_pass(np.stack([labels, labels])) == 2 * expected
    unlabelled = scorer.tokens_per_pass(np.full(num_claims, -1, np.int8))
    assert unlabelled == 2 * 2 + num_claims * 6


@pytest.mark.parametrize(
    ("num_claims", "most"), [(32, 1.15), (64, 1.15), (100, 1.25), (48, 1.15), (1024, 1.15)]
)
def test_little_is_padding(num_claims, most):
    """A length-aware prototype padded 9 %, one of equal counts 18 %."""
    queries = np.random.default_rng(0).integers(20, 41, num_claims)
    plan = plan_tree(queries + 3, queries, 1, np.arange(num_claims))
    ends = np.cumsum([0, 1, *(queries + 3)[plan.order]])
    read = sum(
        (ends[b[:, 1]] - ends[b[:, 0]] + ends[b[:, 3]] - ends[b[:, 2]]).sum() for b in plan.bounds
    )
    assert plan.num_padded_tokens < most * (read + queries.sum())
