"""Parallel tempering: the optimum, the law it samples, and that nothing but the key decides."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import boltzmann, enumerated, true_shares, worst_p_value
from scorers import TableScorer, table_scorer

from icmjax.claims import claims_from_rows, count_violations, violated_pairs
from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import InputError, ScoreError
from icmjax.runs import open_run
from icmjax.search import Bootstrap, ParallelTempering, ScreenedScorer, run_search, with_fields
from icmjax.search.loop import run_block
from icmjax.search.schedule import FIRST_ROUND

PAIRS = [(0, 1), (1, 4), (2, 3)]
SOFT, HARD = (
    make_rules(PAIRS, penalty_table("exactly_one_true"), is_hard) for is_hard in (False, True)
)
# Searches of one config and shape share a compiled program, which takes far longer than they do.
NUM_CLAIMS = 8
SHORT = with_fields(ParallelTempering(), num_iterations=40, num_replicas=4)
# Without a warm start the program is half as large, and the steps after it are the same.
COLD = with_fields(SHORT, warm_start="random")
SAMPLER = with_fields(
    ParallelTempering(),
    num_iterations=1200,
    num_replicas=3,
    num_chains=4,
    temperature=4.0,
    hot_temperature=30.0,
    warm_start="random",
)


def run(scorer, rules, algorithm, seed=0, **kwargs):
    return run_search(scorer, rules, algorithm, jax.random.key(seed), progress=False, **kwargs)


def samples_of(result, algorithm):
    return result.trace.cold_labels[algorithm.phases.burn_in :]


@pytest.mark.slow
@pytest.mark.parametrize("rules", [pytest.param(SOFT, id="soft"), pytest.param(HARD, id="hard")])
def test_reaches_the_enumerated_optimum(rules):
    """Random couplings are rougher than what a model knows of claims: twice the default's steps."""
    algorithm = with_fields(ParallelTempering(), num_iterations=128)
    for seed in range(8):
        scorer = table_scorer(seed, NUM_CLAIMS, coupling=2.0)
        result = run(scorer, rules, algorithm, seed)
        labellings, utilities = enumerated(scorer, rules)
        assert result.utility == pytest.approx(utilities.max(), abs=1e-3)
        assert result.labels.tolist() == labellings[utilities.argmax()].tolist()


@pytest.mark.slow
def test_pairs_that_hold_each_other_are_turned_round():
    """Each claim is sure of its label while it sees its partner's: the matrix shows no way.

    With `turn_rate=0` 26 of 40 such searches reach the optimum, with the default all of them.
    """
    pairs = np.arange(NUM_CLAIMS).reshape(-1, 2)
    rules = make_rules(list(map(tuple, pairs)), penalty_table("exactly_one_true"), False)
    for seed in range(15):
        scorer = table_scorer(seed, NUM_CLAIMS, coupling=2.0)
        couplings = np.array(scorer.couplings)
        for one, other in pairs:
            couplings[[one, other], [other, one]] = 8 * (1 - np.eye(2))
        scorer = dataclasses.replace(scorer, couplings=jnp.asarray(couplings))
        result = run(scorer, rules, ParallelTempering(), seed)
        assert result.utility == pytest.approx(enumerated(scorer, rules)[1].max(), abs=1e-3)


