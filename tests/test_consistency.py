"""Pair rules: their tables, their normal form, and counts of violations against a double loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icmjax.claims import PairRules, consistent_options, count_violations, violated_pairs
from icmjax.claims.consistency import (
    RULES,
    make_rules,
    no_rules,
    penalty_table,
    rules_from_groups,
    select_rules,
)

UNLABELLED, FALSE, TRUE = -1, 0, 1


@pytest.mark.parametrize(
    ("rule", "is_same_answer", "violated"),
    [
        ("exactly_one_true", False, {(FALSE, FALSE), (TRUE, TRUE)}),
        ("not_both_true", False, {(TRUE, TRUE)}),
        ("asymmetric_preference", False, {(FALSE, FALSE), (TRUE, TRUE)}),
        ("same_answer_same_label", True, {(FALSE, TRUE), (TRUE, FALSE)}),
        ("same_answer_same_label", False, {(TRUE, TRUE)}),
    ],
)
def test_binary_rules_forbid_what_their_name_says(rule, is_same_answer, violated):
    table = penalty_table(rule, 2, is_same_answer)
    assert set(zip(*np.nonzero(table), strict=True)) == violated
    assert set(np.unique(table)) <= {0.0, 1.0}


def test_graded_preferences_are_mirrored():
    table = penalty_table("asymmetric_preference", 5)
    allowed = {(first, 4 - first) for first in range(5)}  # "much better" against "much worse"
    assert set(zip(*np.nonzero(table == 0), strict=True)) == allowed


@pytest.mark.parametrize(("rule", "num_allowed"), [("exactly_one_true", 4), ("not_both_true", 8)])
def test_with_three_options_only_the_last_one_is_true(rule, num_allowed):
    is_true = np.array([False, False, True])
    num_true = is_true[:, None].astype(int) + is_true
    is_allowed = num_true == 1 if rule == "exactly_one_true" else num_true <= 1
    np.testing.assert_array_equal(penalty_table(rule, 3) == 0, is_allowed)
    assert is_allowed.sum() == num_allowed


OF_PAIRS = [rule for rule in RULES if rule not in ("none", "one_answer")]


@pytest.mark.parametrize("num_options", [2, 3, 4])
@pytest.mark.parametrize("rule", OF_PAIRS)
@pytest.mark.parametrize("is_same_answer", [False, True])
def test_rules_do_not_depend_on_which_claim_comes_first(rule, num_options, is_same_answer):
    table = penalty_table(rule, num_options, is_same_answer)
    np.testing.assert_array_equal(table, table.T)
    assert (table == 0).any(), "a rule that nothing satisfies"


@pytest.mark.parametrize("num_options", [2, 3])
def test_one_answer_is_the_only_true_one_of_two_and_of_more_at_most_one(num_options):
    rules = rules_from_groups("one_answer", [[0, 1], [2, 3, 4], [5]], num_options, is_hard=True)
    assert rules.pairs.tolist() == [[0, 1], [2, 3], [2, 4], [3, 4]]
    of_two, of_more = (
        penalty_table(rule, num_options) for rule in ("exactly_one_true", "not_both_true")
    )
    np.testing.assert_array_equal(rules.penalties, [of_two, of_more, of_more, of_more])
    assert rules.is_hard.all()
    assert len(rules_from_groups("one_answer", [[0]], num_options).pairs) == 0


@pytest.mark.parametrize("rule", ["none", "exactly_one", "one_answer"])
def test_there_is_no_table_without_a_rule(rule):
    with pytest.raises(ValueError, match="rule must be one of"):
        penalty_table(rule)


@st.composite
def rules_and_labels(draw):
    num_claims = 5  # with few sizes, few programs are compiled
    num_options = draw(st.integers(2, 3))
    all_pairs = list(itertools.combinations(range(num_claims), 2))
    pairs = draw(st.permutations(all_pairs))[: draw(st.sampled_from([0, 1, 4, len(all_pairs)]))]
    turned = [pair[::-1] if draw(st.booleans()) else pair for pair in pairs]
    cells = st.lists(st.sampled_from([0, 1]), min_size=num_options**2, max_size=num_options**2)
    tables = [np.reshape(draw(cells), (num_options, num_options)) for _ in pairs]
    is_hard = [draw(st.booleans()) for _ in pairs]
    label = st.integers(-1, num_options - 1)
    labels = draw(st.lists(label, min_size=num_claims, max_size=num_claims))
    return turned, tables, is_hard, num_options, labels


@settings(max_examples=40, deadline=None)
@given(rules_and_labels())
def test_count_is_that_of_a_double_loop(drawn):
    pairs, tables, is_hard, num_options, labels = drawn
    tables_array = np.reshape(np.array(tables), (-1, num_options, num_options))
    rules = make_rules(pairs, tables_array, np.array(is_hard, bool), num_options)

    by_pair = dict(zip(pairs, tables, strict=True))
    count, violated = 0, set()
    for i in range(len(labels)):
        for j in range(len(labels)):
            if (i, j) in by_pair and labels[i] >= 0 and labels[j] >= 0:
                count += by_pair[i, j][labels[i]][labels[j]]
                if by_pair[i, j][labels[i]][labels[j]]:
                    violated.add((min(i, j), max(i, j)))

    array = jnp.asarray(labels, jnp.int8)
    is_violated = np.asarray(violated_pairs(array, rules))
    assert float(count_violations(array, rules)) == count
    assert {tuple(pair) for pair in rules.pairs[is_violated].tolist()} == violated


@settings(max_examples=40, deadline=None)
@given(rules_and_labels(), st.data())
def test_selected_rules_count_the_pairs_that_are_left(drawn, data):
    pairs, tables, is_hard, num_options, labels = drawn
    tables_array = np.reshape(np.array(tables), (-1, num_options, num_options))
    rules = make_rules(pairs, tables_array, np.array(is_hard, bool), num_options)
    order = data.draw(st.permutations(range(len(labels))))
    kept = order[: data.draw(st.integers(0, len(labels)))]

    selected = select_rules(rules, kept)
    left_out = [UNLABELLED if index not in kept else labels[index] for index in range(len(labels))]
    if kept:
        of_kept = jnp.asarray([labels[index] for index in kept], jnp.int8)
        whole = jnp.asarray(left_out, jnp.int8)
        assert count_violations(of_kept, selected) == count_violations(whole, rules)
    hard_of = {frozenset(pair): hard for pair, hard in zip(pairs, is_hard, strict=True)}
    for (first, second), hard in zip(selected.pairs, selected.is_hard, strict=True):
        assert hard == hard_of[frozenset((kept[first], kept[second]))]
    assert len(selected.pairs) == sum(set(pair) <= set(kept) for pair in pairs)


def test_normal_form_turns_and_sorts_pairs():
    table = np.array([[0, 1], [0, 0]])  # forbids False for the first and True for the second
    rules = make_rules([(3, 1), (0, 2)], table, [True, False])
    np.testing.assert_array_equal(rules.pairs, [(0, 2), (1, 3)])
    np.testing.assert_array_equal(rules.penalties, [table, table.T])
    np.testing.assert_array_equal(rules.is_hard, [False, True])
    assert (rules.pairs.dtype, rules.penalties.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("pairs", [[(1, 1)], [(0, 1), (1, 0)]])
def test_normal_form_refuses_loops_and_repetitions(pairs):
    with pytest.raises(AssertionError):
        make_rules(pairs, np.eye(2))


def test_every_two_claims_of_a_group_are_tied_once():
    rules = rules_from_groups("not_both_true", [(4, 0, 2), (1,), (3, 5)], is_hard=True)
    np.testing.assert_array_equal(rules.pairs, [(0, 2), (0, 4), (2, 4), (3, 5)])
    assert rules.is_hard.all()


def test_answers_decide_between_the_two_tables_of_same_answer_same_label():
    rules = rules_from_groups("same_answer_same_label", [(0, 1, 2)], answers=["6", "6", "7"])
    same, other = (penalty_table("same_answer_same_label", 2, flag) for flag in (True, False))
    np.testing.assert_array_equal(rules.pairs, [(0, 1), (0, 2), (1, 2)])
    np.testing.assert_array_equal(rules.penalties, [same, other, other])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_without_rules_nothing_is_violated(shape):
    counts = count_violations(jnp.ones(shape, jnp.int8), no_rules())
    assert counts.shape == shape[:-1]
    assert counts.dtype == jnp.float32
    assert not counts.any()
    assert violated_pairs(jnp.ones(shape, jnp.int8), no_rules()).shape == (*shape[:-1], 0)


def test_count_compiles_once_and_batches():
    rules = rules_from_groups("exactly_one_true", [(0, 1), (2, 3)])
    num_traces = 0

    @jax.jit
    def count(labels, rules):
        nonlocal num_traces
        num_traces += 1
        return count_violations(labels, rules)

    labels = jnp.asarray([[0, 1, 1, 0], [1, 1, 0, 0], [1, -1, 1, 1]], jnp.int8)
    for _ in range(2):
        np.testing.assert_array_equal(count(labels, rules), [0, 2, 1])
    assert num_traces == 1
    assert isinstance(rules, PairRules)


def test_consistent_options_are_those_without_a_penalty():
    rules = rules_from_groups("not_both_true", [(0, 1)])
    np.testing.assert_array_equal(consistent_options(rules), [[[True, True], [True, False]]])
