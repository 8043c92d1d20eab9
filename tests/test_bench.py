"""The benchmark runs at tiny size, checks scores before it gives times, and writes its results."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import scoring

        yield scoring
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def engines(benchmark):
    import engines

    return engines


def invoke(command, *arguments: str):
    """Run the benchmark, which compiles everything anew, and leave other tests their cache."""
    was_enabled = jax.config.jax_enable_compilation_cache
    try:
        return CliRunner().invoke(command, arguments, catch_exceptions=False)
    finally:
        jax.config.update("jax_enable_compilation_cache", was_enabled)


@pytest.fixture(scope="module")
def content(benchmark, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    result = invoke(benchmark.main, "--quick", "--shapes", "tiny", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "scoring_cpu_quick.svg").stat().st_size > 1000
    return json.loads((out / "scoring_cpu_quick.json").read_text()) | {"table": result.output}


@pytest.mark.slow
def test_every_method_and_engine_is_measured(content):
    assert content["device"]
    assert {"jax", "torch", "transformers"} <= content["versions"].keys()
    measured = {(row["engine"], row["method"], row["num_claims"]) for row in content["rows"]}
    for num_claims in (4, 8):
        spread = f"tree on {jax.device_count()} devices"
        for method in ("sequential", "tree", spread, "blockwise", "chain_rule"):
            assert ("icmjax", method, num_claims) in measured
        for method in ("every prompt anew", "reused prefix, fixed order"):
            assert ("transformers", method, num_claims) in measured
    fused, einsum = (row for row in content["rows"] if row["engine"] == "icmjax tiny")
    assert fused["pass_seconds"] is None
    assert "cudnn attention: the device is a cpu" in fused["note"]
    assert einsum["pass_seconds"] > 0
    ours = [row for row in content["rows"] if row["engine"] == "icmjax"]
    for row in ours:
        assert 0 < row["tokens"] <= row["padded_tokens"]
        assert row["pass_seconds"] > 0 < row["flops"]
        assert row["kappa"] > 0 < row["kappa_apart"]
    assert "roofline" in content["table"]


@pytest.mark.slow
def test_engines_agree_or_have_no_time(content, engines):
    checked = [row for row in content["rows"] if "score_error" in row]
    assert len(checked) >= 8
    for row in checked:
        assert row["score_error"] < engines.TOLERANCE
    absent = [row for row in content["rows"] if row["engine"] == "vLLM"]
    assert all("not measured" in row["note"] for row in absent)
    row = engines.checked({"pass_seconds": 1.0}, np.zeros((2, 2)), np.ones((2, 2)))
    assert row["pass_seconds"] is None
    assert "differ" in row["note"]


def test_operations_are_those_of_the_rows(benchmark):
    from flops import Rows, pass_flops
    from shapes import random_lm

    def count(before: int, *seen: int) -> float:
        return pass_flops(lm, Rows(np.array([3]), np.array([before]), np.array(seen, int)))

    lm = random_lm("tiny")
    layers, heads = lm.config.num_layers, lm.config.num_heads * lm.config.head_dim
    assert count(10) - count(0) == (layers - 1) * 4 * heads * 30
    keys, rest = 2 * 64 * 2 * 32, 2 * 64 * (2 * 64 + 3 * 128)
    assert count(0) == (layers - 1) * ((keys + rest) * 3 + 4 * heads * 6) + keys * 3
    logits = 2 * 64 * lm.config.vocab_size
    assert count(0, 3) - count(0) == rest + 4 * heads * 3 + logits


def test_queries_of_all_exact_methods_see_the_same(benchmark):
    from flops import rows_of
    from shapes import random_lm, random_tokens

    lm, labels = random_lm("tiny"), np.zeros(5, np.int8)
    tokens = random_tokens(5, 6, lm.config.vocab_size)
    scorers = {name: make(lm, tokens, 1 << 30) for name, make in benchmark.MAKERS.items()}
    rows = {name: rows_of(scorer, labels) for name, scorer in scorers.items()}
    shown = tokens.demonstration_lengths[:, 0]
    seen = len(tokens.preamble) + shown.sum() - shown + tokens.query_lengths
    for name in ("sequential", "tree", "blockwise"):
        np.testing.assert_array_equal(rows[name].seen, seen)
    (order,) = np.asarray(scorers["chain_rule"].orders)
    before = [shown[order[:place]].sum() for place in range(5)]
    expected = len(tokens.preamble) + np.array(before) + tokens.query_lengths[order]
    np.testing.assert_array_equal(rows["chain_rule"].seen, expected)


def test_several_devices_alone_are_checked_by_whole_prompts(benchmark, data, tmp_path):
    result = invoke(benchmark.main, "--quick", "--methods", "spread", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "scoring_cpu_quick.json").read_text())["rows"]
    assert [row["num_claims"] for row in rows] == [4, 8]
    for row in rows:
        assert row["score_error"] < 2e-5
        assert row["pass_seconds"] > 0
        assert f"checked by {row['num_claims']} prompts" in row["note"]


@pytest.mark.slow
def test_cores_that_are_devices_have_a_process_of_their_own(engines, data, tmp_path):
    from checkpoint import make_checkpoint

    empty = tmp_path / "empty"
    empty.mkdir()
    folder = make_checkpoint(tmp_path / "model", ["claim"], num_layers=1, hidden_size=32)
    options = {"num_devices": 2, "repeats": 1, "budget": 1 << 30, "sample": 2, "quick": True}
    row = engines.measure_cores(4, options | {"model": str(folder)})
    assert (row["method"], row["num_claims"]) == ("tree on 2 devices", 4)
    assert row["score_error"] < 2e-5
    assert row["pass_seconds"] > 0 < row["matmul_rate"]
    assert "checked by 2 prompts" in row["note"]
    row = engines.measure_cores(4, options | {"model": str(empty)})
    assert row["pass_seconds"] is None
    assert "not measured: " in row["note"]


def test_an_unknown_method_is_told(benchmark, data):
    result = invoke(benchmark.main, "--quick", "--methods", "tree,spred")
    assert result.exit_code == 2
    assert "spred; choose of sequential, tree, spread" in result.output


def test_a_budget_that_nothing_fits_is_told(benchmark, data):
    result = invoke(benchmark.main, "--quick", "--methods", "tree", "--budget", "1e-6")
    assert result.exit_code == 1
    for num_claims in (4, 8):
        assert f"{num_claims} claims left out. A scoring pass fits" in result.output
    assert "Error: no number of claims could be measured" in result.output

    from shapes import random_lm, random_tokens

    lm = random_lm("tiny")
    inputs = (lm, random_tokens(4, 6, lm.config.vocab_size), np.zeros(4, np.int8))
    options = {"num_devices": 2, "budget": 1000, "repeats": 1}
    row = benchmark.measure_spread(*inputs, None, {}, 1.0, options)
    assert row["pass_seconds"] is None
    assert "more than the budget" in row["note"]


def test_a_failed_engine_is_reported_by_its_first_error(engines):
    log = "ERROR worker.py\nValueError: too little memory\nException: a worker died"
    assert engines._first_error(log) == "ValueError: too little memory"
    assert engines._first_error("killed\n") == "killed"
    assert engines._first_error("") == "no message"
