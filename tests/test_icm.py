"""ICM against a naive Python version of Algorithms 1 and 2, and against enumeration."""

import contextlib
import dataclasses
import itertools
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scorers import TableScorer, all_labellings, planted_scorer, table_scorer

from icmjax.claims import claims_from_rows, violated_pairs
from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import ClaimsError, InputError, ScoreError
from icmjax.runs import open_run, search_configuration
from icmjax.scoring import utility
from icmjax.search import ICM, run_search
from icmjax.search.base import metropolis_accept
from icmjax.search.loop import BLOCK_SECONDS, Pace, run_block
from icmjax.search.seeds import NUM_SPREAD, spread_labels


def exactly_one_true(pairs, is_hard=False):
    return make_rules(pairs, penalty_table("exactly_one_true"), is_hard)


def not_both_true(pairs, is_hard=False):
    return make_rules(pairs, penalty_table("not_both_true"), is_hard)


# Searches of one shape share a compiled program, which takes far longer than they do.
PAIRS = [(0, 1), (1, 4), (2, 3)]
PLANTED = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 1], np.int8)


def all_true_scorer():
    """Ten claims that want to be True whatever the others are."""
    return TableScorer(jnp.tile(jnp.array([[0.0, 4.0]]), (10, 1)), jnp.zeros((10, 10, 2, 2)))


def run_icm(scorer, rules, seed=0, clamped=None, **fields):
    config = ICM(**{"num_chains": 1} | fields)
    return run_search(scorer, rules, config, jax.random.key(seed), clamped=clamped, progress=False)


