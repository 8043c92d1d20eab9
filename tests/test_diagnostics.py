"""Diagnostics against laws whose answers are known, and the figure and command that show them."""

import json

import jax
import numpy as np
import pytest
from checkpoints import make_checkpoint
from click.testing import CliRunner
from exact import worst_p_value
from scorers import table_scorer

from icmjax.claims import claims_from_rows
from icmjax.claims.consistency import no_rules
from icmjax.cli.commands import main
from icmjax.cli.options import ALGORITHMS, UtilityOptions, make_algorithm
from icmjax.errors import InputError
from icmjax.runs import found_by, plot_search
from icmjax.search import ICM, FixedAccuracy, ParallelTempering, run_search, with_fields
from icmjax.search.diagnostics import (
    count_round_trips,
    effective_sample_size,
    mixing,
    split_r_hat,
    tempering_diagnostics,
)


def autoregressive(rng, correlation, shape):
    samples = np.zeros(shape)
    samples[:, 0] = rng.normal(size=shape[0])
    for t in range(1, shape[1]):
        noise = rng.normal(size=shape[0], scale=np.sqrt(1 - correlation**2))
        samples[:, t] = correlation * samples[:, t - 1] + noise
    return samples


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("num_chains", [1, 4])
def test_effective_sample_size_of_an_autoregression(correlation, num_chains):
    """T (1 − ρ) / (1 + ρ) in closed form; the estimate is good to some 10 %."""
    samples = autoregressive(np.random.default_rng(0), correlation, (num_chains, 8000))
    expected = num_chains * 8000 * (1 - correlation) / (1 + correlation)
    assert effective_sample_size(samples) == pytest.approx(expected, rel=0.2)


def test_effective_sample_size_gives_the_error_of_the_mean():
    """Over 200 repetitions; the relative error of a standard deviation is 0.05."""
    samples = autoregressive(np.random.default_rng(1), 0.8, (200, 2000))
    errors = [row.std() / np.sqrt(effective_sample_size(row[None])) for row in samples]
    assert samples.mean(axis=1).std() == pytest.approx(np.mean(errors), rel=0.2)


def test_r_hat_tells_chains_apart():
    rng = np.random.default_rng(2)
    samples = rng.normal(size=(4, 1000))
    assert split_r_hat(samples) == pytest.approx(1, abs=0.01)
    assert split_r_hat(samples + np.array([0, 0, 0, 2])[:, None]) > 1.3
    assert split_r_hat(samples + np.linspace(0, 3, 1000)) > 1.2  # not stationary


def test_samples_of_one_value_have_no_mixing():
    assert mixing(np.ones((100, 2))) == {"ess": None, "r_hat": None}
    assert mixing(np.ones((3, 2))) == {"ess": None, "r_hat": None}
    # Their mean is rounded, so that differences from it are not zero.
    for dtype in (np.float16, np.float32, np.float64, np.int8, bool):
        for value in (0.1, 1 / 3, -7.7):
            samples = np.full((3, 101), value, dtype)
            assert np.isnan(effective_sample_size(samples)), (dtype, value)
            assert np.isnan(split_r_hat(samples)), (dtype, value)
    halves = np.repeat([[0.1, 0.7]], 50, axis=1)
    assert split_r_hat(halves) == np.inf
    stuck = np.stack([np.zeros(100), np.ones(100)], axis=1)
    assert mixing(stuck)["r_hat"] is None


@pytest.mark.slow
def test_chains_that_are_sure_of_opposite_labels_are_counted():
    scorer = table_scorer(1, 8, coupling=2.0)
    algorithm = with_fields(
        ParallelTempering(), num_iterations=40, num_replicas=4, num_chains=2, warm_start="random"
    )
    trace = run_search(scorer, no_rules(), algorithm, jax.random.key(0), progress=False).trace
    labels = np.zeros_like(trace.cold_labels)
    labels[:, 1, :3] = 1
    found = tempering_diagnostics(trace._replace(cold_labels=labels), algorithm.phases.burn_in)
    assert found["num_disagreeing_claims"] == 3
    assert found["num_frozen_claims"] == 5


def test_a_constant_sample_is_an_alarm_only_where_it_is_improbable():
    samples = np.ones((100, 2, 1))
    assert worst_p_value(samples, np.array([0.999])) > 0.5
    assert worst_p_value(samples, np.array([0.9])) < 1e-6
    assert worst_p_value(1 - samples, np.array([0.999])) < 1e-6


