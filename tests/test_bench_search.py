"""The benchmark of searches runs at toy size, counts tokens three ways and says pass or fail."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from scorers import table_scorer

from icmjax.claims.consistency import no_rules
from icmjax.search import run_search

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    # Another benchmark's test may hold a module of this name.
    sys.path.insert(0, str(BENCHMARKS))
    sys.modules.pop("search", None)
    try:
        import search as module

        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("search", None)


@pytest.mark.slow
def test_the_command_runs_at_toy_size(benchmark, tmp_path, monkeypatch):
    arguments = ["--observer", "--quick", "--out", str(tmp_path)]
    arguments += ["--algorithms", "icm,tempering,bootstrap"]
    result = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"Cost: {benchmark.QUICK_COST}")
    content = json.loads((tmp_path / "search_cpu_quick.json").read_text())
    assert [row["num_claims"] for row in content["tasks"]] == [8, 8, 8]
    assert [row["num_claims"] for row in content["small_tasks"]] == [8, 8]
    for row in content["tasks"]:
        assert row["bootstrap"]["passes"] >= 2
        assert row["few_passes"]["tokens_to_icm"] >= 1  # passes, of the observer
        assert row["tempering"]["seconds"] > 0
        assert row["few_passes"]["a pass each"] >= row["few_passes"]["as run"]
    for text in ("±", "a pass each (criterion)", "as high as icm or higher", "every small task"):
        assert text in result.output
    assert result.output.count("pass\n") + result.output.count("FAIL") >= 4
    monkeypatch.setattr(benchmark, "run_search", None)  # what is there is not searched again
    again = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
    assert again.stdout == result.stdout
    other = CliRunner().invoke(benchmark.main, [*arguments, "--leave", "group"])
    assert other.exit_code == 2
    assert "other settings (leave)" in other.output


@pytest.mark.slow
def test_tokens_are_counted_in_each_way(benchmark):
    num_claims = 17
    scorer = table_scorer(1, num_claims, coupling=2.0)
    found = {
        name: run_search(
            scorer, no_rules(), benchmark.ALGORITHMS[name], jax.random.key(0), progress=False
        )
        for name in ("icm", "tempering")
    }
    icm, tempering = found["icm"], found["tempering"]
    ratios = benchmark.few_passes(icm, tempering, scorer, benchmark.PassCounter())
    best = tempering.trace.best_utility[:, 0]
    step = np.flatnonzero(best >= icm.utility - 1e-3)[0]
    tokens = tempering.tokens[: step + 1].sum()
    assert ratios["tokens_to_icm"] == tokens
    assert ratios["as run"] == pytest.approx(icm.tokens.sum() / tokens)
    # Without rules a step takes one pass at the most.
    shown = icm.trace.num_labelled[:, 0].copy()
    is_new = (icm.trace.labels[:-1, 0] < 0)[np.arange(len(shown) - 1), icm.trace.claim[1:, 0]]
    shown[1:] = (icm.trace.labels[:-1, 0] >= 0).sum(axis=1) + is_new
    assert ratios["a pass each"] == pytest.approx((4 * num_claims * shown).sum() / tokens)
    assert ratios["a prompt each"] == pytest.approx(len(shown) / tokens)
    none = benchmark.few_passes(icm._replace(utility=100.0), tempering, scorer)
    assert none["tokens_to_icm"] == float("inf")
    assert none["a pass each"] == 0
    assert not none["is_as_high"]


def test_every_tier_has_every_size(benchmark):
    setting = benchmark.Setting(benchmark.make_world(), None, "tree", "claim")
    tiers = list(setting.world.tiers)
    met = {
        (index % len(tiers), setting.num_claims(index, "8,10,12,14"))
        for index in range(4 * len(tiers))
    }
    assert len(met) == 4 * len(tiers)


@pytest.mark.slow
def test_the_cost_comes_first_and_rows_are_kept_in_runs(benchmark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--observer", "--num-tasks", "0", "--num-small-tasks", "1"]
    arguments += ["--num-small-claims", "4", "--algorithms", "bootstrap"]
    result = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"Cost: {benchmark.COST}. Every task is written to runs")
    content = json.loads((tmp_path / "runs" / "bench-search" / "search_cpu.json").read_text())
    assert len(content["small_tasks"]) == 1


class Lengths:
    """Claims of 3 tokens, and 5 with a label and what parts it from the next; 2 before them."""

    query_lengths = np.full(3, 3)
    demonstration_lengths = np.full((3, 2), 5)
    preamble = np.zeros(2)


def test_prompts_have_three_prices(benchmark):
    prices = benchmark.Prices(lambda labels: 100, [2, 0, 1], Lengths)
    prices.ask_one((1, 0, -1), 2)  # claims 0 and 1, and the query: 2 + 5 + 5 + 3
    assert prices.tokens == {"tree": 15, "whole": 15, "cached": 15}
    prices.ask_one((1, 0, -1), 2)
    assert prices.tokens == {"tree": 30, "whole": 30, "cached": 15}
    prices.ask_all((1, 0, -1))  # 2 + 5 + 3 twice; claim 1 alone, and the query after 0, are new
    assert prices.tokens["tree"] == 130
    assert prices.tokens["whole"] == 50
    # Before the query of 0 stands 1 with its label: 5 + 3. That of 1 goes on from 0: known.
    assert prices.tokens["cached"] == 15 + 8
    prices.ask_all((1, 1, -1))  # other words from the label of 1 on: 2 + 3
    assert prices.tokens["cached"] == 23 + 5
    assert (prices.num_prompts, prices.num_scorings) == (6, 2)


def test_the_published_search_scores_all_only_where_a_label_changes(benchmark):
    """Without rules: once for the seeds and once for every flip; one prompt for every step."""
    scorer, asked = table_scorer(2, 8, coupling=2.0), []

    def odds(labels):
        logp = np.asarray(scorer(np.asarray(labels, np.int8)))
        return logp[:, 1] - logp[:, 0]

    search = benchmark.PublishedSearch(
        odds,
        no_rules(),
        list(range(8)),
        benchmark.NumpyChance(0),
        benchmark.Settings(num_iterations=40),
        ask_all=lambda labels: asked.append("all"),
        ask_one=lambda labels, claim: asked.append("one"),
    )
    steps = search.run()
    assert asked.count("one") == 40
    assert asked.count("all") == 1 + sum(step.is_flip for step in steps)
    assert 1 < asked.count("all") < 40


def test_tempering_is_charged_up_to_the_utility(benchmark):
    scorer, algorithm = table_scorer(2, 8, coupling=2.0), benchmark.ALGORITHMS["bootstrap"]
    found = run_search(scorer, no_rules(), algorithm, jax.random.key(0), progress=False)
    trace = found.trace._replace(num_passes=found.trace.num_passes[:, :, None])  # of one replica
    best = trace.best_utility.max(axis=1)
    assert best[1] < best[-1]
    for target in (best[1], best[-1]):
        cost = benchmark.tempering_cost(found._replace(trace=trace), target)
        num_steps = int(np.argmax(best >= target - 1e-3)) + 1
        assert cost["tempering_passes"] == num_steps
        assert cost["tempering_tokens"] == found.tokens[:num_steps].sum()
        assert cost["all_tempering_tokens"] == found.tokens.sum()
    never = benchmark.tempering_cost(found._replace(trace=trace), 1e9)
    assert never["tempering_tokens"] is never["tempering_passes"] is None


def test_the_observer_has_no_price(benchmark):
    result = CliRunner().invoke(benchmark.main, ["--reference-cost", "--observer"])
    assert result.exit_code == 2
    assert "reads none" in result.output


@pytest.mark.slow
def test_the_reference_cost_runs_at_toy_size(benchmark, tmp_path):
    arguments = ["--reference-cost", "--quick", "--num-tasks", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "search_cpu_reference_quick.json").read_text())["tasks"]
    for row in rows:
        assert row["prompts"] >= row["scorings"]
        assert row["tokens"]["whole"] > row["tokens"]["tree"]
        assert row["tokens"]["whole"] > row["tokens"]["cached"]
        assert row["one_pass"] < row["tempering_tokens"] <= row["all_tempering_tokens"]
    for name in ("prompts", "tree / tempering's", "whole / tempering's", "cached / one pass"):
        assert name in result.output
