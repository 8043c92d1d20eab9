"""ICM's switch for what the authors' code does differently from their paper: each shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scorers import table_scorer

from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.scoring import utility
from icmjax.search import ICM, run_search

NOT_BOTH = make_rules([(0, 1), (2, 3), (4, 5), (6, 7)], penalty_table("not_both_true"))


def run(scorer, rules, seed=0, is_reference=True, **fields):
    config = ICM(reference_deviations=is_reference, num_chains=1, **fields)
    return run_search(scorer, rules, config, jax.random.key(seed), progress=False)


@pytest.fixture(scope="module")
def pairs():
    """Searches of ten claims under soft rules, as the paper has it and as the code has it."""
    scorers = [table_scorer(seed, 10, coupling=2.0) for seed in range(6)]
    return [
        (scorer, *(run(scorer, NOT_BOTH, seed, is_reference) for is_reference in (False, True)))
        for seed, scorer in enumerate(scorers)
    ]


def test_utility_averages_log_odds(pairs):
    for scorer, paper, code in pairs:
        for result, objective in ((paper, "log_prob"), (code, "log_odds")):
            labels = jnp.asarray(result.labels)
            expected = utility(scorer(labels), labels, NOT_BOTH, 50.0, objective)
            np.testing.assert_allclose(result.utility, expected, atol=1e-3)


def test_temperature_falls_with_accepted_moves(pairs):
    num_turned_back = 0
    for _, paper, code in pairs:
        trace = code.trace
        changed = (trace.is_flip & trace.is_accepted)[1:, 0]
        num_turned_back += (changed & ~trace.is_move[1:, 0]).sum()
        num_accepted = np.concatenate([[0], np.cumsum(changed)])[:-1]
        expected = ICM().inverse_temperature(jnp.asarray(1 + num_accepted))
        np.testing.assert_allclose(trace.inverse_temperature[1:, 0], expected, rtol=1e-6)
        by_step = ICM().inverse_temperature(jnp.arange(1, len(paper.trace.utility)))
        np.testing.assert_allclose(paper.trace.inverse_temperature[1:, 0], by_step, rtol=1e-6)
    assert num_turned_back > 0  # an accepted flip counts though its fix turned it back


def test_the_last_state_is_the_result():
    is_lower = []
    hot = {"initial_temperature": 1e6, "final_temperature": 1e6, "num_iterations": 60}
    for seed in range(8):
        scorer = table_scorer(seed, 10, coupling=2.0)
        paper, code = (run(scorer, NOT_BOTH, seed, is_ref, **hot) for is_ref in (False, True))
        np.testing.assert_allclose(code.utility, code.trace.utility[-1, 0], atol=1e-5)
        is_full = code.trace.num_labelled[:, 0] == 10
        is_lower.append(code.utility < code.trace.utility[is_full, 0].max() - 1e-3)
        is_full = paper.trace.num_labelled[:, 0] == 10
        np.testing.assert_allclose(paper.utility, paper.trace.utility[is_full, 0].max(), atol=1e-5)
    assert any(is_lower)


def both_want(first, second):
    """Two claims with log-odds of their own, each heedless of the other."""
    scorer = table_scorer(0, 2, coupling=0.0)
    bias = jnp.array([[0.0, first], [0.0, second]], jnp.float32)
    return type(scorer)(bias, scorer.couplings)


@pytest.mark.parametrize("is_reference", [False, True])
def test_fixes_make_one_claim_true_and_one_false(is_reference):
    # Seeds that are both true by chance: both false is best, and consistent.
    rules = make_rules([(0, 1)], penalty_table("not_both_true"))
    scorer = both_want(-3.0, -3.0)
    ends = set()
    for seed in range(12):
        fields = {"num_seeds": 2, "num_iterations": 0}
        result = run(scorer, rules, seed, is_reference, **fields)
        if result.trace.num_fixes[0, 0]:
            ends.add(int(result.labels.sum()))
    assert ends == ({1} if is_reference else {0})


@pytest.mark.parametrize("is_reference", [False, True])
def test_the_first_fix_of_a_proposal_is_taken_though_utility_falls(is_reference):
    # Both claims want to be true by far: the violated pair costs less than any fix of it.
    rules = make_rules([(0, 1)], penalty_table("not_both_true"))
    num_fixes = 0
    for seed in range(8):
        result = run(
            both_want(4.0, 4.0),
            rules,
            seed,
            is_reference,
            num_seeds=1,
            num_iterations=12,
            final_temperature=0.1,
            initial_temperature=0.1,
        )
        num_fixes += int(result.trace.num_fixes[1:].sum())
    assert (num_fixes > 0) == is_reference


def test_a_proposal_that_changes_nothing_is_left_alone():
    result = run(table_scorer(1, 10), no_rules(), num_seeds=10, num_iterations=60)
    moves = result.trace.is_move[1:, 0]
    np.testing.assert_array_equal(result.trace.num_passes[1:, 0], moves.astype(np.int32))