class NaiveICM:
    """Algorithms 1 and 2 of arXiv:2506.10139 on Python lists, one claim and one pair at a time.

    It draws from the keys that the search gives to its steps, so that both meet the same chances.
    """

    def __init__(self, scorer, rules, config, rng_key):
        self.scorer, self.config = scorer, config
        self.num_claims = scorer.num_claims
        self.num_options = scorer.bias.shape[1]
        self.pairs = [tuple(pair) for pair in np.asarray(rules.pairs).tolist()]
        self.penalties = np.asarray(rules.penalties)
        self.groups = [{claim} for claim in range(self.num_claims)]
        for pair in self.pairs:
            tied = [group for group in self.groups if group & {*pair}]
            self.groups = [group for group in self.groups if group not in tied]
            self.groups.append(set.union(*tied))
        self.init_key, self.step_key = jax.random.split(rng_key)
        self.num_passes = 0

    def conditionals(self, labels):
        return np.asarray(self.scorer(jnp.asarray(labels, jnp.int8)))

    def violated(self, labels):
        return [
            e
            for e, (i, j) in enumerate(self.pairs)
            if labels[i] >= 0 and labels[j] >= 0 and self.penalties[e, labels[i], labels[j]] > 0
        ]

    def utility(self, labels):
        logp = self.conditionals(labels)
        own = [logp[i, y] for i, y in enumerate(labels) if y >= 0]
        return self.config.alpha * np.mean(own) - len(self.violated(labels))

    def seeds(self):
        seeds_key, labels_key = jax.random.split(jax.random.fold_in(self.init_key, 0))
        priority = np.asarray(jax.random.uniform(seeds_key, (self.num_claims,)))
        seeds = np.argsort(-priority)[: self.config.num_seeds]
        drawn = jax.random.randint(labels_key, seeds.shape, 0, self.num_options, jnp.int8)
        labels = [-1] * self.num_claims
        for claim, label in zip(seeds.tolist(), drawn.tolist(), strict=True):
            labels[claim] = label
        return labels

    def consistency_fix(self, key, labels):
        best = self.utility(labels)
        for m in range(1, self.config.max_fixes + 1):
            violated = self.violated(labels)
            if not violated:
                break
            weights = [0.0 if e in violated else -math.inf for e in range(len(self.pairs))]
            e = int(jax.random.categorical(jax.random.fold_in(key, m), jnp.array(weights)))
            i, j = self.pairs[e]
            options = []
            for a in range(self.num_options):
                for b in range(self.num_options):
                    if self.penalties[e, a, b] == 0:
                        option = list(labels)
                        option[i], option[j] = a, b
                        options.append(option)
            utilities = [self.utility(option) for option in options]
            if max(utilities) > best:
                best, labels = max(utilities), options[int(np.argmax(utilities))]
        return labels, best

    def draw_claim(self, key, labels):
        weights = [1.0] * self.num_claims
        for group in self.groups:
            if any(labels[claim] >= 0 for claim in group):
                for claim in group:
                    if labels[claim] < 0:
                        weights[claim] = self.config.partner_weight
        return int(jax.random.categorical(key, jnp.log(jnp.array(weights))))

    def temperature(self, n):
        cooled = self.config.initial_temperature / (1 + self.config.cooling_rate * math.log(n))
        return max(self.config.final_temperature, cooled)

    def num_labelled(self, labels):
        return sum(y >= 0 for y in labels)

    def run(self):
        """Claim, utility, acceptance and number of labels after every step; the final labels."""
        history, best = [], None
        n = 0
        while n <= self.config.num_iterations or self.num_labelled(best[0]) < self.num_claims:
            key = jax.random.fold_in(jax.random.fold_in(self.step_key, n), 0)
            claim_key, fix_key, accept_key = jax.random.split(key, 3)
            claim, is_accepted = -1, True
            if n == 0:
                labels, current = self.consistency_fix(fix_key, self.seeds())
            else:
                if is_completing := n > self.config.num_iterations:
                    labels, current = best
                    certainty = np.max(self.conditionals(labels), axis=1)
                    unlabelled = [i for i in range(self.num_claims) if labels[i] < 0]
                    unlabelled.sort(key=lambda i: -certainty[i])
                    half = unlabelled[: -(-len(unlabelled) // 2)]
                    tied = [{i, j} for i, j in self.pairs]
                    chosen = [
                        i for n, i in enumerate(half) if not any({i, j} in tied for j in half[:n])
                    ]
                else:
                    claim = self.draw_claim(claim_key, labels)
                    chosen = [claim]
                proposal = list(labels)
                for i in chosen:
                    options = self.conditionals(labels)[i]
                    if is_completing:
                        given = [[*labels[:i], y, *labels[i + 1 :]] for y in range(len(options))]
                        options = options - [1e3 * len(self.violated(one)) for one in given]
                    proposal[i] = int(np.argmax(options))
                proposal, proposed = self.consistency_fix(fix_key, proposal)
                delta = proposed - current
                chance = float(jax.random.uniform(accept_key))
                is_accepted = is_completing or bool(
                    delta > 0 or chance < math.exp(delta / self.temperature(n))
                )
                if is_accepted:
                    labels, current = proposal, proposed
            history.append((claim, current, is_accepted, self.num_labelled(labels)))
            if best is None or (self.num_labelled(labels), current) > (
                self.num_labelled(best[0]),
                best[1],
            ):
                best = (labels, current)
            n += 1
        return history, best[0]


@pytest.mark.parametrize("initial_temperature", [0.1, 2.0])
@pytest.mark.parametrize("make_rules_of", [exactly_one_true, not_both_true])
def test_whole_run_is_algorithms_1_and_2(make_rules_of, initial_temperature):
    # The triangle 0, 1, 3 and a small alpha let fixes fail, so that other pairs are tried.
    rules = make_rules_of([(0, 1), (2, 5), (1, 3), (6, 7), (2, 4), (0, 3)])
    config = ICM(  # no field that the algorithms read has its default
        alpha=6.0,
        num_seeds=6,
        num_iterations=40,
        initial_temperature=initial_temperature,
        final_temperature=0.08,
        cooling_rate=0.3,
        max_fixes=3,
        partner_weight=5.0,
        num_chains=1,
    )
    num_rejected = num_fixes = num_completed = 0
    for seed in range(3):
        scorer = table_scorer(seed, num_claims=9, coupling=2.0)
        history, labels = NaiveICM(scorer, rules, config, jax.random.key(seed)).run()
        claims, utilities, is_accepted, num_labelled = map(list, zip(*history, strict=True))

        result = run_search(scorer, rules, config, jax.random.key(seed), progress=False)

        trace = result.trace
        assert trace.claim[:, 0].tolist() == claims
        assert trace.is_accepted[:, 0].tolist() == is_accepted
        assert trace.num_labelled[:, 0].tolist() == num_labelled
        np.testing.assert_allclose(trace.utility[:, 0], utilities, atol=1e-4)
        assert result.labels.tolist() == labels
        num_rejected += is_accepted.count(False)
        num_fixes += trace.num_fixes.sum()
        num_completed += result.diagnostics["num_completed"][0]
    # The equivalence would say little had these never happened.
    assert num_fixes > 0
    assert num_rejected > 0
    assert num_completed > 0 or initial_temperature > 1


@pytest.mark.parametrize("objective", ["log_prob", "log_odds"])
@pytest.mark.parametrize("make_rules_of", [exactly_one_true, not_both_true])
def test_reaches_the_enumerated_optimum(objective, make_rules_of):
    scorer, rules = planted_scorer(PLANTED), make_rules_of(PAIRS)
    labellings = jnp.asarray(all_labellings(10))
    utilities = np.asarray(utility(scorer(labellings), labellings, rules, 50.0, objective))
    np.testing.assert_array_equal(labellings[utilities.argmax()], PLANTED)
    found = [
        run_icm(scorer, rules, seed, objective=objective, num_chains=3).labels for seed in range(10)
    ]
    assert sum(np.array_equal(labels, PLANTED) for labels in found) >= 9


@pytest.mark.parametrize("objective", ["log_prob", "log_odds"])
def test_result_is_consistent_with_its_own_labels(objective):
    scorer, rules = table_scorer(1, 10), exactly_one_true(PAIRS)
    result = run_icm(scorer, rules, objective=objective, num_chains=3)
    logp = scorer(jnp.asarray(result.labels))
    np.testing.assert_allclose(result.label_log_probs, logp, atol=1e-6)
    np.testing.assert_allclose(result.log_odds, logp[:, 1] - logp[:, 0], atol=1e-5)
    np.testing.assert_allclose(result.marginals.sum(axis=-1), 1, atol=1e-6)
    expected = utility(logp, jnp.asarray(result.labels), rules, 50.0, objective)
    np.testing.assert_allclose(result.utility, expected, atol=1e-4)


@pytest.mark.slow
def test_more_than_two_options():
    scorer = table_scorer(5, 8, num_options=3, bias=1.0)
    result = run_icm(scorer, no_rules(3), alpha=20.0)
    labellings = jnp.asarray(all_labellings(8, 3))
    best = utility(scorer(labellings), labellings, no_rules(3), 20.0).max()
    assert set(result.labels.tolist()) <= {0, 1, 2}
    assert result.utility <= best + 1e-3
    own = np.take_along_axis(result.marginals, result.labels[:, None].astype(int), axis=1)[:, 0]
    np.testing.assert_allclose(result.log_odds, np.log(own / (1 - own)), atol=1e-3)


@pytest.mark.parametrize("log_ratio", [0.0, -0.1, -1.0, -3.0, math.inf, 0.5])
def test_acceptance_follows_its_rule(log_ratio):
    """Binomial test; false alarms below 1e-6 for each ratio."""
    num_draws = 20_000
    keys = jax.random.split(jax.random.key(7), num_draws)
    accepted = jax.vmap(metropolis_accept, (0, None))(keys, jnp.float32(log_ratio)).sum()
    expected = min(1.0, math.exp(log_ratio))
    assert stats.binomtest(int(accepted), num_draws, expected).pvalue > 1e-6


@pytest.mark.parametrize("log_ratio", [-math.inf, math.nan])
def test_what_is_never_accepted(log_ratio):
    keys = jax.random.split(jax.random.key(7), 1000)
    assert not jax.vmap(metropolis_accept, (0, None))(keys, jnp.float32(log_ratio)).any()


def test_temperature_is_the_schedule_of_the_paper():
    config = ICM(initial_temperature=8.0, final_temperature=2.0, cooling_rate=0.5)
    found = config.inverse_temperature(jnp.array([1, 10, 10_000]))
    expected = [1 / 8, (1 + 0.5 * math.log(10)) / 8, 1 / 2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # After 53 accepted moves the two defaults are far apart.
    for is_reference, temperature in ((False, 2.02), (True, 1.11)):
        beta = ICM(reference_deviations=is_reference).inverse_temperature(jnp.array(54))
        assert 1 / beta == pytest.approx(temperature, abs=0.01)


@pytest.mark.parametrize("is_hard", [False, True])
def test_clamped_labels_never_move(is_hard):
    scorer = table_scorer(2, 10, coupling=2.0)
    rules = exactly_one_true(PAIRS, is_hard)
    free = run_icm(scorer, rules, num_chains=3)
    clamped = np.full(10, -1, np.int8)
    clamped[[1, 2, 7]] = 1 - free.labels[[1, 2, 7]]  # against the model's own will
    result = run_icm(scorer, rules, clamped=clamped, num_chains=3)
    np.testing.assert_array_equal(result.labels[[1, 2, 7]], clamped[[1, 2, 7]])
    assert not np.isin(result.trace.claim, [1, 2, 7]).any()
    if is_hard:
        assert not violated_pairs(jnp.asarray(result.labels), rules).any()


def test_hard_rules_are_kept_where_soft_ones_are_not():
    # Opposite claims want to be True too: both True has the highest utility under a soft rule.
    soft, hard = (exactly_one_true(PAIRS, is_hard) for is_hard in (False, True))
    assert run_icm(all_true_scorer(), soft).labels.tolist() == [1] * 10
    result = run_icm(all_true_scorer(), hard)
    for i, j in PAIRS:
        assert result.labels[i] + result.labels[j] == 1
    assert (result.trace.num_violated == 0).all()


@pytest.mark.slow
def test_unlabelled_partners_are_drawn_first():
    scorer, rules = table_scorer(0, 20), exactly_one_true([(0, 1)])
    clamped = np.full(20, -1, np.int8)
    clamped[0] = 1
    fields = {"clamped": clamped, "num_seeds": 0, "num_iterations": 1}
    num_first = sum(run_icm(scorer, rules, s, **fields).trace.claim[1, 0] == 1 for s in range(60))
    # Weight 100 of 118 expects 51 of 60; without it, 3. Binomial tails below 1e-6 on both sides.
    assert 33 <= num_first <= 60
    num_even = sum(
        run_icm(scorer, rules, s, partner_weight=1.0, **fields).trace.claim[1, 0] == 1
        for s in range(60)
    )
    assert num_even <= 18


def test_unlabelled_claims_are_completed():
    scorer, rules = table_scorer(4, 12), exactly_one_true([(0, 1), (2, 3)], is_hard=True)
    result = run_icm(scorer, rules, num_seeds=3, num_iterations=2)
    num_completed = result.diagnostics["num_completed"][0]
    assert (result.labels >= 0).all()
    assert len(result.trace.utility) == 1 + 2 + num_completed
    # Each completion labels half of what is left, rounded up, but one claim of a pair at a time.
    left = 12 - result.trace.num_labelled[2:, 0]
    assert left[0] >= 12 - 3 - 2 - 2
    assert (left[1:] >= left[:-1] // 2).all()
    assert (left[1:] < left[:-1]).all()
    assert result.trace.is_accepted[3:].all()
    assert (result.trace.num_passes[3:] == 1).all()  # what is completed keeps the rules unfixed


def test_a_search_long_enough_completes_nothing():
    """By the coupon collector an even draw misses a claim in 5 % of searches: P(> 4 of 20) 3e-3."""
    scorer, rules = all_true_scorer(), exactly_one_true(PAIRS)
    num_completed = [
        run_icm(scorer, rules, seed).diagnostics["num_completed"][0] for seed in range(20)
    ]
    assert np.count_nonzero(num_completed) <= 4


def test_proposals_that_change_nothing_cost_no_pass():
    scorer = table_scorer(6, 10)
    result = run_icm(scorer, no_rules(), num_seeds=10, num_iterations=80)
    moves = result.trace.is_move[1:, 0]
    np.testing.assert_array_equal(result.trace.num_passes[1:, 0], moves.astype(np.int32))
    assert result.diagnostics["num_passes"] == 1 + moves.sum() < 60
    tokens_per_pass = scorer.tokens_per_pass(result.labels)
    assert result.diagnostics["num_tokens"] == tokens_per_pass * result.diagnostics["num_passes"]


def test_a_flip_that_was_turned_back_is_not_scored_again():
    """All want to be True, and a violated pair weighs more: every flip is turned back at last."""
    rules = exactly_one_true([(0, 1), (2, 3), (4, 5)])
    config = ICM(alpha=1.0, num_seeds=10, num_iterations=150, cooling_rate=0.99)
    history, labels = NaiveICM(all_true_scorer(), rules, config, jax.random.key(0)).run()
    result = run_search(all_true_scorer(), rules, config, jax.random.key(0), progress=False)
    assert result.labels.tolist() == labels
    np.testing.assert_allclose(result.trace.utility[:, 0], [row[1] for row in history], atol=1e-5)

    trace = jax.tree.map(lambda leaf: leaf[1:, 0], result.trace)
    turned_back: set[int] = set()
    num_saved = 0
    for n in np.flatnonzero(trace.is_flip):
        if trace.is_move[n]:
            turned_back = set()
            continue
        assert trace.num_fixes[n] == 1
        if trace.claim[n] in turned_back:
            assert trace.num_passes[n] == 0
            num_saved += 1
        else:
            assert trace.num_passes[n] > 0
        turned_back.add(int(trace.claim[n]))
    assert num_saved > 20


def test_tokens_are_those_of_the_claims_labelled_in_each_pass():
    scorer = table_scorer(6, 10, coupling=2.0)
    result = run_icm(scorer, exactly_one_true(PAIRS), num_seeds=2, num_chains=2)
    trace = result.trace
    before = np.concatenate([np.full((1, 2, 10), -1), trace.labels[:-1]])
    is_new = np.take_along_axis(before, np.maximum(trace.claim, 0)[..., None], axis=-1)[..., 0] < 0
    num_shown = np.where(trace.claim < 0, trace.num_labelled, (before >= 0).sum(axis=-1) + is_new)
    expected = (4 * 10 * num_shown * trace.num_passes).sum(axis=1)
    np.testing.assert_array_equal(result.tokens, expected)
    assert result.diagnostics["num_tokens"] == expected.sum()
    full = scorer.tokens_per_pass(result.labels) * result.diagnostics["num_passes"]
    assert expected.sum() < full


def test_a_step_of_a_finished_search_is_the_identity():
    scorer, rules = table_scorer(6, 10), jax.tree.map(jnp.asarray, exactly_one_true(PAIRS))
    for config in (ICM(num_iterations=3), ICM(num_iterations=3, reference_deviations=True)):
        key, clamped = jax.random.key(0), jnp.full(10, -1, jnp.int8)
        state, step = config.init(key, rules, clamped, num_options=2), jax.jit(config.step)
        for n in range(8):
            state, _ = step(jax.random.fold_in(key, n), state, scorer, rules)
        assert config.is_finished(state).all()
        after, info = step(jax.random.key(9), state, scorer, rules)
        jax.tree.map(np.testing.assert_array_equal, state, after)
        assert not info.is_flip.any()


def test_fix_scores_only_consistent_options():
    scorer = table_scorer(6, 10, coupling=2.0)
    one = run_icm(scorer, exactly_one_true([(0, 1)]), num_seeds=10, num_iterations=0, max_fixes=1)
    assert one.trace.num_passes[0, 0] in (1, 3)  # the seeds, and two consistent options
    none = run_icm(scorer, exactly_one_true([(0, 1)]), num_seeds=10, num_iterations=0, max_fixes=0)
    assert none.trace.num_passes.sum() == 1


def test_chain_does_not_depend_on_the_others():
    scorer, rules = table_scorer(8, 10, coupling=2.0), exactly_one_true(PAIRS)
    alone = run_icm(scorer, rules)
    together = run_icm(scorer, rules, num_chains=3)
    for name in alone.trace._fields:
        one = getattr(alone.trace, name)[:, 0]
        several = getattr(together.trace, name)[: len(one), 0]
        # Programs of other shapes round otherwise; what is drawn and chosen is the same.
        rtol = 1e-6 if np.issubdtype(one.dtype, np.floating) else 0
        np.testing.assert_allclose(several, one, rtol=rtol)
    utilities = together.diagnostics["chain_utilities"]
    assert len(set(together.trace.claim[5].tolist())) > 1
    assert together.utility == max(utilities)
    assert together.diagnostics["num_passes"] == sum(together.diagnostics["chain_passes"])


def test_chains_start_apart():
    rules, many = no_rules(), 1 + 2 + NUM_SPREAD
    for num_claims, chains in ((6, {}), (40, {}), (16, {"num_chains": many})):
        config = ICM(**chains)
        state = config.init(jax.random.key(0), rules, np.full(num_claims, -1, np.int8), 2)
        labels = np.asarray(state.current.labels)
        assert labels.shape == (chains.get("num_chains", 1), num_claims)
        seeds = np.sort(labels, axis=1)[:, -min(config.num_seeds, num_claims) :]
        assert set(seeds[0]) == {0, 1}  # all alike once in 32 random draws or fewer
        if chains:
            assert (seeds[1] == 1).all()
            assert (seeds[2] == 0).all()
            assert (labels[3:] >= 0).all()


def test_one_chain_by_default_keeps_a_search_of_few_claims_short():
    """35 chains once read 3.5 million tokens of 16 claims. A pass of the table is one token."""
    result = run_search(
        table_scorer(0, 16, coupling=2.0),
        exactly_one_true(np.arange(16).reshape(8, 2)),
        ICM(),
        jax.random.key(0),
        progress=False,
    )
    assert len(result.diagnostics["chain_passes"]) == 1
    assert result.diagnostics["num_passes"] <= 2 * ICM().num_steps(16)


def test_spread_labels_start_from_every_consistent_labelling_of_five_pairs_once():
    rules = exactly_one_true(np.arange(10).reshape(5, 2))
    clamped = np.full(10, -1, np.int8)
    starts = jax.jit(jax.vmap(spread_labels, in_axes=(None, 0, None, None, None)), static_argnums=4)
    labels = np.asarray(starts(jax.random.key(3), np.arange(NUM_SPREAD), clamped, rules, 2))
    assert (labels[:, ::2] != labels[:, 1::2]).all()
    assert len({tuple(row) for row in labels}) == NUM_SPREAD


def test_spread_labels_take_all_labels_of_the_first_claims_and_keep_answers():
    clamped = np.full(9, -1, np.int8)
    clamped[4], clamped[7] = 0, 2
    labels = np.stack(
        [
            spread_labels(jax.random.key(0), np.int32(index), clamped, no_rules(3), 3)
            for index in range(NUM_SPREAD)
        ]
    )
    assert (labels[:, 4] == 0).all()
    assert (labels[:, 7] == 2).all()
    assert labels.min() == 0
    assert labels.max() == 2
    # 27 of the 32 starts have every joint label of three claims once
    first = [
        trio
        for trio in itertools.combinations([0, 1, 2, 3, 5, 6, 8], 3)
        if len({tuple(row) for row in labels[:27, list(trio)]}) == 27
    ]
    assert len(first) == 1


def test_block_size_changes_nothing():
    scorer, rules = table_scorer(9, 10), exactly_one_true(PAIRS)
    one, other = (run_icm(scorer, rules, block_size=block_size) for block_size in (7, 16))
    jax.tree.map(np.testing.assert_array_equal, one.trace, other.trace)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.utility == other.utility


def test_pace_fills_its_seconds_and_doubles_at_most(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("icmjax.search.loop.time.perf_counter", lambda: clock[0])

    def sizes(seconds_of, num_blocks, block_size=16, first_step=0):
        pace, taken, n = Pace(block_size, seconds=5.0), [], first_step
        for _ in range(num_blocks):
            with pace.block(n) as size:
                clock[0] += sum(seconds_of(step) for step in range(n, n + size))
            taken.append(size)
            n += size
        return taken

    assert sizes(lambda n: 0.001, 7) == [1, 2, 4, 8, 1, 16, 16]  # none over a multiple of 16
    assert sizes(lambda n: 34.0, 4) == [1, 1, 1, 1]  # SmolLM2 with 40 claims
    assert sizes(lambda n: 1.0, 5) == [1, 2, 4, 5, 4]
    assert sizes(lambda n: 60.0 if n == 0 else 0.001, 4) == [1, 1, 2, 4]  # step 0 is compiled
    assert sizes(lambda n: 0.001, 3, first_step=17) == [1, 2, 4]
    assert BLOCK_SECONDS <= 10


def test_blocks_of_any_length_are_one_program_and_one_result(monkeypatch):
    scorer, rules = table_scorer(9, 10), exactly_one_true(PAIRS)
    expected = run_icm(scorer, rules)
    cache_size = run_block._cache_size()
    monkeypatch.setattr("icmjax.search.loop.BLOCK_SECONDS", 0.0)
    rng = np.random.default_rng(0)

    class Restless(Pace):
        @contextlib.contextmanager
        def block(self, num_steps):
            yield int(rng.integers(1, self.block_size + 1))

    monkeypatch.setattr("icmjax.search.loop.Pace", Restless)
    found = run_icm(scorer, rules)
    assert run_block._cache_size() == cache_size
    jax.tree.map(np.testing.assert_array_equal, found.trace, expected.trace)
    np.testing.assert_array_equal(found.label_log_probs, expected.label_log_probs)


class Interrupted:
    """A run store of a search that is interrupted in the midst of a block or of a save."""

    def __init__(self, run, num_saves):
        self.run, self.num_saves, self.restore = run, num_saves, run.restore

    def save(self, *args):
        self.num_saves -= 1
        if self.num_saves < 0:
            raise KeyboardInterrupt
        self.run.save(*args)


@pytest.mark.parametrize("where", ["before a save", "within a file", "before its renaming"])
def test_ctrl_c_goes_through_and_leaves_the_last_checkpoint_whole(where, tmp_path, monkeypatch):
    claims = claims_from_rows(
        [
            {"question": f"Question {i // 2}?", "choice": "yn"[i % 2], "consistency_id": i // 2}
            for i in range(10)
        ],
        rule="exactly_one_true",
    )
    scorer, config, key = table_scorer(9, 10), ICM(), jax.random.key(0)
    configuration = search_configuration(scorer, claims, config, key)
    expected = run_search(scorer, claims.rules, config, key, progress=False)
    with open_run(tmp_path / "run", claims, configuration) as run, monkeypatch.context() as patch:
        store = Interrupted(run, 3)
        if where != "before a save":
            store, name = run, "fsync" if where == "within a file" else "replace"
            write, calls = getattr(os, name), []

            def write_or_stop(*args, **named):
                calls.append(name)
                if len(calls) > 5:
                    raise KeyboardInterrupt
                return write(*args, **named)

            patch.setattr(os, name, write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run_search(scorer, claims.rules, config, key, run=store, progress=False)
    with open_run(tmp_path / "run", claims, configuration, resume=True) as run:
        num_before = len(run.restore(config.init(key, claims.rules, np.full(10, -1), 2))[1])
        found = run_search(scorer, claims.rules, config, key, run=run, progress=False)
    assert num_before >= 2
    jax.tree.map(np.testing.assert_array_equal, found.trace, expected.trace)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_a_search_tells_how_far_it_is(capfd):
    scorer, rules = table_scorer(9, 10, delay=200), exactly_one_true(PAIRS)
    run_search(scorer, rules, ICM(), jax.random.key(0), progress=True)
    shown = capfd.readouterr().err
    assert re.search(r"search: step (\d+) of \1, U -?\d+\.\d{3}, .*\d+ s\n$", shown), shown


def test_a_result_is_shown_in_a_line():
    result = run_icm(table_scorer(9, 10), exactly_one_true(PAIRS))
    assert "N = 10" in repr(result)
    assert "U = " in repr(result)
    assert len(repr(result)) < 200
    many = result._replace(labels=np.arange(100, dtype=np.int8), utility=-1e30)
    assert len(repr(many)) < 200


def test_step_is_traced_and_compiled_once():
    num_traces = 0

    class CountingICM(ICM):
        def step(self, *args):
            nonlocal num_traces
            num_traces += 1
            return super().step(*args)

    scorer, rules = table_scorer(9, 10), exactly_one_true(PAIRS)
    config = CountingICM(
        block_size=7, num_iterations=40, num_chains=1
    )  # the last block has 6 steps
    cache_size = run_block._cache_size()
    for seed in range(3):
        run_search(scorer, rules, config, jax.random.key(seed), progress=False)
    assert num_traces == 1
    assert run_block._cache_size() == cache_size + 1


def test_scores_that_are_not_finite_name_their_claims():
    scorer = table_scorer(0, 10)
    scorer = dataclasses.replace(scorer, bias=scorer.bias.at[4, 1].set(jnp.nan))
    with pytest.raises(ScoreError, match="claim 4") as caught:
        run_icm(scorer, exactly_one_true(PAIRS))
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("progress", [False, True])
def test_collapse_is_reported(progress, capfd):
    rules, config = exactly_one_true(PAIRS), ICM(num_chains=1)
    result = run_search(all_true_scorer(), rules, config, jax.random.key(0), progress=progress)
    assert result.diagnostics["is_collapsed"]
    assert result.diagnostics["label_shares"] == [0.0, 1.0]
    (warning,) = result.diagnostics["warnings"]
    for words in ("100% of the labels are the same", "--rule", "--algorithm marginals"):
        assert words in warning
    output = capfd.readouterr()
    assert "of the labels" not in output.out + output.err  # the command line prints it
    assert (output.err != "") == progress
    mixed = run_icm(planted_scorer(PLANTED), rules)
    assert not mixed.diagnostics["is_collapsed"]
    assert mixed.diagnostics["warnings"] == []


@pytest.mark.parametrize(
    ("clamped", "match"),
    [
        (np.zeros(5, np.int8), "one entry for each claim"),
        (np.full(6, -1.0), "one entry for each claim"),
        (np.array([2, -1, -1, -1, -1, -1]), "one of 0 to 1"),
        (np.zeros(6, np.int8), "free"),
        (np.array([1, 1, -1, -1, -1, -1]), "hard pair rules"),
    ],
)
def test_clamped_labels_that_do_not_fit(clamped, match):
    with pytest.raises(ClaimsError, match=match):
        run_icm(table_scorer(0, 6), exactly_one_true([(0, 1)], is_hard=True), clamped=clamped)


def test_rules_that_do_not_fit():
    with pytest.raises(ClaimsError, match=r"rules\.pairs") as caught:
        run_icm(table_scorer(0, 6, num_options=3), exactly_one_true([(0, 6)]))
    assert len(caught.value.faults) == 2


def test_config_faults_are_reported_together():
    with pytest.raises(InputError) as caught:
        ICM(alpha=0.0, objective="energy", num_chains=0)
    assert len(caught.value.faults) == 3
