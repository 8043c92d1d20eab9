"""Whom to ask, what answers imply, and what an answer is expected to gain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scorers import planted_scorer, table_scorer

from icmjax.claims.consistency import no_rules, rules_from_groups
from icmjax.errors import ClaimsError, InputError
from icmjax.feedback import (
    SELECTORS,
    Evidence,
    choose_claims,
    expected_gain,
    implied_labels,
    uncertainty,
)
from icmjax.feedback.selectors import READS
from icmjax.scoring import utility

KEY = jax.random.key(0)
PAIRS = rules_from_groups("exactly_one_true", [(0, 1), (2, 3)])


def log_probs(true: list[float]) -> np.ndarray:
    share = np.array(true)
    return np.log(np.stack([1 - share, share], -1)).astype(np.float32)


def test_every_selector_reads_its_own_evidence():
    evidence = Evidence(
        zero_shot=log_probs([0.5, 0.9, 0.99]),
        unbiased=log_probs([0.1, 0.5, 0.8]),
        leave_one_out=log_probs([0.99, 0.45, 0.2]),
        marginals=np.exp(log_probs([0.9, 0.95, 0.6])),
        expected_gain=np.array([1.0, -2.0, 0.0]),
    )
    orders = {
        selector: np.argsort(-uncertainty(selector, evidence, 3, KEY)).tolist()
        for selector in SELECTORS
    }
    assert orders | {"random": None} == {
        "zero_shot_entropy": [0, 1, 2],
        "unbiased_entropy": [1, 2, 0],
        "leave_one_out_entropy": [1, 2, 0],
        "marginal_entropy": [2, 0, 1],
        "margin": [1, 2, 0],
        "expected_gain": [0, 2, 1],
        "random": None,
    }
    assert list(READS) == list(SELECTORS)


def test_a_certain_marginal_has_no_entropy():
    evidence = Evidence(marginals=np.array([[0.0, 1.0], [0.5, 0.5]]))
    np.testing.assert_allclose(
        uncertainty("marginal_entropy", evidence, 2, KEY), [0, np.log(2)], atol=1e-7
    )


def test_entropy_and_margin_rank_options_differently():
    """With more than two options they are not the same selector."""
    logp = np.log(np.array([[0.5, 0.49, 0.01], [0.4, 0.3, 0.3]], np.float32))
    evidence = Evidence(leave_one_out=logp)
    assert uncertainty("margin", evidence, 2, KEY).argmax() == 0
    assert uncertainty("leave_one_out_entropy", evidence, 2, KEY).argmax() == 1


def test_random_is_by_key():
    first, again, other = (
        uncertainty("random", Evidence(), 50, jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_missing_evidence_and_unknown_selectors():
    with pytest.raises(InputError, match="has its evidence"):
        uncertainty("margin", Evidence(), 3, KEY)
    with pytest.raises(InputError, match="choose one of zero_shot"):
        uncertainty("entropy", Evidence(), 3, KEY)


def test_one_question_a_group():
    groups = np.array([0, 0, 1, 1, 2])
    scores = np.array([5.0, 4.0, 1.0, 3.0, 2.0])
    assert choose_claims(scores, groups, 3).tolist() == [0, 3, 4]
    clamped = np.array([-1, 1, -1, -1, -1], np.int8)
    assert choose_claims(scores, groups, 2, clamped).tolist() == [3, 4]
    assert choose_claims(np.zeros(5), groups, 2).tolist() == [0, 2]  # of equals the earlier
    for budget in (-1, 0, 4):
        with pytest.raises(InputError, match="choose 1 to 3") as caught:
            choose_claims(scores, groups, budget)
        assert "for every question" in str(caught.value)
        assert f"{budget} questions, 3 groups" in str(caught.value)
    with pytest.raises(InputError, match="choose 1 to 2"):
        choose_claims(scores, groups, 0, clamped)
    with pytest.raises(InputError, match="ask nothing"):
        choose_claims(scores, groups, 1, np.zeros(5, np.int8))


def test_an_answer_implies_its_opposite():
    answers = np.array([1, -1, -1, -1, -1], np.int8)
    assert implied_labels(answers, PAIRS).tolist() == [1, 0, -1, -1, -1]
    assert implied_labels(np.full(5, -1, np.int8), PAIRS).tolist() == [-1] * 5


def test_answers_imply_along_a_chain():
    """Of answers that exclude each other at most one is true: a True makes all the others False."""
    rules = rules_from_groups("not_both_true", [(0, 1, 2)])
    assert implied_labels(np.array([-1, 1, -1], np.int8), rules).tolist() == [0, 1, 0]
    assert implied_labels(np.array([-1, 0, -1], np.int8), rules).tolist() == [-1, 0, -1]
    rules = rules_from_groups("asymmetric_preference", [(0, 1), (2, 3)], num_options=3)
    assert implied_labels(np.array([-1, 0, 1, -1], np.int8), rules).tolist() == [2, 0, 1, 1]


def test_contradicting_answers():
    with pytest.raises(ClaimsError, match="no label is left"):
        implied_labels(np.array([1, 1, -1, -1], np.int8), PAIRS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-1, 1), min_size=4, max_size=4))
def test_implied_labels_keep_the_answers(answers):
    answers = np.array(answers, np.int8)
    is_contradiction = any(a == b >= 0 for a, b in answers.reshape(2, 2))
    if is_contradiction:
        with pytest.raises(ClaimsError):
            implied_labels(answers, PAIRS)
        return
    labels = implied_labels(answers, PAIRS)
    assert (labels[answers >= 0] == answers[answers >= 0]).all()
    np.testing.assert_array_equal(implied_labels(labels, PAIRS), labels)


def test_expected_gain_is_that_of_a_naive_loop():
    scorer = table_scorer(0, 5, num_options=3)
    rules, labels = no_rules(3), np.array([0, 1, 2, 0, 1], np.int8)
    clamped = np.array([-1, -1, -1, 0, -1], np.int8)
    logp = np.asarray(scorer(jnp.asarray(labels)))

    def utility_of(labels):
        labels = jnp.asarray(labels)
        return float(utility(scorer(labels), labels, rules, 20.0))

    expected = np.zeros(5)
    for claim in (0, 1, 2, 4):
        for option in set(range(3)) - {int(labels[claim])}:
            answered = labels.copy()
            answered[claim] = option
            relabelled = np.asarray(scorer(jnp.asarray(answered))).argmax(-1).astype(np.int8)
            relabelled[[claim, 3]] = option, 0
            gain = utility_of(relabelled) - utility_of(labels)
            expected[claim] += np.exp(logp[claim, option]) * gain
    found = expected_gain(scorer, labels, logp, rules, alpha=20.0, clamped=clamped)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[3] == 0
    other = expected_gain(scorer, labels, logp, rules, 20.0, "log_odds", clamped)
    assert not np.allclose(found, other)


def test_earlier_answers_rule_labels_out():
    scorer, labels = table_scorer(1, 4), np.array([1, 0, 1, 0], np.int8)
    logp = np.asarray(scorer(jnp.asarray(labels)))
    clamped = np.array([1, -1, -1, -1], np.int8)  # claim 1, its opposite, is False by it
    found = expected_gain(scorer, labels, logp, PAIRS, clamped=clamped)
    assert found[0] == found[1] == 0
    assert np.all(found[2:] != 0)
    everything = expected_gain(scorer, labels, logp, PAIRS, clamped=labels)
    np.testing.assert_array_equal(everything, 0)


def test_asking_gains_most_where_all_hangs_together_and_is_wrong():
    planted = np.ones(6, np.int8)
    scorer = planted_scorer(planted, coupling=0.08, bias=0.3)
    wrong = np.zeros(6, np.int8)  # coherent too, but against the bias of every claim
    wrong_logp = np.asarray(scorer(jnp.asarray(wrong)))
    gains = expected_gain(scorer, wrong, wrong_logp, no_rules())
    right_logp = np.asarray(scorer(jnp.asarray(planted)))
    assert gains.max() > expected_gain(scorer, planted, right_logp, no_rules()).max()
