"""Chains of one accuracy: invariance by enumeration, constant counts, and coherence either way."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scorers import table_scorer
from transitions import Space, check_invariant

from icmjax.claims import violated_pairs
from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import InputError
from icmjax.scoring import utility
from icmjax.search import FixedAccuracy, make_units, run_search
from icmjax.search.base import acceptance_probability
from icmjax.search.fixed_accuracy import (
    Swap,
    draw_swap,
    exchange_log_ratio,
    kept_counts,
    random_assignment,
    swap_log_prob,
    swap_log_ratio,
)
from icmjax.search.loop import run_block
from icmjax.search.moves import flip_log_weights

TARGET = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1], np.int8)
PAIRS = make_rules([(0, 1), (2, 3), (4, 5)], penalty_table("exactly_one_true"))
FREE = np.full(4, -1, np.int8)
# Each is called for many shapes, and would be compiled operation by operation.
log_probs = jax.jit(jax.vmap(swap_log_prob, in_axes=(0, 0, None)))
log_ratios = jax.jit(jax.vmap(swap_log_ratio, in_axes=(0, 0, 0, None)))


def run(algorithm, rules=PAIRS, seed=0, scorer=None):
    scorer = scorer or table_scorer(1, 10, coupling=1.0)
    return run_search(scorer, rules, algorithm, jax.random.key(seed), progress=False)


def swap_matrix(space, counts, beta, guide):
    """All swaps of two units in either order, and single moves; a null move stays."""
    counts, num_units = jnp.asarray(counts), space.assignments.shape[1]
    weights = jax.vmap(lambda s, a: flip_log_weights(s, a, guide))(space.scores, space.assignments)
    matrix, total = np.zeros((len(space), len(space))), np.zeros(len(space))
    kept = np.asarray(counts)[np.arange(num_units), space.assignments].sum(axis=1)
    orders = list(itertools.permutations(range(num_units), 2))
    singles = [(unit, (unit + 1) % num_units) for unit in range(num_units)]
    for units, is_single in [(o, False) for o in orders] + [(s, True) for s in singles]:
        pairs = space.neighbours(units[:1] if is_single else units)
        is_kept = (kept[pairs[0]] == kept[pairs[1]]).all(axis=1)
        if not is_single:
            # The first move by itself must change a count; else it is the whole move.
            own = np.asarray(counts)[units[0], space.assignments[:, units[0]]]
            is_kept &= (own[pairs[0]] != own[pairs[1]]).any(axis=1)
        pairs = pairs[:, is_kept]
        num_moves = pairs.shape[1]
        swap = Swap(
            old=jnp.asarray(space.assignments[pairs[0]]),
            new=jnp.asarray(space.assignments[pairs[1]]),
            units=jnp.tile(jnp.asarray(units, jnp.int32), (num_moves, 1)),
            is_single=jnp.full(num_moves, is_single),
        )
        if not num_moves:
            continue
        log_prob = log_probs(swap, weights[pairs[0]], counts)
        ratio = log_ratios(swap, weights[pairs[0]], weights[pairs[1]], counts)
        ratio += beta * (space.utility[pairs[1]] - space.utility[pairs[0]])
        proposed = np.exp(np.asarray(log_prob))
        np.add.at(total, pairs[0], proposed)
        np.add.at(matrix, tuple(pairs), proposed * np.asarray(acceptance_probability(ratio)))
    assert total.max() < 1 + 1e-12
    np.fill_diagonal(matrix, matrix.diagonal() + 1 - matrix.sum(axis=1))
    return matrix, kept


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.8, -0.8])
@pytest.mark.parametrize(
    ("rules", "is_balanced"),
    [
        (no_rules(), True),
        (no_rules(), False),
        (make_rules([(0, 1), (2, 3)], penalty_table("exactly_one_true"), True), True),
        (make_rules([(0, 1)], penalty_table("not_both_true"), True), False),
        (no_rules(3), True),
    ],
    ids=["free", "unbalanced", "pairs", "excluding", "options"],
)
def test_moves_are_invariant_within_every_class(rules, is_balanced, beta):
    """π is exp(β U) on the labellings of one number of errors, for each such class."""
    num_options = rules.penalties.shape[-1]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        scorer = table_scorer(0, 4, num_options, coupling=3.0, bias=1.0)
        space = Space(make_units(rules, FREE, num_options), scorer, rules)
        target = np.array([1, 0, 0, 1])
        counts = kept_counts(space.units, target, num_options, is_balanced)
        matrix, kept = swap_matrix(space, counts, beta, 1.5 * beta)
    num_moving = 0
    for row in np.unique(kept, axis=0):
        members = np.flatnonzero((kept == row).all(axis=1))
        inside = matrix[np.ix_(members, members)]
        np.testing.assert_allclose(inside.sum(axis=1), 1, atol=1e-12)  # no way out
        weights = np.exp(beta * (space.utility[members] - space.utility[members].mean()))
        if inside.trace() < len(members) - 0.01:
            check_invariant(inside, weights / weights.sum())
            num_moving += 1
    assert num_moving > 0


def test_swaps_are_drawn_with_their_probability():
    """Chi-square; false alarms 1e-6."""
    rules, num_draws = no_rules(), 20_000
    units = make_units(rules, FREE, 2)
    counts = jnp.asarray(kept_counts(units, np.array([1, 0, 0, 1]), 2, False))
    start = jnp.array([0, 1, 0, 1])
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    weights = flip_log_weights(scores, start, 1.0)
    keys = jax.random.split(jax.random.key(1), num_draws)
    swaps = jax.vmap(lambda key: draw_swap(key, weights, counts, start))(keys)
    rows, first, seen = np.unique(swaps.units, axis=0, return_index=True, return_counts=True)
    log_prob = jax.vmap(lambda s: swap_log_prob(s, weights, counts))(
        jax.tree.map(lambda leaf: leaf[first], swaps)
    )
    expected = num_draws * np.exp(np.asarray(log_prob, np.float64))
    assert len(rows) == 8  # two errors and two right ones, in either order
    np.testing.assert_allclose(expected.sum(), num_draws, rtol=1e-4)
    assert stats.chisquare(seen, expected / expected.sum() * num_draws).pvalue > 1e-6


@pytest.mark.slow
def test_errors_balance_and_pairs_never_change():
    algorithm = FixedAccuracy(
        target=TARGET, num_errors=(0, 2, 4, 4), inverse_temperatures=(0.1, -0.1, 0.0, 0.1)
    )
    result = run(algorithm)
    labels = result.trace.labels
    errors = (labels != TARGET).sum(axis=-1)
    assert (errors == np.array([0, 2, 4, 4])).all()
    assert (labels.sum(axis=-1) == TARGET.sum()).all()
    assert not np.asarray(violated_pairs(jnp.asarray(labels), PAIRS)).any()
    assert result.diagnostics["chain_num_errors"] == [0, 2, 4, 4]
    assert (np.array(result.diagnostics["chain_labels"]) == labels[-1]).all()
    assert result.labels.tolist() == labels[-1, 0].tolist()
    moved = (labels[1:] != labels[:-1]).any(axis=-1).sum(axis=0)
    assert moved[0] == 0
    assert (moved[1:] > 5).all()


def test_exchanges_are_in_detailed_balance():
    """π(x, y) a(x, y) = π(y, x) a(y, x) for the joint law of two chains, over all pairs of U."""
    utilities, betas = np.array([-3.0, -1.0, 0.5, 2.0]), np.array([1.5, -0.5])
    for one, other in itertools.product(utilities, repeat=2):
        ratios = [
            np.asarray(exchange_log_ratio(jnp.asarray(betas), jnp.array(pair), jnp.array([1, 0])))
            for pair in ([one, other], [other, one])
        ]
        assert ratios[0][0] == ratios[0][1]  # both chains decide alike
        joint = [betas @ np.array(pair) for pair in ([one, other], [other, one])]
        flows = [log_pi + min(0.0, ratio[0]) for log_pi, ratio in zip(joint, ratios, strict=True)]
        assert flows[0] == pytest.approx(flows[1])


@pytest.mark.slow
def test_exchanges_keep_every_chains_law():
    """Mean U of each β against the exact law of all labellings of two errors in four pairs."""
    pairs = make_rules([(0, 1), (2, 3), (4, 5), (6, 7)], penalty_table("exactly_one_true"), True)
    scorer, target, betas = table_scorer(3, 8, coupling=3.0), np.array([1, 0] * 4), (-1.5, 0.0, 1.5)
    wrong = list(itertools.combinations(range(4), 2))
    labels = np.tile(target, (len(wrong), 1))
    for row, chosen in zip(labels, wrong, strict=True):
        for pair in chosen:
            row[2 * pair : 2 * pair + 2] = [0, 1]
    utilities = np.asarray(utility(scorer(jnp.asarray(labels, jnp.int8)), labels, pairs))
    assert np.ptp(utilities) > 1
    weights = np.exp(np.array(betas)[:, None] * (utilities - utilities.mean()))
    expected = (weights * utilities).sum(1) / weights.sum(1)
    # Twenty ladders of one program; the mean of all their draws, with its error over ladders.
    algorithm = FixedAccuracy(
        target=target, num_errors=4, inverse_temperatures=betas * 20, num_iterations=128
    )
    trace = run(algorithm, rules=pairs, scorer=scorer).trace
    means = trace.utility[64:].mean(axis=0).reshape(20, 3)
    errors = means.std(axis=0, ddof=1) / 20**0.5
    assert (np.abs(means.mean(axis=0) - expected) < 5 * errors + 1e-3).all()


@pytest.mark.slow
def test_exchanges_find_what_a_chain_alone_does_not():
    """A flat U but for one labelling: from a plateau, informed moves do not see the way to it."""

    class Needle(NamedTuple):
        target: jax.Array

        @property
        def num_claims(self):
            return 16

        def __call__(self, labels):
            is_found = jnp.all(labels == self.target, axis=-1)[..., None, None]
            flat = jnp.full((*labels.shape, 2), jnp.log(0.5))
            options = jnp.arange(2, dtype=labels.dtype)
            own = jnp.where(self.target[:, None] == options, jnp.log(0.95), jnp.log(0.05))
            return jnp.where(is_found, own, flat)

        def tokens_per_pass(self, labels):
            return 0

    pairs = make_rules([(i, i + 1) for i in range(0, 16, 2)], penalty_table("exactly_one_true"))
    target = np.tile([1, 0], 8).astype(np.int8)
    needle = target.copy()
    needle[:6] = 1 - needle[:6]
    betas, num_ladders = (0.0, 0.05, 0.2, 2.0), 8
    found = {}
    for exchanges in (False, True):
        algorithm = FixedAccuracy(
            target=target,
            num_errors=6,
            inverse_temperatures=betas * num_ladders,
            exchanges=exchanges,
            num_iterations=96,
        )
        labels = run(algorithm, rules=pairs, scorer=Needle(jnp.asarray(needle))).trace.labels[-1]
        found[exchanges] = (labels.reshape(num_ladders, 4, 16)[:, 3] == needle).all(-1).sum()
        assert ((labels != target).sum(-1) == 6).all()
    # One of 56 labellings: a chain of small β passes by it, and one of large β keeps it for good.
    assert found[True] == num_ladders
    assert found[True] >= found[False]


def test_what_need_not_be_kept_is_not():
    algorithm = FixedAccuracy(
        target=TARGET,
        num_errors=3,
        inverse_temperatures=(0.0,),
        is_balanced=False,
        keeps_pairs=False,
    )
    labels = run(algorithm).trace.labels[:, 0]
    assert ((labels != TARGET).sum(axis=1) == 3).all()
    assert len(set(labels.sum(axis=1).tolist())) > 1
    assert np.asarray(violated_pairs(jnp.asarray(labels), PAIRS)).any()


def test_coherence_is_driven_up_and_down_at_one_accuracy():
    algorithm = FixedAccuracy(
        target=TARGET,
        num_errors=4,
        inverse_temperatures=(-2.0,) * 3 + (0.0,) * 3 + (2.0,) * 3,
        num_iterations=150,
    )
    trace = run(algorithm).trace
    low, middle, high = trace.utility[75:].mean(axis=0).reshape(3, 3).mean(axis=1)
    assert low < middle - 2 < high - 4


def test_targets_differ_by_chain_and_share_one_program():
    targets = np.stack([TARGET, 1 - TARGET])
    config = FixedAccuracy(target=targets, num_errors=(2, 4), inverse_temperatures=(1.0, 1.0))
    labels = run(config).trace.labels
    assert ((labels != targets).sum(axis=-1) == [2, 4]).all()
    cache_size = run_block._cache_size()
    other = FixedAccuracy(target=TARGET, num_errors=(6, 0), inverse_temperatures=(-1.0, 0.0))
    labels = run(other, seed=1).trace.labels
    assert ((labels != TARGET).sum(axis=-1) == [6, 0]).all()
    assert run_block._cache_size() == cache_size


def test_starts_are_uniform():
    """Chi-square over all labellings of two errors in six free claims; false alarms 1e-6."""
    units = make_units(no_rules(), np.full(6, -1, np.int8), 2)
    counts = kept_counts(units, np.zeros(6, int), 2, False)
    rng = np.random.default_rng(0)
    drawn = [
        tuple(random_assignment(rng, counts, np.asarray(units.is_allowed), (2,)))
        for _ in range(3000)
    ]
    _, seen = np.unique(drawn, axis=0, return_counts=True)
    assert len(seen) == 15
    assert stats.chisquare(seen).pvalue > 1e-6


def test_what_cannot_be_is_refused():
    all_pairs = make_rules([(i, i + 1) for i in range(0, 10, 2)], penalty_table("exactly_one_true"))
    with pytest.raises(InputError, match="none with 3 errors"):
        run(FixedAccuracy(target=[1, 0] * 5, num_errors=3), all_pairs)
    with pytest.raises(InputError, match="4 labels up to 1, 10 claims"):
        run(FixedAccuracy(target=[1, 0] * 2, num_errors=2))
    with pytest.raises(InputError) as caught:
        FixedAccuracy(target=TARGET, num_errors=(1, 2), inverse_temperatures=(np.inf,))
    assert len(caught.value.faults) == 2
