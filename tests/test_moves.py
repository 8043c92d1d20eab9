"""Every kernel leaves its law invariant: πP = π by enumeration, from its own probabilities."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scorers import table_scorer
from transitions import Space, accepted, check_invariant

from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import ClaimsError
from icmjax.search import labels_of, make_units
from icmjax.search.ladder import swap_log_ratio, swap_neighbours
from icmjax.search.moves import (
    FLIP,
    MIRROR,
    RESAMPLE,
    TURN,
    Move,
    draw_flips,
    draw_resample,
    draw_turned,
    flip_log_weights,
    flips_log_prob,
    mirrored,
    move_log_prob,
    move_log_ratio,
    resample_log_prob,
    turnable_share,
)
from icmjax.search.screening import screening_correction

BETA = 0.8


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def make_space(kind, seed=0):
    """Free claims; a hard pair, a soft pair and clamped claims; three options; a hard triple."""
    free, clamped, num_options = np.full(4, -1, np.int8), np.full(4, -1, np.int8), 2
    clamped[3] = 1
    table, excluding = penalty_table("exactly_one_true"), penalty_table("not_both_true")
    rules, start = {
        "free": (no_rules(), free),
        "hard": (make_rules([(0, 1), (2, 3)], table, [True, False]), free),
        "clamped": (make_rules([(0, 1)], table, True), clamped),
        "triple": (make_rules([(0, 1), (1, 2), (0, 2)], excluding, True), free),
        "options": (no_rules(3), free[:3]),
    }[kind]
    num_options = rules.penalties.shape[-1]
    scorer = table_scorer(seed, len(start), num_options, coupling=3.0, bias=1.0)
    return Space(make_units(rules, start, num_options), scorer, rules)


def moves_between(space, pairs, kind, order=(0,), is_resampled=None):
    """The moves x → x' of one kind and auxiliary numbers, and their proposal probabilities."""
    num_moves, num_units = len(pairs[0]), space.assignments.shape[1]
    mask = np.zeros(num_units, bool) if is_resampled is None else is_resampled
    return Move(
        old=jnp.asarray(space.assignments[pairs[0]]),
        new=jnp.asarray(space.assignments[pairs[1]]),
        kind=jnp.full(num_moves, kind),
        order=jnp.tile(jnp.asarray(order, jnp.int32), (num_moves, 1)),
        num_flips=jnp.full(num_moves, len(order)),
        is_resampled=jnp.tile(jnp.asarray(mask), (num_moves, 1)),
    )


@functools.partial(jax.jit, static_argnames="balancing")
def log_probs(moves, from_scores, to_scores, guide, balancing):
    def one(move, old, new):
        log_prob = move_log_prob(move, old, guide, balancing)
        return log_prob, move_log_ratio(move, old, new, guide, balancing)

    return jax.vmap(one)(moves, from_scores, to_scores)


def transition_matrix(space, pairs, moves, balancing="barker", guide=1.5):
    proposed, log_ratio = np.zeros((2, len(space), len(space)))
    from_scores, to_scores = space.scores[pairs[0]], space.scores[pairs[1]]
    log_prob, ratio = log_probs(moves, from_scores, to_scores, guide, balancing)
    proposed[tuple(pairs)] = np.exp(log_prob)
    log_ratio[tuple(pairs)] = BETA * (space.utility[pairs[1]] - space.utility[pairs[0]]) + ratio
    return proposed, log_ratio


def flip_matrix(space, num_flips, balancing="barker", guide=1.5, is_padded=False):
    """Sum over the orders in which units may be drawn; each order is a kernel of its own."""
    movable = np.flatnonzero(np.asarray(space.units.is_allowed).sum(axis=1) > 1)
    total, matrix = np.zeros(len(space)), np.zeros((len(space), len(space)))
    for order in itertools.permutations(movable.tolist(), num_flips):
        pairs = space.neighbours(order)
        moves = moves_between(space, pairs, FLIP, order)
        if is_padded:  # the units drawn after the last flip have no part in it
            rest = [unit for unit in movable.tolist() if unit not in order]
            padded = jnp.asarray([*order, *rest], jnp.int32)
            moves = moves._replace(order=jnp.tile(padded, (len(pairs[0]), 1)))
        proposed, log_ratio = transition_matrix(space, pairs, moves, balancing, guide)
        total += proposed.sum(axis=1)
        matrix += accepted(proposed, log_ratio) * (1 - np.eye(len(space)))
    np.testing.assert_allclose(total, 1, atol=1e-12)  # flips are drawn, and never a null one
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


@pytest.mark.slow
@pytest.mark.parametrize("balancing", ["barker", "sqrt"])
@pytest.mark.parametrize(
    ("kind", "num_flips"),
    [("free", 1), ("free", 3), ("hard", 1), ("clamped", 2), ("triple", 2), ("options", 2)],
)
def test_flips_are_invariant(kind, num_flips, balancing):
    space = make_space(kind)
    matrix = flip_matrix(space, num_flips, balancing)
    check_invariant(matrix, space.law(BETA))
    padded = flip_matrix(space, num_flips, balancing, is_padded=True)
    np.testing.assert_allclose(padded, matrix, atol=1e-12)


