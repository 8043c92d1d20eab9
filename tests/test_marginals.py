"""Labels by their marginals: against the readings that the trace tells of, and what bias does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scorers import TableScorer, planted_scorer, table_scorer

from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import InputError
from icmjax.scoring import cluster_border, share_border, without_bias
from icmjax.search import Marginals, make_units, run_search
from icmjax.search.marginals import TURN_SUPPORT, log_marginals

PLANTED = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 1], np.int8)
PAIRS = [(0, 1), (2, 3)]
SOFT, HARD = (
    make_rules(PAIRS, penalty_table("exactly_one_true"), is_hard) for is_hard in (False, True)
)
FREE = no_rules(2)
LAST_CONTEXT = -3  # where labels are given: two steps ask which side they are on, and one scores


def run(scorer, rules, algorithm=None, seed=0, **kwargs):
    algorithm = algorithm or Marginals(num_iterations=8)
    return run_search(scorer, rules, algorithm, jax.random.key(seed), progress=False, **kwargs)


def shifted(scorer: TableScorer, log_odds: float) -> TableScorer:
    """The same model with that much more to say for True, whatever the claim."""
    return dataclasses.replace(scorer, bias=scorer.bias + jnp.array([0.0, log_odds]))


def log_odds_of(logp: np.ndarray) -> np.ndarray:
    return logp[..., 1] - logp[..., 0]


@pytest.mark.parametrize("rules", [SOFT, HARD])
def test_marginals_are_the_mean_of_what_the_contexts_say(rules):
    scorer = table_scorer(0, 10, coupling=2.0)
    clamped = np.full(10, -1, np.int8)
    clamped[4] = 1
    result = run(scorer, rules, Marginals(num_iterations=12, bias="none"), clamped=clamped)
    contexts = result.trace.labels[:LAST_CONTEXT, 0]
    said = log_odds_of(np.asarray(scorer(jnp.asarray(contexts))))
    is_read = contexts < 0
    for first, second in PAIRS:
        is_read[:, [first, second]] = (is_read[:, first] & is_read[:, second])[:, None]
    mean = np.where(is_read, said, 0).sum(0) / np.maximum(is_read.sum(0), 1)
    for first, second in PAIRS:  # two readings of one answer
        mean[first] = (mean[first] - mean[second]) / 2
        mean[second] = -mean[first]
    expected = 1 / (1 + np.exp(-mean))
    expected[4] = 1.0
    np.testing.assert_allclose(result.marginals[:, 1], expected, atol=1e-5)
    np.testing.assert_allclose(result.marginals.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(result.labels, expected > 0.5)
    logp = scorer(jnp.asarray(result.labels))
    np.testing.assert_allclose(result.label_log_probs, logp, atol=1e-5)
    assert result.diagnostics["num_passes"] == 12


def test_a_context_shows_whole_units_and_what_is_clamped():
    clamped = np.full(10, -1, np.int8)
    clamped[[4, 5]] = 1, 0
    result = run(table_scorer(0, 10), HARD, Marginals(num_shots=3), clamped=clamped)
    contexts = result.trace.labels[1:LAST_CONTEXT, 0]
    np.testing.assert_array_equal(contexts[:, [4, 5]], np.tile([1, 0], (len(contexts), 1)))
    num_shown = (contexts >= 0).sum(axis=1) - 2
    assert set(num_shown) <= {2, 3}  # a pair fits beside one other claim, or stands behind two
    for first, second in PAIRS:
        np.testing.assert_array_equal(contexts[:, first] < 0, contexts[:, second] < 0)
    assert (result.trace.labels[0, 0] >= 0).sum() == 2
    assert len({row.tobytes() for row in contexts}) > 8


def test_a_clamped_half_of_a_soft_pair_is_in_every_context():
    clamped = np.full(10, -1, np.int8)
    clamped[[0, 3, 7]] = 1, 0, 1
    result = run(table_scorer(0, 10), SOFT, Marginals(num_shots=2), clamped=clamped)
    labels = result.trace.labels[:LAST_CONTEXT, 0]
    np.testing.assert_array_equal(labels[:, [0, 3, 7]], np.tile([1, 0, 1], (len(labels), 1)))
    drawn = labels[1:][:, [1, 2]]
    assert (drawn >= 0).any()  # the other half is free to be shown, or not
    assert (drawn < 0).any()


@pytest.mark.parametrize("rules", [FREE, HARD], ids=["free", "pairs"])
@pytest.mark.parametrize("lean", [-1.0, 1.0])
def test_given_labels_say_which_side_is_which(rules, lean):
    """A model that knows which claims belong together, and leans to one of the two sides."""
    scorer = planted_scorer(PLANTED, coupling=0.5, bias=lean)
    leaning = PLANTED if lean > 0 else 1 - PLANTED
    np.testing.assert_array_equal(run(scorer, rules).labels, leaning)
    for side in (PLANTED, 1 - PLANTED):
        clamped = np.full(10, -1, np.int8)
        clamped[[4, 6, 9]] = side[[4, 6, 9]]
        result = run(scorer, rules, Marginals(bias="none"), clamped=clamped)
        np.testing.assert_array_equal(result.labels, side)
        np.testing.assert_array_equal(result.marginals.argmax(axis=1), side)
        support = result.diagnostics["log_prob_of_given"]
        as_found, turned = result.trace.labels[LAST_CONTEXT:-1, 0]
        assert (as_found[as_found >= 0] == 1 - turned[as_found >= 0]).all()
        for name, labels in (("as found", as_found), ("turned round", turned)):
            assert (labels[[4, 6, 9]] < 0).all()
            assert (labels == 0).sum() == (labels == 1).sum() > 0
            logp = np.asarray(scorer(jnp.asarray(labels)))
            expected = logp[[4, 6, 9], side[[4, 6, 9]]].sum()
            assert support[name] == pytest.approx(expected, abs=1e-4)
        is_turned = support["turned round"] > support["as found"] + TURN_SUPPORT
        is_said = any("turned round" in text for text in result.diagnostics["warnings"])
        assert is_said == is_turned
        spoke = result.diagnostics.get("spoke_for_turning", [])
        assert bool(spoke) == is_turned
        for claim, gain in spoke:
            turned_logp, found_logp = (
                np.asarray(scorer(jnp.asarray(labels)))[claim, side[claim]]
                for labels in (turned, as_found)
            )
            assert gain == pytest.approx(turned_logp - found_logp, abs=1e-4)
            assert claim in (4, 6, 9)
    assert "log_prob_of_given" not in run(scorer, rules).diagnostics


@pytest.mark.slow
def test_few_free_claims_keep_what_the_model_says_of_them():
    scorer = table_scorer(0, 10, coupling=2.0)
    clamped = np.array([1, 0] * 5, np.int8)
    clamped[2] = -1
    result = run(scorer, FREE, clamped=clamped)
    expected = np.asarray(jax.nn.softmax(scorer(jnp.asarray(clamped))[2]))
    np.testing.assert_allclose(result.marginals[2], expected, atol=1e-5)
    alone = run(table_scorer(0, 1), FREE)
    np.testing.assert_allclose(alone.marginals, jax.nn.softmax(table_scorer(0, 1).bias), atol=1e-5)


@pytest.mark.slow
def test_claims_of_a_group_are_shown_together_or_not_at_all():
    """Tied by a rule of more claims than are labelled together, or by their group alone."""
    pairs = [(i, j) for i in range(6) for j in range(i)]
    soft = make_rules(pairs, penalty_table("not_both_true"), is_hard=False)
    groups = np.array([0] * 6 + [1, 2, 3, 4])
    for rules, members in ((soft, None), (FREE, groups)):
        labels = run(table_scorer(0, 10), rules, groups=members).trace.labels[1:-1, 0]
        num_shown = (labels[:, :6] >= 0).sum(axis=1)
        assert set(num_shown) <= {0, 6}
    found = run(shifted(table_scorer(0, 10), 6.0), soft, Marginals(bias="none"))
    assert any("violate" in text for text in found.diagnostics["warnings"])


def test_a_context_leaves_half_of_the_claims_to_be_read():
    labels = run(table_scorer(0, 10), FREE, Marginals(num_shots=1000)).trace.labels[1:-1, 0]
    assert ((labels >= 0).sum(axis=1) == 5).all()


def test_labels_of_contexts_are_drawn_from_the_zero_shot_marginals():
    """A z-test for each claim; one false alarm in 1 000."""
    num_iterations, scorer = 600, table_scorer(1, 10, coupling=0.0, bias=1.0)
    algorithm = Marginals(num_iterations=num_iterations, num_shots=10, bias="none")
    result = run(scorer, FREE, algorithm)
    contexts = result.trace.labels[1:-1, 0]
    share = jax.nn.softmax(scorer.bias)[:, 1]
    worst = min(
        stats.binomtest(
            int((contexts[:, claim] == 1).sum()), int((contexts[:, claim] >= 0).sum()), float(p)
        ).pvalue
        for claim, p in enumerate(share)
    )
    assert worst > 0.001 / 10


def test_more_contexts_of_a_model_that_heeds_none_change_nothing():
    scorer = table_scorer(1, 10, coupling=0.0)
    few, many = (run(scorer, SOFT, Marginals(num_iterations=n, bias="none")) for n in (2, 20))
    np.testing.assert_array_equal(few.labels, many.labels)
    np.testing.assert_allclose(few.marginals, many.marginals, atol=1e-5)


@pytest.mark.parametrize("log_odds", [-6.0, pytest.param(6.0, marks=pytest.mark.slow)])
def test_a_bias_towards_one_label_is_taken_off(log_odds):
    scorer = shifted(planted_scorer(PLANTED), log_odds)
    found, raw = (run(scorer, FREE, Marginals(bias=bias)) for bias in ("clusters", "none"))
    np.testing.assert_array_equal(found.labels, PLANTED)
    assert len(set(raw.labels.tolist())) == 1
    assert found.diagnostics["bias"] == pytest.approx(log_odds, abs=0.5)
    assert raw.diagnostics["bias"] == 0
    known = run(scorer, FREE, Marginals(balance=0.6))
    np.testing.assert_array_equal(known.labels, PLANTED)
    pairs = make_rules(
        [(0, 1), (2, 3), (4, 5), (7, 8)], penalty_table("exactly_one_true"), is_hard=True
    )
    for bias in ("clusters", "none"):  # what is said of both claims of a pair cancels
        labels = run(scorer, pairs, Marginals(bias=bias)).labels
        is_paired = [0, 1, 2, 3, 4, 5, 7, 8]
        np.testing.assert_array_equal(labels[is_paired], PLANTED[is_paired])


SHARES = [pytest.param(0.2, 2, marks=pytest.mark.slow), (0.9, 9)]


@pytest.mark.parametrize(("balance", "num_true"), SHARES)
def test_a_known_balance_holds_of_the_labels(balance, num_true):
    scorer = shifted(table_scorer(3, 10, coupling=2.0), -4.0)
    found = run(scorer, FREE, Marginals(num_iterations=10, balance=balance))
    assert found.labels.sum() == num_true
    np.testing.assert_array_equal(found.labels, found.marginals[:, 1] > 0.5)


@pytest.mark.slow
def test_a_balance_that_rules_leave_no_room_for_is_said():
    scorer = table_scorer(3, 10)
    pairs = make_rules(
        [(i, i + 1) for i in range(0, 10, 2)], penalty_table("exactly_one_true"), is_hard=True
    )
    warnings = run(scorer, pairs, Marginals(balance=0.9)).diagnostics["warnings"]
    assert any("pair rules tie all claims" in warning for warning in warnings)


def test_a_favoured_label_and_an_even_guess_are_said():
    (one_sided,) = run(shifted(planted_scorer(PLANTED), -6.0), FREE).diagnostics["warnings"]
    assert "says False of 100% of the claims" in one_sided
    nothing = table_scorer(0, 10, coupling=0.0, bias=0.01)
    assert any("near even" in text for text in run(nothing, FREE).diagnostics["warnings"])
    assert run(planted_scorer(PLANTED, bias=3.0), FREE).diagnostics["warnings"] == []


@pytest.mark.slow
def test_claims_of_several_options_keep_what_the_model_says():
    scorer = table_scorer(0, 6, num_options=3, coupling=0.0)
    result = run(scorer, no_rules(3))
    expected = np.asarray(jax.nn.softmax(scorer.bias))
    np.testing.assert_allclose(result.marginals, expected, atol=1e-5)
    np.testing.assert_array_equal(result.labels, expected.argmax(axis=1))


def test_units_count_what_is_free_and_not_how_often_it_is_said():
    """Three claims of which at most one is true: four assignments, two bits of three claims."""
    rules = make_rules([(0, 1), (0, 2), (1, 2)], penalty_table("not_both_true"), is_hard=True)
    units = make_units(rules, np.full(3, -1, np.int8), 2)
    scores = jnp.arange(4.0)[None]
    expected = jax.nn.log_softmax(scores * 2 / 3)
    np.testing.assert_allclose(log_marginals(scores, units)[:, :4], expected, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_chains": 2},
        {"num_shots": 0},
        {"bias": "mean"},
        {"balance": 0.0},
        {"balance": 1.0},
        {"balance": 0.5, "bias": "none"},
        {"num_iterations": 1},
    ],
)
def test_fields_have_ranges(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Marginals(**fields)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12))
def test_the_border_leaves_the_least_variance_on_its_sides(values):
    ordered = np.sort(np.array(values, np.float32))
    border = float(cluster_border(jnp.asarray(values)))
    assert ordered[0] - 1e-30 <= border <= ordered[-1] + 1e-30  # subnormals are flushed

    def within(split: int) -> float:
        return sum(len(side) * side.var() for side in (ordered[:split], ordered[split:]))

    splits = range(1, len(ordered))
    least = min(map(within, splits))
    halves = [s for s in splits if abs((ordered[s - 1] + ordered[s]) / 2 - border) < 1e-3]
    assert min(map(within, halves)) <= least + 1e-2 * (1 + least)


def test_claims_that_do_not_count_move_no_border():
    values = jnp.asarray([0.0, 99.0, 1.0, 10.0, -99.0, 11.0, 5.0])
    is_read = jnp.asarray([True, False, True, True, False, True, False])
    np.testing.assert_allclose(cluster_border(values, is_read), 5.5)
    np.testing.assert_allclose(share_border(values, 0.25, is_read), 10.25)
    alone = jnp.arange(7) == 2
    np.testing.assert_allclose(cluster_border(values, alone), 1.0)


def test_borders_of_many_rows_and_of_a_known_share():
    rows = jnp.asarray([[0.0, 1.0, 10.0, 11.0], [-5.0, -5.0, -5.0, 3.0]])
    np.testing.assert_allclose(cluster_border(rows), [5.5, -1.0])
    np.testing.assert_allclose(share_border(rows, 0.25), [10.25, -3.0])
    logp = jax.nn.log_sigmoid(jnp.stack([-rows, rows], axis=-1))
    changed = without_bias(logp, cluster_border(rows))
    np.testing.assert_allclose(log_odds_of(changed), rows - jnp.array([[5.5], [-1.0]]), atol=1e-4)
    np.testing.assert_allclose(jnp.exp(changed).sum(-1), 1, atol=1e-5)
