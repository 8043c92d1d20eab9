"""Every experiment runs at toy size, resumes, and gives the same bytes for the same seed."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from icmjax.persona_world.world import make_world

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TOY = "--groups hestonia,ilvania --seeds 1 --num-claims 8 --num-test 8"
# By experiment: its options at toy size. The observer in place of the model, where it can read.
EXPERIMENTS = {
    "matched_accuracy": f"--model observer {TOY} --iterations 6 --swaps 4 --draws 3 --repeats 1",
    "targeted_feedback": f"--model observer {TOY} --iterations 6 --budgets 1,2 --draws 2",
    "robustness": f"{TOY} --iterations 6 --orders 2 --parts order,unknown",
    "icm_vs_gold": f"{TOY} --orders 2 --draws 2 --algorithms bootstrap --formats claims,open",
    "bundled_model": "--groups hestonia,ilvania --seeds 1",
}


@pytest.fixture(scope="module", autouse=True)
def experiments_on_path():
    sys.path.insert(0, str(ROOT / "experiments"))
    yield
    sys.path.remove(str(ROOT / "experiments"))


def run(name, options, out):
    command = importlib.import_module(name).main
    result = CliRunner().invoke(command, [*options.split(), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Folder and printed tables by experiment, each run once."""
    done = {}

    def output_of(name):
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            done[name] = (out, run(name, EXPERIMENTS[name], out))
        return done[name]

    return output_of


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_states_what_it_is_of(outputs, name):
    out, printed = outputs(name)
    report = json.loads((out / "report.json").read_text())
    for title, rows in report.items():
        assert title in printed
        for row in rows:
            assert {"num", "mean", "spread", "low", "high", "p_value"} <= row.keys()
            assert np.isfinite(row["mean"])
            assert row["num"] == 1 or row["low"] <= row["mean"] + 1e-9
    assert len((out / "units.jsonl").read_text().splitlines()) == 2
    assert any(path.stat().st_size > 1000 for path in out.glob("*.png"))


@pytest.mark.parametrize("name", ["matched_accuracy", "targeted_feedback"])
def test_the_same_seed_gives_the_same_bytes_and_a_broken_run_goes_on(outputs, name, tmp_path):
    out, _ = outputs(name)
    units = (out / "units.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "config.json").write_text((out / "config.json").read_text())
    (tmp_path / "units.jsonl").write_text(units[0])
    run(name, EXPERIMENTS[name], tmp_path)
    for file in ("units.jsonl", "report.json", "config.json"):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes()


def test_another_configuration_is_refused(outputs):
    out, _ = outputs("matched_accuracy")
    command = importlib.import_module("matched_accuracy").main
    options = EXPERIMENTS["matched_accuracy"].replace("--swaps 4", "--swaps 5")
    result = CliRunner().invoke(command, [*options.split(), "--out", str(out)])
    assert result.exit_code == 2
    assert "4 then, 5 now" in result.output


def test_matched_sets_are_matched(outputs):
    """From the labels' own numbers, besides the assertions in the experiment."""
    out, _ = outputs("matched_accuracy")
    for line in (out / "units.jsonl").read_text().splitlines():
        unit = json.loads(line)
        assert len(unit["flips"]) == 3
        assert [one["beta"] for one in unit["dosed"]] == [-2.0, -0.5, 0.0, 0.5, 2.0]
        assert unit["label_accuracy"] == 1 - 2 * unit["num_wrong_pairs"] / 8


def test_sets_that_are_not_matched_are_caught():
    module = importlib.import_module("matched_accuracy")
    gold, pairs = np.array([1, 0, 0, 1], np.int8), np.array([[0, 1], [2, 3]])
    module.assert_matched(np.array([[0, 1, 0, 1]]), gold, pairs, 1)
    with pytest.raises(AssertionError, match="differ in accuracy"):
        module.assert_matched(np.array([[1, 0, 0, 1]]), gold, pairs, 1)
    with pytest.raises(AssertionError, match="not consistent"):
        module.assert_matched(np.array([[0, 0, 1, 1]]), gold, pairs, 1)


def test_the_phase_diagram_at_toy_size(tmp_path):
    options = EXPERIMENTS["matched_accuracy"].replace("num-claims 8", "num-claims 32")
    printed = run("matched_accuracy", f"{options} --part phase", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    (rows,) = report.values()  # the observer stands in for the model too
    assert len(rows) == 18
    assert "below f*" in printed
    assert (tmp_path / "phase_diagram.png").exists()


def test_critical_shares():
    critical_share = importlib.import_module("phase_diagram").critical_share
    found = [critical_share(error) for error in make_world().config.source_errors[:3]]
    np.testing.assert_allclose(found, [0.15, 0.19, 0.27], atol=0.005)


def test_votes_become_preferences_by_party(tmp_path):
    folder = DATA / "polarized_issues"
    if not folder.exists():
        pytest.skip(f"needs the public data in {folder}")
    command = importlib.import_module("polarized_issues").main
    result = CliRunner().invoke(command, ["--data", str(folder), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    texts = {}
    for split in ("search", "test"):
        rows = [
            json.loads(line)
            for line in (tmp_path / f"democrats_{split}.jsonl").read_text().splitlines()
        ]
        assert len(rows) > 300
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            assert first["choice"] == second["choice_2"]
            assert first["label"] is not second["label"]
        texts[split] = {row["choice"] for row in rows}
    # Some people said the very same thing; no response is in both splits but for those.
    assert len(texts["search"] & texts["test"]) <= 2