def test_at_no_guidance_only_allowed_assignments_are_drawn():
    scores = jnp.asarray([[0.0, -jnp.inf, 1.0], [2.0, 0.0, -jnp.inf]])
    old, is_resampled = jnp.zeros(2, jnp.int32), jnp.ones(2, bool)
    keys = jax.random.split(jax.random.key(0), 64)
    drawn = jax.vmap(lambda key: draw_resample(key, scores, old, is_resampled, 0.0))(keys)
    assert set(map(tuple, drawn.tolist())) == {(0, 0), (0, 1), (2, 0), (2, 1)}
    log_prob = resample_log_prob(scores, drawn[0], is_resampled, 0.0)
    np.testing.assert_allclose(log_prob, 2 * np.log(0.5))


def test_a_correction_left_out_is_noticed():
    space = make_space("free")
    pairs = space.neighbours([0])
    moves = moves_between(space, pairs, FLIP, (0,))
    proposed, _ = transition_matrix(space, pairs, moves)
    difference = space.utility[None, :] - space.utility[:, None]
    law = space.law(BETA)
    assert np.abs(law @ accepted(proposed, BETA * difference) - law).max() > 1e-3


@pytest.mark.parametrize("kind", ["free", "hard", "options"])
def test_resampling_is_invariant(kind):
    space = make_space(kind)
    num_units = space.assignments.shape[1]
    for mask in itertools.product([False, True], repeat=num_units):
        chosen, total, matrix = np.flatnonzero(mask), 0.0, 0.0
        for size in range(len(chosen) + 1):
            for units in itertools.combinations(chosen, size):
                pairs = space.neighbours(units)
                moves = moves_between(space, pairs, RESAMPLE, is_resampled=np.array(mask))
                proposed, log_ratio = transition_matrix(space, pairs, moves)
                total = total + proposed.sum(axis=1)
                matrix = matrix + accepted(proposed, log_ratio) * (1 - np.eye(len(space)))
        np.testing.assert_allclose(total, 1, atol=1e-12)
        if any(mask):
            np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
            check_invariant(matrix, space.law(BETA))


@pytest.mark.parametrize("kind", ["free", "hard", "triple", "options"])
def test_mirroring_is_invariant(kind):
    space = make_space(kind)
    opposite = np.asarray(jax.vmap(lambda a: mirrored(space.units, a))(space.assignments))
    index = np.array([space.index[tuple(row)] for row in opposite.tolist()])
    np.testing.assert_array_equal(index[index], np.arange(len(space)))
    pairs = np.stack([np.arange(len(space)), index])
    moves = moves_between(space, pairs, MIRROR)
    check_invariant(accepted(*transition_matrix(space, pairs, moves)), space.law(BETA))


def test_turning_soft_pairs_round_is_invariant():
    space = make_space("hard")
    opposite = np.asarray(jax.vmap(lambda a: mirrored(space.units, a))(space.assignments))
    is_soft = np.asarray(space.units.is_allowed).sum(axis=1) == 4
    turned = np.where(is_soft, opposite, space.assignments)
    pairs = np.stack([np.arange(len(space)), [space.index[tuple(row)] for row in turned.tolist()]])
    assert (pairs[0] != pairs[1]).all()
    moves = moves_between(space, pairs, TURN)
    check_invariant(accepted(*transition_matrix(space, pairs, moves)), space.law(BETA))


def test_the_units_to_turn_are_drawn_evenly_of_soft_pairs():
    """Chi-square of one alone, of two together and of how many; false alarms 1e-6 each."""
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
    rules = make_rules(pairs, penalty_table("exactly_one_true"), [False, True, False, False])
    units = make_units(rules, np.full(9, -1, np.int8), 2)
    is_soft = np.asarray(units.is_allowed).sum(axis=1) == 4
    assert is_soft.sum() == 3
    keys = jax.random.split(jax.random.key(2), 3000)
    drawn = np.asarray(jax.vmap(lambda key: draw_turned(key, units))(keys))
    assert not drawn[:, ~is_soft].any()
    num_turned = drawn.sum(axis=1)
    for size, share in ((1, 1 / 2), (2, 1 / 2)):
        of_size = drawn[num_turned == size]
        assert stats.binomtest(len(of_size), len(drawn), share).pvalue > 1e-6
        _, counts = np.unique(of_size, axis=0, return_counts=True)
        assert len(counts) == 3
        assert stats.chisquare(counts).pvalue > 1e-6
    assert turnable_share(units) == pytest.approx(6 / 9)
    without = make_units(no_rules(), np.full(3, -1, np.int8), 2)
    assert not draw_turned(keys[0], without).any()
    one = make_units(
        make_rules(pairs[:1], penalty_table("exactly_one_true"), False), np.full(3, -1, np.int8), 2
    )
    assert all(draw_turned(key, one).sum() == 1 for key in keys[:20])
    assert turnable_share(without) == 0


