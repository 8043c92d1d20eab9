"""The commands, from claims to held-out accuracy, and what bad input gets."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import make_checkpoint
from click.testing import CliRunner

from icmjax.cli.commands import main

pytestmark = pytest.mark.runs_long


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def rows():
    texts = ["Trade helps", "Trade harms", "Taxes help", "Taxes harm", "Dams help", "Dams harm"]
    return [
        {
            "id": f"c{index}",
            "question": "What do you think?",
            "choice": choice,
            "raw_choice_1": "helps",
            "raw_choice_2": "harms",
            "consistency_id": index // 2,
            "persona": "Japan",
            "label": index % 2,
        }
        for index, choice in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    """A model and claim files."""
    folder = tmp_path_factory.mktemp("cli")
    texts = [row["choice"] + row["question"] for row in rows]
    texts += ["I think this claim is True", "I think this claim is False"] * 20
    make_checkpoint(folder / "model", "llama", texts)
    _write(folder / "claims.jsonl", rows)
    _write(folder / "test.jsonl", [row | {"id": f"t{row['id']}"} for row in rows])
    return folder


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(folder):
    out = folder / "run"
    result = invoke(
        "search",
        "--model",
        folder / "model",
        "--claims",
        folder / "claims.jsonl",
        "--out",
        out,
        "--iterations",
        12,
        "--quiet",
    )
    assert result.exit_code == 0, result.output
    return out


def test_search_writes_labels_and_summary(run, rows):
    labels = [json.loads(line) for line in (run / "labels.jsonl").read_text().splitlines()]
    assert [row["id"] for row in labels] == [row["id"] for row in rows]
    keys = {"id", "persona", "consistency_id", "question", "choice", "label", "log_odds"}
    assert all(keys | {"marginal"} <= row.keys() for row in labels)
    summary = json.loads((run / "summary.json").read_text())
    found = np.array([row["label"] for row in labels])
    gold = np.array([row["label"] for row in rows])
    assert summary["accuracy"] == pytest.approx((found == gold).mean())
    assert summary["num_claims"] == 6


def test_a_search_says_its_plan_and_is_shared_by_devices(run, folder, tmp_path):
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl"
    settings = "--iterations", 12, "--devices", 2, "--memory-budget", 0.5
    result = invoke("search", *files, "--out", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.output
    assert "tree: 6 claims" in result.stderr
    assert "on each of 2 devices" in result.stderr
    assert "of 512 MiB" in result.stderr
    shared = json.loads((tmp_path / "run" / "summary.json").read_text())
    alone = json.loads((run / "summary.json").read_text())
    assert shared["utility"] == pytest.approx(alone["utility"], abs=1e-4)


def test_score_gives_the_utility_of_the_summary(run, folder):
    result = invoke(
        "score",
        "--model",
        folder / "model",
        "--claims",
        folder / "claims.jsonl",
        "--labels",
        run / "labels.jsonl",
    )
    assert result.exit_code == 0, result.output
    score, summary = json.loads(result.output), json.loads((run / "summary.json").read_text())
    for name in ("utility", "mutual_predictability", "num_inconsistent", "accuracy"):
        assert score[name] == pytest.approx(summary[name], abs=1e-5)


def test_score_is_the_same_on_two_devices(run, folder):
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl"
    given = (*files, "--labels", run / "labels.jsonl")
    alone, shared = (invoke("score", *given, "--devices", number) for number in (1, 2))
    utilities = [json.loads(result.stdout)["utility"] for result in (alone, shared)]
    assert utilities[0] == pytest.approx(utilities[1], abs=1e-4)
    assert invoke("score", *given, "--devices", 99).exit_code == 2


def test_labels_may_come_in_any_order(run, folder, tmp_path):
    lines = (run / "labels.jsonl").read_text().splitlines()
    shuffled = tmp_path / "labels.jsonl"
    shuffled.write_text("\n".join(lines[::-1]))
    scores = [
        invoke(
            "score",
            "--model",
            folder / "model",
            "--claims",
            folder / "claims.jsonl",
            "--labels",
            labels,
        ).output
        for labels in (run / "labels.jsonl", shuffled)
    ]
    assert scores[0] == scores[1]


def test_evaluate_compares_the_conditions(run, folder):
    result = invoke(
        "evaluate",
        "--model",
        folder / "model",
        "--demos",
        run,
        "--claims",
        folder / "test.jsonl",
        "--gold",
        folder / "claims.jsonl",
        "--draws",
        3,
    )
    assert result.exit_code == 0, result.output
    for name in ("zero-shot", "calibrated", "random labels", "search labels", "gold labels"):
        assert name in result.output
    content = json.loads((run / "evaluation.json").read_text())
    draws = {row["condition"]: row["draws"] for row in content["conditions"]}
    assert len(draws["random labels"]) == 3
    assert (run / "evaluation.png").stat().st_size > 1000


def test_evaluate_refuses_a_budget_that_nothing_fits(run, folder):
    files = "--model", folder / "model", "--demos", run, "--claims", folder / "test.jsonl"
    result = invoke("evaluate", *files, "--memory-budget", 0.00001)
    assert result.exit_code == 2
    assert "more than the budget" in result.output


def test_gold_labels_never_reach_the_search(run, folder, rows, tmp_path):
    flipped = [row | {"label": 1 - row["label"]} for row in rows]
    claims = _write(tmp_path / "claims.jsonl", flipped)
    out = tmp_path / "run"
    result = invoke(
        "search",
        "--model",
        folder / "model",
        "--claims",
        claims,
        "--out",
        out,
        "--iterations",
        12,
        "--quiet",
    )
    assert result.exit_code == 0, result.output
    for name in ("labels.jsonl", "scores.npz", "trace.npz"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


BAD_INPUT = {
    "missing file": (["--claims", "nowhere.jsonl"], "nowhere.jsonl"),
    "unknown persona": (["--persona", "Japn"], "Japan"),
    "too few claims": (["--limit", 1], "two"),
    "a rule that does not fit": (["--claims", "{folder}/odd.jsonl"], "odd.jsonl"),
    "a label outside of the options": (["--claims", "{folder}/labels.jsonl"], "maybe"),
    "a malformed line": (["--claims", "{folder}/broken.jsonl"], ":2"),
    "a missing column": (["--claims", "{folder}/columns.jsonl"], "choice"),
    "an empty set": (["--claims", "{folder}/empty.jsonl"], "empty.jsonl"),
    "ids used twice": (["--claims", "{folder}/twice.jsonl"], "distinct"),
    "a missing model": (["--model", "nowhere"], "nowhere"),
    "an unknown group": (["--claims", "persona-world:norvani:0"], "norvania"),
    "a task with a persona": (
        ["--claims", "persona-world:norvania:0", "--persona", "x"],
        "persona",
    ),
    "unknown words": (["--model", "persona-world", "--claims", "{folder}/claims.jsonl"], "word"),
    "a wrong range": (["--alpha", -1], "alpha"),
    "nothing to resume": (["--resume"], "resume"),
    "a folder in use": (["--out", "{folder}/run"], "empty folder"),
    "more devices than there are": (["--devices", 99], "give 1 to"),
    "devices for another method": (["--devices", 2, "--method", "sequential"], "goes with"),
    "a budget that nothing fits": (["--memory-budget", 0.00001], "more than the budget"),
    "a budget without a bound": (["--memory-budget", "1e300"], "above 0"),
    "a budget that is no number": (["--memory-budget", "nan"], "above 0"),
    "a batch that does not fit": (["--batch-size", 10**6], "leave batch_size out"),
    "a template that is not there": (["--template", "poem"], "poem"),
}


@pytest.fixture(scope="module")
def bad(folder, run, rows):
    _write(folder / "odd.jsonl", [*rows, rows[0] | {"id": "x", "choice": "Trade waits"}])
    _write(folder / "labels.jsonl", [*rows[:-1], rows[-1] | {"label": "maybe"}])
    (folder / "broken.jsonl").write_text(json.dumps(rows[0]) + "\n{oops\n")
    _write(folder / "columns.jsonl", [{"question": "q", "consistency_id": 0}] * 2)
    (folder / "empty.jsonl").write_text("")
    _write(folder / "twice.jsonl", [row | {"id": "same"} for row in rows])
    return folder


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_a_message_and_status_2(bad, tmp_path, case):
    options, expected = BAD_INPUT[case]
    given = [str(option).format(folder=bad) for option in options]
    out, claims = tmp_path / "o", bad / "claims.jsonl"
    defaults = {"--model": bad / "model", "--claims": claims, "--out": out}
    for name, value in defaults.items():
        given += [] if name in given else [name, value]
    result = invoke("search", *given, "--quiet")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert expected.lower() in result.output.lower(), result.output
    assert "found:" in result.output
    assert "to do:" in result.output
    assert not out.exists()  # nothing half-written


def test_a_resume_under_another_configuration_shows_the_difference(run, folder):
    result = invoke(
        "search",
        "--model",
        folder / "model",
        "--claims",
        folder / "claims.jsonl",
        "--out",
        run,
        "--iterations",
        13,
        "--quiet",
        "--resume",
    )
    assert result.exit_code == 2
    assert "num_iterations = 13, before 12" in result.output


def test_labels_of_other_claims_are_refused(run, folder, rows, tmp_path):
    other = _write(tmp_path / "labels.jsonl", [rows[0], rows[1] | {"choice": "Something else"}])
    result = invoke(
        "score", "--model", folder / "model", "--claims", folder / "claims.jsonl", "--labels", other
    )
    assert result.exit_code == 2
    assert "no label of claim 'c2'" in result.output
    assert "say the same" in result.output


def test_clamped_labels_stay(folder, rows, tmp_path):
    clamp = [
        row | {"label": 1 - row["label"] if index == 3 else None} for index, row in enumerate(rows)
    ]
    out = tmp_path / "run"
    result = invoke(
        "search",
        "--model",
        folder / "model",
        "--claims",
        folder / "claims.jsonl",
        "--clamp",
        _write(tmp_path / "clamp.jsonl", clamp),
        "--out",
        out,
        "--iterations",
        12,
        "--quiet",
    )
    assert result.exit_code == 0, result.output
    labels = [json.loads(line)["label"] for line in (out / "labels.jsonl").read_text().splitlines()]
    assert labels[3] == 1 - rows[3]["label"]


def test_scores_that_are_no_numbers_end_the_search(folder, tmp_path):
    model = shutil.copytree(folder / "model", tmp_path / "model")
    weights = safetensors.numpy.load_file(model / "model.safetensors")
    weights["model.norm.weight"][:] = 3e38  # finite, but what it scales is not
    safetensors.numpy.save_file(weights, model / "model.safetensors", {"format": "pt"})
    out = tmp_path / "run"
    options = ("--claims", folder / "claims.jsonl", "--out", out, "--iterations", 12, "--quiet")
    result = invoke("search", "--model", model, *options)
    assert result.exit_code == 2, result.output
    assert "finite" in result.output
    assert "Traceback" not in result.output
    assert not out.exists()