@pytest.mark.parametrize(
    "case", ["hard", *(pytest.param(case, marks=pytest.mark.slow) for case in ("soft", "clamped"))]
)
def test_cold_marginals_are_exact(case):
    """False alarms about 1e-4 in each case."""
    scorer, rules = table_scorer(3, NUM_CLAIMS, coupling=0.8), HARD if case == "hard" else SOFT
    clamped = np.full(NUM_CLAIMS, -1, np.int8)
    if case == "clamped":
        clamped[[1, 5]] = 1, 0
    sampler = SAMPLER
    if case == "clamped":
        sampler = with_fields(sampler, warm_start="bootstrap")
    expected = true_shares(scorer, rules, SAMPLER.ladder.temperature, clamped)
    result = run(scorer, rules, sampler, clamped=clamped)
    samples = samples_of(result, sampler)
    assert worst_p_value(samples, expected) > 1e-4
    np.testing.assert_allclose(result.marginals[:, 1], (samples == 1).mean((0, 1)), atol=1e-6)
    # The test has teeth: at half the temperature the law is another.
    colder = true_shares(scorer, rules, SAMPLER.ladder.temperature / 2, clamped)
    assert worst_p_value(samples, colder) < 1e-4
    if case == "clamped":
        assert (result.trace.cold_labels[..., [1, 5]] == [1, 0]).all()
    if case == "hard":
        assert not np.asarray(violated_pairs(jnp.asarray(result.trace.cold_labels), rules)).any()


def bimodal_scorer():
    """Claims that agree with one another, all true somewhat better than all false."""
    same = np.eye(2)[None, None] * (1 - np.eye(NUM_CLAIMS))[:, :, None, None]
    bias = np.tile([0.0, 0.02], (NUM_CLAIMS, 1))
    return TableScorer(jnp.asarray(bias, jnp.float32), jnp.asarray(0.5 * same, jnp.float32))


