"""Searches that run as one device program find what each finds alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import make_checkpoint
from scorers import TableScorer, table_scorer

import icmjax
from icmjax.claims import PairRules
from icmjax.errors import ClaimsError, InputError, Preempted, ScoreError
from icmjax.search import (
    ICM,
    Bootstrap,
    FixedAccuracy,
    Marginals,
    ParallelTempering,
    run_search,
    search_together,
    together,
    with_fields,
)

NUM_CLAIMS, NUM_PERSONAS = 6, 3
DIFFER = np.float32([[[1, 0], [0, 1]]])  # a pair has two different labels
ALGORITHMS = [
    ICM(num_iterations=20, num_chains=2, block_size=7),
    with_fields(
        ParallelTempering(), num_iterations=20, num_replicas=3, block_size=8, warm_start="random"
    ),
    Bootstrap(),
]


def pair_rules(num_pairs: int, is_hard: bool) -> PairRules:
    pairs = np.arange(2 * num_pairs, dtype=np.int32).reshape(-1, 2)
    penalties = np.repeat(DIFFER, num_pairs, axis=0)
    return PairRules(pairs, penalties, np.full(num_pairs, is_hard))


def make_searches(is_hard: bool = True):
    scorers = [table_scorer(seed, NUM_CLAIMS) for seed in range(NUM_PERSONAS)]
    rules = [pair_rules(3, is_hard)] * NUM_PERSONAS
    return scorers, rules, list(jax.random.split(jax.random.key(5), NUM_PERSONAS))


def assert_same(found, expected) -> None:
    # Formulas of floats are rounded otherwise in another program; nothing else may differ.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found.trace, expected.trace
    )
    for name in ("labels", "tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("label_log_probs", "log_odds", "marginals", "utility"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5)
    assert found.diagnostics["num_tokens"] == expected.diagnostics["num_tokens"]


@pytest.mark.slow
def test_marginals_of_each_persona_are_those_of_it_alone():
    scorers, rules, keys = make_searches(is_hard=True)
    algorithm = Marginals(num_iterations=5)
    results = search_together(scorers, rules, algorithm, keys)
    for found, scorer, rule, key in zip(results, scorers, rules, keys, strict=True):
        assert_same(found, run_search(scorer, rule, algorithm, key, progress=False))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: type(algorithm).__name__)
def test_each_persona_is_searched_as_alone(algorithm):
    scorers, rules, keys = make_searches(is_hard=not isinstance(algorithm, ICM))
    clamped = [None, np.int8([1, 0, -1, -1, -1, -1]), None]
    results = search_together(scorers, rules, algorithm, keys, clamped=clamped)
    for found, scorer, rule, key, fixed in zip(results, scorers, rules, keys, clamped, strict=True):
        assert_same(found, run_search(scorer, rule, algorithm, key, clamped=fixed, progress=False))
    assert (results[1].labels[:2] == [1, 0]).all()


def test_what_scorers_share_is_on_the_device_once(monkeypatch):
    scorers, rules, keys = make_searches()
    shared = [dataclasses.replace(each, couplings=scorers[0].couplings) for each in scorers]
    seen, run_blocks = [], together._run_blocks

    def spy(keys, state, scorer, *rest, **named):
        seen.append(jax.tree.map(jnp.shape, scorer))
        return run_blocks(keys, state, scorer, *rest, **named)

    monkeypatch.setattr(together, "_run_blocks", spy)
    found = search_together(shared, rules, Bootstrap(), keys)
    assert seen[0].couplings == (NUM_CLAIMS, NUM_CLAIMS, 2, 2)
    assert seen[0].bias == (NUM_PERSONAS, NUM_CLAIMS, 2)
    for one, scorer, rule, key in zip(found, shared, rules, keys, strict=True):
        assert_same(one, run_search(scorer, rule, Bootstrap(), key, progress=False))


@pytest.mark.slow
def test_tempering_computes_what_it_counts():
    """One replica of each in the warm start, all of them after it, nothing once all have ended."""
    num_scored = 0

    class Counted(TableScorer):
        def __call__(self, labels):
            def count(one):
                nonlocal num_scored
                num_scored += one.size // NUM_CLAIMS

            jax.debug.callback(count, labels)
            return super().__call__(labels)

    jax.tree_util.register_dataclass(Counted, ["bias", "couplings"], ["delay"])
    scorers, rules, keys = make_searches()
    counted = [Counted(each.bias, each.couplings, each.delay) for each in scorers]
    algorithm = with_fields(ALGORITHMS[1], warm_start="zero_shot", num_iterations=9)
    results = search_together(counted, rules, algorithm, keys)
    jax.effects_barrier()
    assert num_scored == sum(found.diagnostics["num_passes"] for found in results)
    assert num_scored == NUM_PERSONAS * 3 * 9
    for found, scorer, rule, key in zip(results, scorers, rules, keys, strict=True):
        assert_same(found, run_search(scorer, rule, algorithm, key, progress=False))


@pytest.mark.slow
def test_each_has_its_own_target():
    scorers, rules, keys = make_searches()
    targets = [np.int8([1, 0, 1, 0, 1, 0]), np.int8([0, 1, 0, 1, 1, 0]), np.int8([0, 1] * 3)]
    chains = [
        FixedAccuracy(
            target=target,
            num_errors=num_errors,
            inverse_temperatures=(2.0, -2.0),
            num_iterations=10,
        )
        for target, num_errors in zip(targets, (2, 2, 4), strict=True)
    ]
    results = search_together(scorers, rules, chains, keys)
    for found, scorer, rule, own, key, target, num_errors in zip(
        results, scorers, rules, chains, keys, targets, (2, 2, 4), strict=True
    ):
        assert_same(found, run_search(scorer, rule, own, key, progress=False))
        assert ((found.trace.labels != target).sum(-1) == num_errors).all()


class Store:
    """A run store of one search, in memory."""

    def __init__(self):
        self.saved = []

    def save(self, state, info, num_steps, account):
        self.saved.append((state, info, num_steps, account))

    def restore(self, like, last_step=None):
        del like, last_step
        if not self.saved:
            return None
        state, _, _, account = self.saved[-1]
        return state, [info._asdict() for _, info, _, _ in self.saved], account


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_each_goes_on_alone_from_what_all_kept_together(num_blocks):
    scorers, rules, keys = make_searches(is_hard=False)
    algorithm, stores, asked = ALGORITHMS[0], [Store() for _ in scorers], []

    def stop():
        asked.append(None)
        return len(asked) > num_blocks

    with pytest.raises(Preempted) as ended:
        search_together(scorers, rules, algorithm, keys, runs=stores, stop_fn=stop)
    assert all(len(store.saved) == num_blocks for store in stores)
    assert {store.saved[-1][2] for store in stores} == {ended.value.num_steps}
    for store, scorer, rule, key in zip(stores, scorers, rules, keys, strict=True):
        found = run_search(scorer, rule, algorithm, key, run=store, progress=False)
        assert_same(found, run_search(scorer, rule, algorithm, key, progress=False))


@pytest.mark.slow
def test_groups_are_those_of_each():
    """ICM draws whole groups, which no rule need tie."""
    scorers, _, keys = make_searches()
    free = [
        PairRules(np.zeros((0, 2), np.int32), np.zeros((0, 2, 2), np.float32), np.zeros(0, bool))
    ]
    groups = [np.arange(6) // 2] * 3
    results = search_together(scorers, free * 3, ALGORITHMS[0], keys, groups=groups)
    for found, scorer, key in zip(results, scorers, keys, strict=True):
        alone = run_search(scorer, free[0], ALGORITHMS[0], key, groups=groups[0], progress=False)
        assert_same(found, alone)


def test_what_cannot_run_together_is_refused():
    scorers, rules, keys = make_searches()
    algorithm = ALGORITHMS[1]
    with pytest.raises(InputError, match="have one shape"):
        search_together([*scorers[:2], table_scorer(0, 4)], rules, algorithm, keys)
    with pytest.raises(InputError, match="rules of one shape"):
        search_together(scorers, [*rules[:2], pair_rules(1, True)], algorithm, keys)
    with pytest.raises(InputError, match="by one algorithm"):
        search_together(scorers, rules, [*ALGORITHMS], keys)
    with pytest.raises(ClaimsError, match="integers"):
        search_together(scorers, rules, algorithm, keys, clamped=[None, np.ones(2), None])
    broken = dataclasses.replace(scorers[2], bias=scorers[2].bias.at[1].set(jnp.nan))
    with jax.debug_nans(False), pytest.raises(ScoreError, match="claim 1"):
        search_together([*scorers[:2], broken], rules, ICM(num_iterations=4), keys)


@pytest.mark.slow
def test_a_model_reads_several_personas_at_once(tmp_path):
    claim_sets = [
        icmjax.claims_from_rows(
            [
                {
                    "question": "Food?",
                    "choice": f"People from {place} would answer: '{word}', which is True or False",
                    "consistency_id": index // 2,
                    "persona": place,
                }
                for index, word in enumerate(("tea", "rice", "soup", "jam"))
            ],
            rule="none",
        )
        for place in ("Peru", "Mali", "Oman")
    ]
    texts = [claim.question + claim.choice for each in claim_sets for claim in each.claims]
    make_checkpoint(tmp_path, "llama", texts, num_hidden_layers=1)
    lm = icmjax.load_lm(tmp_path)
    scorers = [icmjax.make_scorer(lm, claims, "tree") for claims in claim_sets]
    assert together.have_one_shape(scorers)
    rules = [claims.rules for claims in claim_sets]
    keys = list(jax.random.split(jax.random.key(0), len(scorers)))
    algorithm = ICM(num_iterations=12, num_chains=1)
    for found, scorer, rule, key in zip(
        search_together(scorers, rules, algorithm, keys), scorers, rules, keys, strict=True
    ):
        alone = run_search(scorer, rule, algorithm, key, progress=False)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_allclose(found.label_log_probs, alone.label_log_probs, atol=1e-4)
        assert found.diagnostics["num_tokens"] == alone.diagnostics["num_tokens"]
