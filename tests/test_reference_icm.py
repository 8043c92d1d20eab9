"""ICM's switch for what the authors' code does differently from their paper.

Whole searches are held to `benchmarks/measure/reference.py`, which has the published control flow
on Python lists: both meet the same chances. Then each deviation shows by itself.
"""

import collections
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scorers import table_scorer

from icmjax.claims.consistency import make_rules, no_rules, penalty_table, rules_from_groups
from icmjax.errors import ClaimsError
from icmjax.scoring import utility
from icmjax.search import ICM, Bootstrap, run_search
from icmjax.search.seeds import first_of_groups, reference_seeds, tied_groups

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

NOT_BOTH = make_rules([(0, 1), (2, 3), (4, 5), (6, 7)], penalty_table("not_both_true"))


def run(scorer, rules, seed=0, is_reference=True, **fields):
    config = ICM(reference_deviations=is_reference, num_chains=1, **fields)
    return run_search(scorer, rules, config, jax.random.key(seed), progress=False)


@pytest.fixture(scope="module")
def reference():
    """The published control flow."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from measure import reference as module

        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


class SameChance:
    """What a search of one chain draws, from the keys that it gives to its steps."""

    def __init__(self, rng_key, groups):
        init_key, self.step_key = jax.random.split(rng_key)
        self.order_key, self.labels_key = jax.random.split(jax.random.fold_in(init_key, 0))
        self.num_claims = len(groups)
        self.firsts = np.unique(first_of_groups(groups))

    def begin(self, step):
        key = jax.random.fold_in(jax.random.fold_in(self.step_key, step), 0)
        self.claim_key, self.fix_key, self.accept_key = jax.random.split(key, 3)
        self.num_pairs = 0

    def group_order(self, num_groups):
        assert num_groups == len(self.firsts)
        priority = np.asarray(jax.random.uniform(self.order_key, (self.num_claims,)))
        return np.argsort(priority[self.firsts]).tolist()

    def seed_labels(self, num_seeds):
        labels = jnp.arange(num_seeds, dtype=jnp.int32) % 2
        return np.asarray(jax.random.permutation(self.labels_key, labels)).tolist()

    def claim(self, weights):
        return int(jax.random.categorical(self.claim_key, jnp.log(jnp.array(weights))))

    def pair(self, untried):
        self.num_pairs += 1
        weights = np.full(self.total, -np.inf, np.float32)
        weights[untried] = 0.0
        key = jax.random.fold_in(self.fix_key, self.num_pairs)
        return int(jax.random.categorical(key, jnp.asarray(weights)))

    def uniform(self):
        return float(jax.random.uniform(self.accept_key))


ANSWERS = [*"aabc", *"abab", *"ccca"]  # of three questions, four solutions each
GROUPS = np.repeat(np.arange(3), 4)
CASES = {
    "opposite pairs": (
        make_rules(np.arange(12).reshape(6, 2), penalty_table("exactly_one_true")),
        None,
    ),
    "answers of questions": (
        rules_from_groups("same_answer_same_label", np.arange(12).reshape(3, 4), answers=ANSWERS),
        None,
    ),
    "not both true": (rules_from_groups("not_both_true", np.arange(12).reshape(3, 4)), GROUPS),
    "no rules": (no_rules(), GROUPS),
}


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [8, 6])  # of whole groups of four, and with half of one
@pytest.mark.parametrize("case", CASES)
def test_whole_run_is_the_published_one(case, num_seeds, reference):
    """The same claims drawn, flips, fixes, temperatures and labels, step by step."""
    rules, groups = CASES[case]
    own = tied_groups(rules, 12) if groups is None else groups
    num_happened = collections.Counter()
    for seed in range(4):
        scorer = table_scorer(seed, 12, coupling=2.0, bias=1.0)
        score = jax.jit(lambda labels, scorer=scorer: scorer(labels))

        def odds(labels, score=score):
            logp = np.asarray(score(jnp.asarray(labels, jnp.int8)), np.float64)
            return logp[:, 1] - logp[:, 0]

        # A small alpha lets fixes of seeds fail, hot ends let flips be refused and taken.
        settings = reference.Settings(
            alpha=2.0, num_seeds=num_seeds, num_iterations=70, num_fixes=3, initial_temperature=1.5
        )
        chance = SameChance(jax.random.key(seed), own)
        chance.total = max(1, len(rules.pairs))
        asked = []
        published = reference.PublishedSearch(
            odds, rules, own, chance, settings, ask_all=asked.append
        ).run()
        config = ICM(
            alpha=2.0,
            num_seeds=num_seeds,
            num_iterations=70,
            max_fixes=3,
            initial_temperature=1.5,
            reference_deviations=True,
        )
        result = run_search(
            scorer, rules, config, jax.random.key(seed), groups=groups, progress=False
        )

        trace = type(result.trace)(*(field[: len(published), 0] for field in result.trace))
        claim, is_flip, is_accepted, temperature, utilities, labels = zip(*published, strict=True)
        assert trace.claim.tolist() == list(claim)
        assert trace.is_flip.tolist() == list(is_flip)
        assert trace.is_accepted.tolist() == list(is_accepted)
        np.testing.assert_array_equal(trace.labels, labels)
        np.testing.assert_allclose(trace.utility, utilities, atol=1e-4)
        found = trace.inverse_temperature[1:]
        np.testing.assert_allclose(found, 1 / np.array(temperature[1:]), rtol=1e-5)
        assert trace.num_passes.sum() <= len(asked)  # and none that the other needs not
        turned_back = trace.is_flip & ~trace.is_move
        num_happened += collections.Counter(
            rejected=int((~trace.is_accepted).sum()),
            fixes=int((trace.num_fixes > 0).sum()),
            several_fixes=int((trace.num_fixes > 1).sum()),
            turned_back=int(turned_back.sum()),
        )
    # The equivalence would say little had these never happened.
    assert num_happened["rejected"] > 0
    for what in ("fixes", "turned_back"):
        assert (num_happened[what] > 0) == (case != "no rules"), what
    assert num_happened["several_fixes"] > 0 or case != "answers of questions"


def test_seeds_are_whole_groups_and_half_of_them_true():
    groups = first_of_groups(np.repeat([7, 3, 9, 1, 5], 4))
    clamped = jnp.full(20, -1, jnp.int8)
    draw = jax.jit(jax.vmap(lambda key: reference_seeds(key, jnp.int32(0), clamped, groups, 8, 2)))
    labels = np.asarray(draw(jax.random.split(jax.random.key(0), 400))).reshape(400, 5, 4)
    is_seeded = labels >= 0
    assert (is_seeded.all(axis=2) == is_seeded.any(axis=2)).all()
    assert (is_seeded.sum(axis=(1, 2)) == 8).all()
    assert ((labels == 1).sum(axis=(1, 2)) == 4).all()
    # All ten pairs of groups, and both labels everywhere, evenly: false alarms 1e-6 each.
    chosen = collections.Counter(map(tuple, is_seeded.all(axis=2).tolist()))
    assert len(chosen) == 10
    assert stats.chisquare(list(chosen.values())).pvalue > 1e-6
    num_true, num_seeded = (labels == 1).sum(axis=0), is_seeded.sum(axis=0)
    for true, seeded in zip(num_true.ravel(), num_seeded.ravel(), strict=True):
        assert stats.binomtest(int(true), int(seeded), 0.5).pvalue > 1e-6 / 20


def test_seeds_leave_answers_alone():
    clamped = jnp.array([-1, 1, -1, -1, 0, -1], jnp.int8)
    groups = first_of_groups(np.repeat(np.arange(3), 2))
    labels = np.asarray(reference_seeds(jax.random.key(1), jnp.int32(0), clamped, groups, 8, 2))
    assert labels[[1, 4]].tolist() == [1, 0]
    assert (labels >= 0).all()


@pytest.mark.slow
def test_partners_are_drawn_by_their_group_without_rules():
    """Weight 100 of 118 expects 51 of 60, without it 3: binomial tails below 1e-6."""
    scorer, clamped = table_scorer(0, 20), np.full(20, -1, np.int8)
    clamped[0] = 1
    groups = np.array([4, 4, *range(10, 28)])
    config = ICM(num_seeds=0, num_iterations=1)

    def num_drawn(**named):
        return sum(
            run_search(
                scorer,
                no_rules(),
                config,
                jax.random.key(seed),
                clamped=clamped,
                progress=False,
                **named,
            ).trace.claim[1, 0]
            == 1
            for seed in range(60)
        )

    assert num_drawn(groups=groups) >= 33
    assert num_drawn() <= 18


def test_groups_are_of_every_claim():
    scorer = table_scorer(0, 6)
    with pytest.raises(ClaimsError, match="consistency group"):
        run_search(scorer, no_rules(), ICM(), jax.random.key(0), groups=np.arange(5))
    # An algorithm that draws by no groups takes them and goes on.
    for groups in (None, np.zeros(6, int)):
        run_search(
            scorer, no_rules(), Bootstrap(), jax.random.key(0), groups=groups, progress=False
        )


def test_claims_of_one_answer_end_with_one_label():
    """One wants to be true and the other false: once 20 of 20 searches ended violated."""
    rules = rules_from_groups("same_answer_same_label", [(0, 1)], answers=["7", "7"])
    ends = [run(both_want(2.0, -2.0), rules, seed, num_seeds=0) for seed in range(20)]
    assert all(result.labels[0] == result.labels[1] for result in ends)
    assert sum(int(result.trace.num_fixes.sum()) for result in ends) >= 20


@pytest.fixture(scope="module")
def pairs():
    """Searches of ten claims under soft rules, as the paper has it and as the code has it."""
    scorers = [table_scorer(seed, 10, coupling=2.0) for seed in range(6)]
    return [
        (scorer, *(run(scorer, NOT_BOTH, seed, is_reference) for is_reference in (False, True)))
        for seed, scorer in enumerate(scorers)
    ]


@pytest.mark.slow
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
        config = ICM(reference_deviations=True)
        expected = config.inverse_temperature(jnp.asarray(1 + num_accepted))
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
    for seed in range(24):
        fields = {"num_seeds": 8, "num_iterations": 0}  # of two claims
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