@pytest.mark.parametrize("parity", [0, 1])
def test_swaps_are_invariant(parity):
    space = make_space("clamped")  # few states, of which three replicas have all triples
    ladder = np.array([2.0, 0.7, 0.1])
    triples = np.array(list(itertools.product(range(len(space)), repeat=3)))
    index = {tuple(row): i for i, row in enumerate(triples.tolist())}
    log_ratio = np.asarray(swap_log_ratio(jnp.asarray(ladder), jnp.asarray(space.utility[triples])))
    is_swapped = jnp.arange(2) % 2 == parity
    order = np.asarray(swap_neighbours(jnp.arange(3), is_swapped))
    assert sorted(order) == [0, 1, 2]
    assert order[parity] == parity + 1
    to = np.array([index[tuple(row)] for row in triples[:, order].tolist()])
    proposed, ratios = np.zeros((2, len(triples), len(triples)))
    proposed[np.arange(len(triples)), to] = 1.0
    ratios[np.arange(len(triples)), to] = log_ratio[:, parity]
    laws = [space.law(beta) for beta in ladder]
    law = np.prod([laws[r][triples[:, r]] for r in range(3)], axis=0)
    check_invariant(accepted(proposed, ratios), law)


@pytest.mark.parametrize("num_screenings", [1, 3])
@pytest.mark.parametrize("kind", ["free", "hard"])
def test_delayed_acceptance_is_invariant(kind, num_screenings):
    """Moves by a cheap scorer that knows little of the exact one."""
    exact, cheap = make_space(kind, seed=0), make_space(kind, seed=5)
    screened = np.linalg.matrix_power(flip_matrix(cheap, 1), num_screenings)
    check_invariant(screened, cheap.law(BETA))
    assert np.abs(exact.law(BETA) @ screened - exact.law(BETA)).max() > 1e-3
    difference = exact.utility[None, :] - exact.utility[:, None]
    correction = screening_correction(cheap.utility[:, None], cheap.utility[None, :])
    check_invariant(accepted(screened, BETA * (difference + correction)), exact.law(BETA))


@pytest.mark.parametrize("num_flips", [1, 2])
def test_flips_are_drawn_with_their_probability(num_flips):
    """Chi-square; false alarms 1e-6."""
    space, num_draws = make_space("hard"), 20_000
    start = jnp.asarray(space.assignments[3])
    weights = flip_log_weights(space.scores[3], start, 1.5)
    keys = jax.random.split(jax.random.key(1), num_draws)
    new, order = jax.vmap(lambda key: draw_flips(key, weights, start, num_flips, 2))(keys)
    order = order[:, :num_flips]
    drawn, first, counts = np.unique(
        np.concatenate([new, order], axis=1), axis=0, return_index=True, return_counts=True
    )
    log_prob = jax.vmap(lambda n, o: flips_log_prob(weights, n, o, num_flips))(
        new[first], order[first]
    )
    expected = num_draws * np.exp(np.asarray(log_prob))
    assert len(drawn) > 2
    np.testing.assert_allclose(expected.sum(), num_draws, rtol=1e-3)  # rare ones are not seen
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6


def test_resamples_are_drawn_with_their_probability():
    """Chi-square; false alarms 1e-6."""
    space, num_draws = make_space("hard"), 20_000
    start, mask = jnp.asarray(space.assignments[1]), jnp.array([True, False])
    keys = jax.random.split(jax.random.key(1), num_draws)
    new = jax.vmap(lambda key: draw_resample(key, space.scores[1], start, mask, 0.5))(keys)
    drawn, counts = np.unique(new, axis=0, return_counts=True)
    log_prob = jax.vmap(lambda n: resample_log_prob(space.scores[1], n, mask, 0.5))(drawn)
    expected = num_draws * np.exp(np.asarray(log_prob))
    assert len(drawn) == 2
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6


def test_units_are_the_consistent_labellings():
    """Against all labellings, filtered by the hard rules."""
    table = penalty_table("not_both_true")
    rules = make_rules([(0, 3), (3, 4), (1, 2)], table, [True, True, False])
    clamped = np.array([-1, -1, -1, -1, 0], np.int8)
    units = make_units(rules, clamped, 2)
    counts = np.asarray(units.is_allowed).sum(axis=1)
    found = {
        tuple(np.asarray(labels_of(units, jnp.array(a), 5)).tolist())
        for a in itertools.product(*map(range, counts))
    }
    expected = {
        labels
        for labels in itertools.product([0, 1], repeat=5)
        if labels[4] == 0 and labels[0] + labels[3] < 2 and labels[3] + labels[4] < 2
    }
    assert found == expected
    assert sorted(np.asarray(units.penalties)[np.asarray(units.is_allowed)]) == [0] * 6 + [1]


def test_hard_rules_without_a_consistent_labelling_are_refused():
    triple = make_rules([(0, 1), (1, 2), (0, 2)], penalty_table("exactly_one_true"), True)
    with pytest.raises(ClaimsError, match="claims 0, 1, 2") as caught:
        make_units(triple, np.full(3, -1, np.int8), 2)
    assert "none" in str(caught.value)
    large = make_rules([(i, i + 1) for i in range(12)], penalty_table("not_both_true"), True)
    with pytest.raises(ClaimsError, match="more than 256"):
        make_units(large, np.full(13, -1, np.int8), 2)