def test_round_trips_are_counted():
    rungs = np.array([0, 1, 2, 1, 0, 1, 0, 1, 2, 2, 1, 0])  # of replica 0: two trips
    paths = np.stack([rungs, (rungs + 1) % 3, (rungs + 2) % 3], axis=1)
    replica_of_rung = np.argsort(paths, axis=1)[:, None]
    expected = 0
    for path in paths.T:
        has_been_hot = False
        for rung in path:
            if rung == 0:
                expected += has_been_hot
            has_been_hot = rung == 2 or (has_been_hot and rung != 0)
    assert count_round_trips(replica_of_rung) == expected >= 2
    assert count_round_trips(np.zeros((10, 1, 1), int)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        with_fields(
            ParallelTempering(),
            num_iterations=40,
            num_replicas=4,
            num_chains=2,
            warm_start="random",
        ),
        ICM(num_iterations=20),
        FixedAccuracy(target=(1, 0) * 4, num_errors=2, num_iterations=16),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_every_search_has_diagnostics_and_a_figure(algorithm, tmp_path):
    scorer = table_scorer(1, 8, coupling=2.0)
    result = run_search(scorer, no_rules(), algorithm, jax.random.key(0), progress=False)
    json.dumps(result.diagnostics, allow_nan=False)
    rows = [{"question": f"{i}?", "choice": "Yes", "consistency_id": i} for i in range(8)]
    found = found_by(result, claims_from_rows(rows, rule="none"))
    figure = plot_search(found, tmp_path / "search.png", "a search")
    assert (tmp_path / "search.png").stat().st_size > 10_000
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    by_tokens = panels["Utility against tokens"]
    assert by_tokens.get_xlabel() == "tokens"
    best = by_tokens.lines[-2]  # before the point at its end
    assert best.get_xdata()[-1] == result.diagnostics["num_tokens"]
    assert best.get_ydata()[-1] == pytest.approx(max(best.get_ydata()))
    (share,) = panels["Mix of labels"].lines
    assert share.get_label() == "labelled True"
    labels = getattr(result.trace, "cold_labels", getattr(result.trace, "labels", None))
    assert share.get_ydata()[-1] == pytest.approx(np.mean(labels[-1] == 1))
    drawn = np.concatenate([x.get_ydata() for x in panels["Probability of every label"].lines[1:]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(result.marginals[:, 1]))
    said = figure.get_supxlabel()
    assert "ESS of U" in said or result.diagnostics.get("ess_utility") is None
    if isinstance(algorithm, ParallelTempering):
        assert "round trips" in said
        accepted, swapped = (
            line.get_ydata() for line in panels["Swaps and moves by temperature"].lines
        )
        np.testing.assert_array_equal(accepted, result.diagnostics["acceptance_rates"])
        np.testing.assert_array_equal(swapped, result.diagnostics["swap_rates"])
    if isinstance(algorithm, ParallelTempering):
        assert len(result.diagnostics["acceptance_rates"]) == 4
        assert len(result.diagnostics["swap_rates"]) == 3
        assert result.diagnostics["num_passes"] == 40 * 4 * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("algorithms")
    texts = ["Trade helps", "Trade harms", "Taxes help", "Taxes harm"]
    make_checkpoint(folder / "model", "llama", [*texts, "I think this claim is True", "False"] * 20)
    rows = [
        {"question": "?", "choice": text, "consistency_id": i // 2, "label": i % 2}
        for i, text in enumerate(texts)
    ]
    (folder / "claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("tempering", marks=pytest.mark.slow), "bootstrap"])
def test_the_command_searches_by_any_algorithm(folder, tmp_path, name):
    out = tmp_path / "run"
    arguments = ["search", "--model", folder / "model", "--claims", folder / "claims.jsonl"]
    arguments += ["--algorithm", name, "--iterations", 8, "--out", out, "--quiet"]
    arguments += ["--rule", "none", "--method", "sequential"]  # the smaller program
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["num_claims"] == 4
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["configuration"]["algorithm"]["name"] == ALGORITHMS[name]
    recorded = manifest["configuration"]["algorithm"]
    assert recorded.get("schedule", recorded)["num_iterations"] == 8
    assert (out / "diagnostics.png").stat().st_size > 10_000


def test_options_without_a_meaning_are_refused():
    made = make_algorithm(
        "tempering", UtilityOptions(30.0, "log_odds"), {"num_replicas": 6, "num_seeds": None}
    )
    assert made == with_fields(
        ParallelTempering(), alpha=30.0, objective="log_odds", num_replicas=6
    )
    options = {"num_replicas": 6, "num_shots": 2, "num_chains": 2}
    with pytest.raises(InputError, match="algorithm icm") as caught:
        make_algorithm("icm", UtilityOptions(50.0, "log_prob"), options)
    assert len(caught.value.faults) == 2
