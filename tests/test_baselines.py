"""The cheap baselines: each against what it says, and behind the same interface as the search."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import enumerated
from scorers import TableScorer, planted_scorer, table_scorer

from icmjax.claims import violated_pairs
from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import InputError
from icmjax.search import Bootstrap, Gibbs, Greedy, run_search

PLANTED = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 1], np.int8)
PAIRS = [(0, 1), (2, 3)]
SOFT, HARD = (
    make_rules(PAIRS, penalty_table("exactly_one_true"), is_hard) for is_hard in (False, True)
)
ALGORITHMS = (
    Gibbs(num_iterations=24),
    Gibbs(num_iterations=24, is_vote=False),
    Bootstrap(),
    Bootstrap(num_shots=3),
    Greedy(),
)


def run(scorer, rules, algorithm, seed=0, **kwargs):
    return run_search(scorer, rules, algorithm, jax.random.key(seed), progress=False, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_finds_planted_labels_and_keeps_what_must_be_kept(algorithm):
    clamped = np.full(10, -1, np.int8)
    clamped[[0, 5]] = 1, 1  # the second against what is planted
    result = run(planted_scorer(PLANTED, bias=2.0), HARD, algorithm, clamped=clamped)
    expected = PLANTED.copy()
    expected[5] = 1
    assert result.labels.tolist() == expected.tolist()
    assert np.isin(result.trace.labels[:, 0, [0, 5]], [1, -1]).all()  # -1 where it is not shown
    # Shown or not, what is labelled keeps the hard rules in every step.
    assert not np.asarray(violated_pairs(jnp.asarray(result.trace.labels), HARD)).any()
    logp = planted_scorer(PLANTED, bias=2.0)(jnp.asarray(result.labels))
    np.testing.assert_allclose(result.label_log_probs, logp, atol=1e-5)
    assert result.diagnostics["num_passes"] == len(result.trace.utility)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm", [a for a in ALGORITHMS if not isinstance(a, Greedy) and a != Bootstrap()], ids=repr
)
def test_chain_does_not_depend_on_the_others(algorithm):
    scorer = table_scorer(2, 10, coupling=2.0)
    alone = run(scorer, SOFT, algorithm).trace.labels
    together = run(scorer, SOFT, dataclasses.replace(algorithm, num_chains=3)).trace.labels
    np.testing.assert_array_equal(alone[:, 0], together[: len(alone), 0])


@pytest.mark.parametrize("kind", [Gibbs, Bootstrap, Greedy])
def test_step_is_traced_once(kind):
    num_traces = 0

    class Counting(kind):
        def _step(self, *args):
            nonlocal num_traces
            num_traces += 1
            return super()._step(*args)

    for seed in range(2):
        run(table_scorer(seed, 10), SOFT, Counting(num_iterations=12, block_size=5), seed)
    assert num_traces == 1


def test_tokens_are_those_of_the_claims_shown():
    result = run(table_scorer(3, 10), no_rules(), Bootstrap(num_shots=4, num_chains=2))
    expected = 4 * 10 * result.trace.num_labelled * result.trace.num_passes
    np.testing.assert_array_equal(result.tokens, expected.sum(axis=1))
    assert 0 < result.diagnostics["num_tokens"] == expected.sum()


@pytest.mark.slow
def test_a_rule_that_cannot_be_kept_leaves_the_scores_their_resolution():
    """Of three claims, each two opposites, some pair is always violated: the scores decide."""
    rules = make_rules([(0, 1), (1, 2), (0, 2)], penalty_table("exactly_one_true"))
    for seed in range(20):
        scorer = table_scorer(seed, 3, coupling=0.0, bias=0.05)
        result = run(scorer, rules, Bootstrap(), seed)
        labellings = np.array(list(itertools.product((0, 1), repeat=3)), np.int8)
        num_violated = np.asarray(violated_pairs(jnp.asarray(labellings), rules)).sum(-1)
        fit = np.take_along_axis(
            np.asarray(scorer(jnp.asarray(labellings))), labellings[..., None].astype(int), -1
        ).sum((1, 2))
        fit = np.where(num_violated == num_violated.min(), fit, -np.inf)
        assert result.labels.tolist() == labellings[fit.argmax()].tolist()


def test_bootstrap_is_repeated_relabelling():
    """Against a loop: labels of one pass are the demonstrations of the next."""
    scorer = table_scorer(3, 10, coupling=1.5)
    for is_consistent in (False, True):
        labels, history = np.full(10, -1, np.int8), []
        for _ in range(6):
            history.append(labels.tolist())
            logp = np.asarray(scorer(jnp.asarray(labels)))
            labels = logp.argmax(axis=1).astype(np.int8)
            for i, j in PAIRS if is_consistent else ():
                choices = [(0, 1), (1, 0)]
                best = max(choices, key=lambda c: logp[i, c[0]] + logp[j, c[1]])
                labels[[i, j]] = best
            if labels.tolist() == history[-1]:
                break
        result = run(scorer, SOFT, Bootstrap(num_iterations=6, is_consistent=is_consistent))
        assert result.trace.labels[:, 0].tolist() == history
        assert result.labels.tolist() == history[-1]


def test_bootstrap_shows_so_many_claims():
    result = run(table_scorer(3, 10), no_rules(), Bootstrap(num_iterations=5, num_shots=4))
    assert result.trace.num_labelled[:, 0].tolist() == [0, 4, 4, 4, 10]


def independent_scorer():
    """Claims heedless of one another: their Gibbs law is the product of their probabilities."""
    bias = np.stack([np.zeros(6), np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])], axis=1)
    return TableScorer(jnp.asarray(bias, jnp.float32), jnp.zeros((6, 6, 2, 2)))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gibbs_samples_the_conditionals(temperature):
    """Standard errors of 4 · 600 independent draws; five of them on 6 claims: alarms 4e-6."""
    config = Gibbs(num_iterations=802, num_chains=4, temperature=temperature, burn_in=0.25)
    config = dataclasses.replace(config, num_resampled=6)
    scorer = independent_scorer()
    result = run(scorer, no_rules(), config)
    odds = np.asarray(scorer.bias)[:, 1] / temperature
    expected = 1 / (1 + np.exp(-odds))
    error = np.sqrt(expected * (1 - expected) / (4 * 600))
    assert (np.abs(result.marginals[:, 1] - expected) < 5 * error).all()


def test_gibbs_conditionals_of_a_pair_heed_its_rule():
    """(1, 0) against (0, 1) by their log-probs; within five standard errors."""
    rules = make_rules([(0, 1)], penalty_table("exactly_one_true"), True)
    result = run(independent_scorer(), rules, Gibbs(num_iterations=802, num_chains=4))
    expected = 1 / (1 + np.exp(-(-2.0 - -1.0)))
    error = np.sqrt(expected * (1 - expected) / (4 * 600))
    assert abs(result.marginals[0, 1] - expected) < 5 * error
    np.testing.assert_allclose(result.marginals[0] + result.marginals[1], 1, atol=1e-6)


def test_gibbs_resamples_so_many_units_and_votes():
    scorer = table_scorer(1, 10)
    config = Gibbs(num_iterations=40, num_resampled=2, burn_in=0.5)
    result = run(scorer, no_rules(), config)
    labels = result.trace.labels[:, 0]
    assert (labels[0] == -1).all()
    changed = (labels[2:-1] != labels[1:-2]).sum(axis=1)
    assert 1 <= changed.max() <= 2
    samples = labels[config.num_burn_in : -1]
    share = samples.mean(axis=0)
    is_clear = share != 0.5
    np.testing.assert_array_equal(result.labels[is_clear], (share > 0.5)[is_clear])


def test_greedy_ends_where_no_unit_raises_utility():
    for seed in range(4):
        scorer = table_scorer(seed, 8, coupling=2.0)
        result = run(scorer, HARD, Greedy())
        labellings, utilities = enumerated(scorer, HARD)
        units = [(0, 1), (2, 3), (4,), (5,), (6,), (7,)]
        for unit, row in itertools.product(units, range(len(labellings))):
            is_changed = labellings[row] != result.labels
            if is_changed.any() and set(np.flatnonzero(is_changed)) <= set(unit):
                assert utilities[row] <= result.utility + 1e-3
        utility = result.trace.utility[1:, 0]
        assert (np.diff(utility) >= 0).all()
        assert (np.diff(utility) > 0).tolist() == (
            result.trace.is_accepted[2:, 0] & result.trace.is_move[2:, 0]
        ).tolist()


def test_config_faults():
    for config, fields in (
        (Gibbs, {"num_resampled": 0, "temperature": 0.0}),
        (Bootstrap, {"num_shots": 0, "num_iterations": 1}),
        (Bootstrap, {"num_chains": 2}),
        (Greedy, {"num_chains": 2, "alpha": -1.0}),
    ):
        with pytest.raises(InputError) as caught:
            config(**fields)
        assert {fault.where.split("(")[1].split("=")[0] for fault in caught.value.faults} == set(
            fields
        )