@pytest.mark.slow
def test_a_target_of_two_modes_is_passed_which_one_replica_fails():
    scorer, rules, temperature = bimodal_scorer(), no_rules(), 1.5
    labellings, utilities = enumerated(scorer, rules)
    law, num_true = boltzmann(utilities, temperature), labellings.sum(axis=1)
    both_modes = law[[0, -1]]
    assert both_modes.min() > 0.1
    # From x a reversible chain is in the set L within T steps with probability ≤ T π(L) / π(x);
    # single flips from one mode to the other pass through L, half the labels true.
    single = with_fields(
        ParallelTempering(),
        num_iterations=1200,
        num_replicas=1,
        num_chains=4,
        temperature=temperature,
        hot_temperature=40.0,
        flip_sizes=(1,),
        resample_rate=0.0,
        mirror_rate=0.0,
        warm_start="labels",
        start_labels=(0,) * NUM_CLAIMS,
    )
    bound = single.schedule.num_iterations * law[num_true == NUM_CLAIMS // 2].sum() / law[0]
    assert bound < 0.01
    ensemble = with_fields(single, num_replicas=6)
    expected = law @ (labellings == 1)
    alone, together = (run(scorer, rules, config) for config in (single, ensemble))
    assert (samples_of(alone, single)[:, 0].mean(axis=-1) < 0.5).all()
    assert worst_p_value(samples_of(alone, single)[:, :1], expected) < 1e-4
    assert worst_p_value(samples_of(together, ensemble), expected) > 1e-4
    assert together.diagnostics["num_round_trips"] > 10


@pytest.mark.slow
def test_chain_does_not_depend_on_the_others():
    scorer = table_scorer(8, NUM_CLAIMS, coupling=2.0)
    alone = run(scorer, SOFT, COLD)
    together = run(scorer, SOFT, with_fields(COLD, num_chains=3))
    for name in ("cold_labels", "is_accepted", "is_swapped", "replica", "kind"):
        one, several = getattr(alone.trace, name), getattr(together.trace, name)
        np.testing.assert_array_equal(one[:, 0], several[:, 0])
        assert name == "kind" or (several[:, 0] != several[:, 1]).any()
    np.testing.assert_allclose(alone.trace.utility[:, 0], together.trace.utility[:, 0], atol=1e-4)


@pytest.mark.slow
def test_step_is_traced_once_and_blocks_change_nothing():
    num_traces = 0

    class Counting(ParallelTempering):
        def _step(self, *args):
            nonlocal num_traces
            num_traces += 1
            return super()._step(*args)

    scorer = table_scorer(9, NUM_CLAIMS)
    config = with_fields(
        Counting(), num_iterations=40, num_replicas=4, block_size=16
    )  # the last block has 8 steps
    results = [run(scorer, SOFT, config, seed) for seed in (0, 0, 1)]
    assert num_traces == 1
    jax.tree.map(np.testing.assert_array_equal, results[0].trace, results[1].trace)
    other = run(scorer, SOFT, with_fields(config, block_size=7))
    jax.tree.map(np.testing.assert_array_equal, results[0].trace, other.trace)
    assert len(other.trace.utility) == config.num_steps(NUM_CLAIMS)
    assert other.diagnostics["num_passes"] == 40 * 4


@pytest.mark.slow
def test_a_block_moves_nothing_between_host_and_device():
    scorer, config = table_scorer(9, NUM_CLAIMS), SHORT
    clamped, key = np.full(NUM_CLAIMS, -1, np.int8), jax.random.key(0)
    rules, block = jax.tree.map(jnp.asarray, SOFT), (jnp.int32(0), jnp.int32(16))
    # Copies, because the blocks donate it.
    state = jax.tree.map(jnp.array, config.init(key, SOFT, clamped, 2))
    state, _ = run_block(key, state, scorer, rules, *block, algorithm=config)  # compiled here
    # On a CPU the guard lets callbacks pass; the program would name them.
    program = run_block.lower(key, state, scorer, rules, *block, algorithm=config).compile()
    assert not re.search("callback|infeed|outfeed|send|recv", program.as_text())
    with jax.transfer_guard("disallow"):
        state, info = run_block(key, state, scorer, rules, *block, algorithm=config)
        jax.block_until_ready(info)
    assert int(state.num_steps[0]) == 32


class CutOff:
    """A run store that dies at its third save, before anything is written."""

    def __init__(self, run):
        self.run, self.num_saves, self.restore = run, 0, run.restore

    def save(self, *args):
        self.num_saves += 1
        if self.num_saves == 3:
            raise KeyboardInterrupt
        self.run.save(*args)


@pytest.mark.parametrize(
    "fields",
    [
        {"final_temperature": 0.5},
        pytest.param({"marginal_tolerance": 0.1}, marks=pytest.mark.slow),
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_the_ensemble_resumes_bit_for_bit(fields, tmp_path):
    claims = claims_from_rows(
        [{"question": "?", "choice": f"{i}", "consistency_id": i} for i in range(NUM_CLAIMS)],
        rule="none",
    )
    scorer, config = table_scorer(4, NUM_CLAIMS, coupling=2.0), SAMPLER
    config = with_fields(config, num_iterations=70, **fields)
    whole = run(scorer, SOFT, config)
    with open_run(tmp_path / "run", claims, {}) as store, pytest.raises(KeyboardInterrupt):
        run(scorer, SOFT, config, run=CutOff(store))
    with open_run(tmp_path / "run", claims, {}, resume=True) as store:
        resumed = run(scorer, SOFT, config, run=store)
    jax.tree.map(np.testing.assert_array_equal, whole.trace, resumed.trace)
    np.testing.assert_array_equal(whole.labels, resumed.labels)
    assert whole.utility == resumed.utility
    assert whole.diagnostics["num_passes"] == resumed.diagnostics["num_passes"]


def test_the_ladder_is_adapted_in_the_burn_in_and_then_frozen():
    result = run(table_scorer(3, NUM_CLAIMS, coupling=0.8), SOFT, SAMPLER)
    beta, end = result.trace.inverse_temperature[:, 0], SAMPLER.phases.burn_in
    changes = np.flatnonzero((np.diff(beta, axis=0) != 0).any(axis=1))
    assert changes[0] + 1 == SAMPLER.phases.warm_start + FIRST_ROUND
    assert changes[-1] < end
    np.testing.assert_allclose(beta[:, 0], 1 / 4.0, rtol=1e-6)
    np.testing.assert_allclose(beta[:, -1], 1 / 30.0, rtol=1e-6)
    assert (np.diff(beta, axis=1) < 0).all()
    # Swaps of all neighbours are rejected about equally often, which they were not before.
    rates = result.trace.swap_probability[end:].mean(axis=(0, 1))
    assert abs(rates[0] - rates[1]) < 0.1


def halves_differ_by(labels, num_samples):
    """Mean over claims, of binary labels `[S, N]`."""
    half = num_samples // 2
    return np.abs(labels[:half].mean(0) - labels[half:num_samples].mean(0)).mean()


@pytest.mark.slow
def test_a_chain_ends_where_its_marginals_have_settled():
    """Where its own halves are alike; until then nothing is changed."""
    scorer, tolerance = table_scorer(3, NUM_CLAIMS, coupling=0.8), 0.1
    config = with_fields(SAMPLER, num_iterations=400)
    whole = run(scorer, SOFT, config)
    settling = with_fields(config, marginal_tolerance=tolerance)
    found = run(scorer, SOFT, settling)
    alone = run(scorer, SOFT, with_fields(settling, num_chains=1))
    begin, chain_passes = config.phases.burn_in, found.diagnostics["chain_passes"]
    samples = []
    for chain, num_passes in enumerate(chain_passes):
        labels = whole.trace.cold_labels[begin:, chain]
        ends = [16 * 2**k for k in range(5) if 16 * 2**k <= len(labels)]
        settled = [end for end in ends if halves_differ_by(labels, end) <= tolerance]
        num_samples = settled[0] if settled else len(labels)
        end = begin + num_samples
        assert num_passes == 3 * end
        samples.append(labels[:num_samples])
        for name in ("cold_labels", "kind", "replica", "utility"):
            expected = getattr(whole.trace, name)[:end, chain]
            np.testing.assert_array_equal(getattr(found.trace, name)[:end, chain], expected)
        assert (found.trace.num_passes[end:, chain] == 0).all()
        assert (
            found.trace.cold_labels[end:, chain] == found.trace.cold_labels[end - 1, chain]
        ).all()
    assert len(set(chain_passes)) > 1  # some end before others
    np.testing.assert_array_equal(
        alone.trace.cold_labels[:, 0], found.trace.cold_labels[: len(alone.tokens), 0]
    )
    assert alone.diagnostics["num_passes"] == chain_passes[0]
    marginals = (np.concatenate(samples)[..., None] == [0, 1]).mean(axis=0)
    np.testing.assert_allclose(found.marginals, marginals, atol=1e-6)
    assert found.diagnostics["num_passes"] == sum(chain_passes)
    assert len(found.tokens) == max(chain_passes) // 3
    per_pass = scorer.tokens_per_pass(found.labels)
    assert found.diagnostics["num_tokens"] == per_pass * sum(chain_passes)


def test_the_cold_end_is_annealed():
    config = with_fields(COLD, hot_temperature=10.0, final_temperature=0.02)
    trace = run(table_scorer(1, NUM_CLAIMS), SOFT, config).trace
    beta = trace.inverse_temperature[:, 0]
    np.testing.assert_allclose(1 / beta[[0, -1], 0], [0.2, 0.02], rtol=1e-4)
    np.testing.assert_allclose(1 / beta[:, -1], 10.0, rtol=1e-4)
    assert (np.diff(beta[config.phases.burn_in + 1 :, 0]) > 0).all()


@pytest.mark.slow
def test_replicas_start_where_the_warm_start_says():
    scorer = table_scorer(5, NUM_CLAIMS)
    labels = {}
    for start, given in (("zero_shot", ()), ("random", ()), ("labels", (1, 0) * 4)):
        config = with_fields(
            ParallelTempering(),
            num_iterations=8,
            num_replicas=4,
            warm_start=start,
            start_labels=given,
            num_chains=2,
        )
        state = config.init(jax.random.key(0), no_rules(), np.full(NUM_CLAIMS, -1, np.int8), 2)
        labels[start] = np.asarray(state.current.labels)
    assert (run(scorer, no_rules(), config).labels >= 0).all()
    assert (labels["zero_shot"][0, 0] == -1).all()
    assert (labels["zero_shot"][0, 1] == 1).all()
    assert (labels["zero_shot"][0, 2] == 0).all()
    assert labels["labels"][0, 0].tolist() == [1, 0] * 4
    for first in (labels["random"], labels["zero_shot"][1:]):
        assert 0.2 < first.mean() < 0.8
    seeded = with_fields(config, warm_start="zero_shot", start_labels=(), num_seeds=3)
    clamped = np.full(NUM_CLAIMS, -1, np.int8)
    clamped[2] = 1
    starts = np.asarray(seeded.init(jax.random.key(0), no_rules(), clamped, 2).current.labels)
    assert (starts[..., 2] == 1).all()
    num_labelled = (starts >= 0).sum(axis=-1)
    assert num_labelled[0].tolist() == [1, NUM_CLAIMS, NUM_CLAIMS, 4]
    assert (num_labelled[1] == 4).all()  # three seeds and the clamped claim
    assert len({tuple(row) for row in starts[1] >= 0}) > 1
    kept = config.init(jax.random.key(0), SOFT, np.full(NUM_CLAIMS, -1, np.int8), 2).current.labels
    violations = np.asarray(count_violations(kept, SOFT))
    np.testing.assert_array_equal(violations, [[0, 3, 3, 0], [0, 0, 0, 0]])
    assert (labels["random"] >= 0).all()


@pytest.mark.slow
def test_other_labels_to_start_from_compile_nothing():
    scorer, rules = table_scorer(5, NUM_CLAIMS), no_rules()
    config = with_fields(
        ParallelTempering(),
        num_iterations=8,
        num_replicas=2,
        warm_start="labels",
        start_labels=(1, 0) * 4,
    )
    other = with_fields(config, start_labels=(0, 1) * 4)
    first = run(scorer, rules, config)
    cache_size = run_block._cache_size()
    second = run(scorer, rules, other)
    assert run_block._cache_size() == cache_size
    assert first.trace.utility[0].tolist() != second.trace.utility[0].tolist()


@pytest.mark.slow
def test_the_warm_start_takes_one_replica_up_after_another():
    """Replicas 0 to 3 of a chain, a quarter of a step's passes each."""
    scorer = table_scorer(5, NUM_CLAIMS, coupling=2.0)
    full = scorer.tokens_per_pass(np.zeros(NUM_CLAIMS, np.int8))
    for start, length in (("bootstrap", 4), ("zero_shot", 2), ("random", 1)):
        config = with_fields(SHORT, num_iterations=12, warm_start=start)
        state = config.init(jax.random.key(0), SOFT, np.full(NUM_CLAIMS, -1, np.int8), 2)
        result = run(scorer, SOFT, config)
        num_warm = 4 * length if length > 1 else 1
        active = result.trace.num_passes[:, 0]  # by rung, which is the replica in the warm start
        if length > 1:
            expected = np.repeat(np.eye(4), length, axis=0)
            np.testing.assert_array_equal(active[:num_warm], expected)
            assert result.tokens[0] == 0  # no claim is labelled yet
            assert (result.tokens[1:num_warm] == full).all()
            is_scored = np.isfinite(result.trace.utility[: num_warm - 1, 0])
            np.testing.assert_array_equal(is_scored, np.cumsum(expected, axis=0)[:-1] > 0)
        assert (active[num_warm:] == 1).all()
        assert (result.tokens[num_warm:] == 4 * full).all()
        assert result.diagnostics["num_passes"] == 4 * 12
        assert result.diagnostics["num_tokens"] == result.tokens.sum()
        assert state.current.labels.shape == (1, 4, NUM_CLAIMS)


@pytest.mark.slow
def test_an_ascent_is_repeated_relabelling():
    """Of the zero-shot labels, by argmax: what bootstrapping does, as long as labels change."""
    scorer = table_scorer(5, NUM_CLAIMS, coupling=2.0)
    bootstrapped = run(scorer, no_rules(), Bootstrap()).trace.labels[:4, 0]
    ascent = run(scorer, no_rules(), SHORT).trace.cold_labels[:4, 0]
    np.testing.assert_array_equal(ascent[: len(bootstrapped)], bootstrapped)
    assert (bootstrapped[1] != bootstrapped[2]).any()


def test_labels_to_start_from_are_checked():
    def start(labels, rules):
        config = with_fields(ParallelTempering(), warm_start="labels", start_labels=labels)
        run(table_scorer(0, NUM_CLAIMS), rules, config)

    with pytest.raises(InputError, match="Every claim has a label"):
        start((0, 1), SOFT)
    with pytest.raises(InputError, match=r"claims \[3\]"):
        start((0, 1, 0, -1, 0, 0, 0, 0), no_rules())
    with pytest.raises(InputError, match=r"claims \[2, 3\]"):
        start((1, 0, 1, 1, 1, 0, 0, 0), HARD)


CHANGES = {
    "alpha": 20.0,
    "objective": "log_odds",
    "num_iterations": 20,
    "num_replicas": 3,
    "temperature": 1.0,
    "hot_temperature": 50.0,
    "final_temperature": 0.05,
    "burn_in": 0.9,
    "marginal_tolerance": 1.0,
    "num_bootstraps": 0,
    "num_seeds": 2,
    "flip_sizes": (3,),
    "resample_rate": 0.0,
    "mirror_rate": 0.0,
    "turn_rate": 0.0,
    "balancing": "sqrt",
    "proposal_scale": 0.1,
}


@pytest.mark.slow
@pytest.mark.parametrize("field", CHANGES)
def test_every_field_matters(field):
    scorer = table_scorer(6, NUM_CLAIMS, coupling=2.0)
    config = SHORT if field in ("num_bootstraps", "num_seeds") else COLD
    config = with_fields(config, num_iterations=36)
    changed = with_fields(config, **{field: CHANGES[field]})
    one, other = (run(scorer, SOFT, c).trace for c in (config, changed))
    same = [
        np.shape(a) == np.shape(b) and np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    ]
    assert not all(same)


def test_config_faults_are_reported_together():
    with pytest.raises(InputError) as caught:
        with_fields(
            ParallelTempering(),
            temperature=2.0,
            hot_temperature=1.0,
            flip_sizes=(),
            warm_start="gold",
        )
    assert len(caught.value.faults) == 3
    for fields in ({"warm_start": "labels"}, {"start_labels": (0, 1)}):
        with pytest.raises(InputError, match="start_labels"):
            with_fields(ParallelTempering(), **fields)
    with pytest.raises(InputError, match="num_iterations"):
        with_fields(ParallelTempering(), num_iterations=3)
    for tolerance in (-0.1, 1.1):
        with pytest.raises(InputError, match="marginal_tolerance"):
            with_fields(ParallelTempering(), marginal_tolerance=tolerance)
    with pytest.raises(InputError, match="annealed do not settle"):
        with_fields(ParallelTempering(), marginal_tolerance=0.1, final_temperature=0.1)
    with pytest.raises(InputError, match="ScreenedScorer"):
        run(table_scorer(0, NUM_CLAIMS), SOFT, with_fields(ParallelTempering(), num_screenings=1))


SCREENED = with_fields(SAMPLER, num_screenings=2)


@pytest.mark.slow
def test_delayed_acceptance_samples_the_exact_law():
    """Behind a cheap scorer of other claims altogether; false alarms about 1e-4."""
    exact = table_scorer(3, NUM_CLAIMS, coupling=0.8)
    cheap = table_scorer(11, NUM_CLAIMS, coupling=0.4)
    result = run(ScreenedScorer(exact, cheap), SOFT, SCREENED)
    samples = samples_of(result, SCREENED)
    assert worst_p_value(samples, true_shares(exact, SOFT, SCREENED.ladder.temperature)) > 1e-4
    assert worst_p_value(samples, true_shares(cheap, SOFT, SCREENED.ladder.temperature)) < 1e-4
    per_pass = exact.tokens_per_pass(result.labels) + 2 * cheap.tokens_per_pass(result.labels)
    assert result.diagnostics["num_tokens"] == per_pass * result.diagnostics["num_passes"]


@pytest.mark.slow
def test_a_cheap_score_that_is_not_finite_is_named():
    exact, cheap = table_scorer(3, NUM_CLAIMS), table_scorer(4, NUM_CLAIMS)
    cheap = dataclasses.replace(cheap, bias=cheap.bias.at[5, 0].set(jnp.nan))
    with pytest.raises(ScoreError, match="claim 5"):
        run(ScreenedScorer(exact, cheap), SOFT, SCREENED)


@pytest.mark.slow
def test_a_cheap_score_that_is_not_finite_is_named_though_its_proposal_is_not_accepted():
    """Of no labels but those to begin with."""
    exact, cheap = table_scorer(3, NUM_CLAIMS), table_scorer(4, NUM_CLAIMS)

    class Brittle(TableScorer):
        def __call__(self, labels):
            is_moved = jnp.any(labels == 1, axis=-1)[..., None, None]
            return super().__call__(labels) + jnp.where(is_moved, jnp.nan, 0.0)

    jax.tree_util.register_dataclass(Brittle, ["bias", "couplings"], ["delay"])
    config = with_fields(
        SCREENED,
        warm_start="labels",
        start_labels=(0,) * NUM_CLAIMS,
        num_chains=1,
        num_replicas=1,
        num_iterations=60,
    )
    with pytest.raises(ScoreError, match="claim 0"):
        run(ScreenedScorer(exact, Brittle(cheap.bias, cheap.couplings)), no_rules(), config)


@pytest.mark.slow
def test_a_good_cheap_scorer_makes_proposals_likely():
    exact = table_scorer(3, NUM_CLAIMS, coupling=0.8)
    rates = [
        run(ScreenedScorer(exact, cheap), SOFT, SCREENED).diagnostics["acceptance_rates"][0]
        for cheap in (exact, table_scorer(11, NUM_CLAIMS, coupling=0.8))
    ]
    assert rates[0] == pytest.approx(1.0)
    assert rates[1] < 0.8


@pytest.mark.slow
def test_every_algorithm_searches_under_64_bits():
    """In a process of its own, where Python's and numpy's numbers are 64 bits wide by default."""
    script = """
import jax, numpy as np
from scorers import table_scorer
from icmjax.claims.consistency import make_rules, penalty_table
from icmjax.search import *
assert jax.numpy.arange(1).dtype == np.int64
jax.config.update("jax_numpy_dtype_promotion", "strict")
scorer, key = table_scorer(0, 4), jax.random.key(0)
rules = make_rules([(0, 1)], penalty_table("exactly_one_true"))
tempering = with_fields(ParallelTempering(), num_iterations=12, num_replicas=2)
screened = with_fields(tempering, num_screenings=1, warm_start="random")
fixed = FixedAccuracy(target=(1, 0, 1, 0), num_errors=2, num_iterations=3)
searches = [
    (scorer, algorithm)
    for algorithm in (
        ICM(num_iterations=3, num_chains=4),
        ICM(num_iterations=3, reference_deviations=True),
        tempering,
        Gibbs(num_iterations=3),
        Bootstrap(num_iterations=3),
        Greedy(num_iterations=3),
        fixed,
    )
] + [(ScreenedScorer(scorer, scorer), screened)]
for each, algorithm in searches:
    result = run_search(each, rules, algorithm, key, progress=False)
    assert (result.labels >= 0).all()
    wide = [field for field in result.trace if field.dtype.itemsize > 4]
    assert not wide, algorithm
assert len(search_together([scorer] * 2, [rules] * 2, Gibbs(num_iterations=3), [key] * 2)) == 2
print("done", len(searches))
"""
    tests = pathlib.Path(__file__).parent
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done 8\n"
