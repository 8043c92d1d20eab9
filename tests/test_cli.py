"""The commands, from claims to held-out accuracy, and what bad input gets."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import make_checkpoint
from commands import invoke

from icmjax.cli import options


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
    held_out = [
        row | {"id": f"t{row['id']}", "consistency_id": f"t{row['consistency_id']}"} for row in rows
    ]
    for row in held_out:
        row["choice"] = row["choice"].replace("Trade", "Peace").replace("Taxes", "Rain")
    # The last two stay demonstrations, with other spaces and under other ids.
    held_out[-1]["choice"] = f"  {held_out[-1]['choice'].replace(' ', '  ')}"
    _write(folder / "test.jsonl", held_out)
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


@pytest.mark.slow
def test_a_search_says_its_plan_and_is_shared_by_devices(run, folder, tmp_path):
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl"
    settings = "--iterations", 12, "--devices", 2, "--memory-budget", 0.5
    result = invoke("search", *files, "--out", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.output
    assert "tree: 6 claims" in result.stderr
    assert "on each of 2 devices" in result.stderr
    assert "of 512 MiB; compiling is not counted" in result.stderr
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


@pytest.mark.slow
def test_score_is_the_same_on_two_devices(run, folder):
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl"
    given = (*files, "--labels", run / "labels.jsonl")
    alone, shared = (invoke("score", *given, "--devices", number) for number in (1, 2))
    utilities = [json.loads(result.stdout)["utility"] for result in (alone, shared)]
    assert utilities[0] == pytest.approx(utilities[1], abs=1e-4)
    assert invoke("score", *given, "--devices", 99).exit_code == 2


def test_the_accuracy_is_of_labelled_claims_with_gold(folder, rows, tmp_path):
    """A claim without a label is not wrong, and one without gold is not judged."""
    labels = [
        row | {"label": label} for row, label in zip(rows, [1, 1, 0, None, 1, 0], strict=True)
    ]
    gold = [row | {"label": None if row["id"] == "c5" else row["label"]} for row in rows]
    claims = _write(tmp_path / "claims.jsonl", gold)
    files = "--model", folder / "model", "--claims", claims
    result = invoke("score", *files, "--labels", _write(tmp_path / "labels.jsonl", labels))
    assert result.exit_code == 0, result.output
    score = json.loads(result.stdout)
    # Gold is 0, 1, 0, 1, 0 and none: of c0, c1, c2 and c4 two are right.
    assert (score["accuracy"], score["num_accuracy_claims"]) == (0.5, 4)
    assert score["num_labelled"] == 5
    none = _write(tmp_path / "none.jsonl", [row | {"label": None} for row in rows])
    files = "--model", folder / "model", "--claims", none, "--labels", folder / "claims.jsonl"
    score = json.loads(invoke("score", *files).stdout)
    assert (score["accuracy"], score["num_accuracy_claims"]) == (None, 0)


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


def evaluate(run, folder, *arguments):
    files = "--model", folder / "model", "--demos", run, "--gold", folder / "claims.jsonl"
    return invoke("evaluate", *files, "--draws", 3, *arguments)


def test_evaluate_compares_the_conditions(run, folder, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    result = evaluate(run, folder, "--claims", folder / "test.jsonl")
    assert result.exit_code == 0, result.output
    names = ("zero-shot", "calibrated zero-shot", "random labels", "search labels", "gold labels")
    for name in names:
        assert name in result.stdout
    assert "left out 2 of 6 claims" in result.stderr
    content = json.loads((run / "evaluation.json").read_text())
    assert content["num_left_out"] == 2
    assert [row["condition"] for row in content["conditions"]] == list(names)
    for row in content["conditions"]:
        assert (row["num_claims"], row["num_groups"]) == (4, 2)
        assert all(scores["num_claims"] == 4 for scores in row["draws"])
        accuracies = [scores["accuracy"] for scores in row["draws"]]
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
        low, high = row["accuracy_interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert f"[{low:.3f}, {high:.3f}]" in result.stdout
        is_drawn = row["condition"] == "random labels"
        assert len(accuracies) == (3 if is_drawn else 1)
        assert (row["accuracy_spread_over_draws"] is not None) == is_drawn
    assert "Wilson" in content["about"]
    assert "Wilson's, of the accuracy; the claims' 2 consistency groups" in result.stdout
    assert "±: standard deviation over the draws of random labels." in result.stdout
    assert (run / "evaluation.png").stat().st_size > 1000


@pytest.mark.slow
def test_an_evaluation_is_not_written_over(run, folder, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    for number, name in ((1, "evaluation"), (2, "evaluation-2"), (3, "evaluation-3")):
        result = evaluate(run, folder, "--claims", folder / "test.jsonl", "--seed", number)
        assert result.exit_code == 0, result.output
        assert f"{name}.json" in result.stdout
        assert json.loads((run / f"{name}.json").read_text())["seed"] == number
        assert (run / f"{name}.png").exists()
    assert json.loads((run / "evaluation.json").read_text())["seed"] == 1


def test_demonstrations_are_not_held_out(run, folder, rows, tmp_path):
    """Nor are their opposites: a file of these alone has nothing left either."""
    opposites = [
        row | {"id": f"o{row['id']}", "choice": f"{row['choice']} in no way"} for row in rows
    ]
    for claims in (folder / "claims.jsonl", _write(tmp_path / "opposites.jsonl", opposites)):
        result = evaluate(run, folder, "--claims", claims, "--rule", "none")
        assert result.exit_code == 2
        assert "Held-out claims are not among the demonstrations" in result.stderr
        assert "all 6 are" in result.stderr
        assert result.stdout == ""
        # Texts that differ share nothing but their ids, as far as anybody can tell.
        is_by_id = "6 that only share a consistency_id and a question" in result.stderr
        is_advised = "no text is in both files" in result.stderr
        is_advised &= "other ids in the column consistency_id, in both files" in result.stderr
        assert is_by_id == is_advised == ("opposites" in str(claims))
        assert ("6 of the same text" in result.stderr) != is_by_id


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
    "unknown words": (
        ["--model", "persona-world", "--claims", "{folder}/claims.jsonl"],
        "those of its made-up world",
    ),
    "a wrong range": (["--alpha", -1], "alpha"),
    "nothing to resume": (["--resume"], "resume"),
    "a folder in use": (["--out", "{folder}/run"], "empty folder"),
    "more devices than there are": (["--devices", 99], "give 1 to"),
    "devices for another method": (["--devices", 2, "--method", "sequential"], "goes with"),
    "a budget that nothing fits": (["--memory-budget", 0.00001], "more than the budget"),
    "a budget without a bound": (["--memory-budget", "1e300"], "above 0"),
    "a budget that is no number": (["--memory-budget", "nan"], "above 0"),
    "a batch that does not fit": (["--batch-size", 10**6], "leave --batch-size out"),
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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def broken_model(folder, tmp_path_factory):
    """A model whose scores are no numbers."""
    model = shutil.copytree(folder / "model", tmp_path_factory.mktemp("broken") / "model")
    weights = safetensors.numpy.load_file(model / "model.safetensors")
    weights["model.norm.weight"][:] = 3e38  # finite, but what it scales is not
    safetensors.numpy.save_file(weights, model / "model.safetensors", {"format": "pt"})
    return model


def test_scores_that_are_no_numbers_end_the_search(folder, broken_model, tmp_path):
    out = tmp_path / "run"
    options = ("--claims", folder / "claims.jsonl", "--out", out, "--iterations", 12, "--quiet")
    result = invoke("search", "--model", broken_model, *options)
    assert result.exit_code == 2, result.output
    assert "finite" in result.output
    assert "Traceback" not in result.output
    assert not out.exists()


def test_scores_that_are_no_numbers_are_not_shown(run, folder, broken_model):
    """Neither as a utility nor as an accuracy; the claims are named."""
    claims = folder / "claims.jsonl"
    score = "score", "--claims", claims, "--labels", run / "labels.jsonl"
    evaluate = "evaluate", "--claims", folder / "test.jsonl", "--demos", run
    for command, name in ((score, "c0"), (evaluate, "tc0")):
        result = invoke(*command, "--model", broken_model)
        assert result.exit_code == 2, result.output
        assert "Scores of a model are finite numbers." in result.stderr
        assert f"claim '{name}'" in result.stderr
        assert result.stdout == ""
    assert not (run / "evaluation.json").exists()


def test_a_large_model_says_what_it_reads(monkeypatch, tmp_path):
    make_checkpoint(tmp_path / "lm")
    model = options.ModelOptions(str(tmp_path / "lm"), "bfloat16", "einsum", None)
    said = []
    monkeypatch.setattr(options.click, "echo", lambda text, **_: said.append(text))
    model.load()
    assert said == []
    monkeypatch.setattr(options, "WORTH_SAYING", 1)
    model.load()
    assert said == ["reading 0.0 GiB of weights in bfloat16"]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--mesh", "query=two"), "how many devices an axis has"),
        (("--mesh", "tensor=2"), "axes chain, query, model"),
        (("--mesh", "query=8"), "there are 4"),
        (("--mesh", "query=2", "--devices", "2"), "A mesh says all devices"),
    ],
)
def test_a_mesh_that_is_none_is_refused(options, rule):
    claims = "persona-world:ilvania:0"
    result = invoke(
        "score", "--model", "persona-world", "--claims", claims, "--labels", "x", *options
    )
    assert result.exit_code == 2
    assert rule in result.output


@pytest.mark.slow
def test_scores_on_a_mesh_are_those_of_one_device(tmp_path):
    make_checkpoint(tmp_path / "lm")
    claims = tmp_path / "claims.jsonl"
    rows = [
        {"persona": "Japan", "choice": f"Rice helps {i}", "consistency_id": f"{i}", "label": i % 2}
        for i in range(8)
    ]
    claims.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["score", "--model", tmp_path / "lm", "--claims", claims, "--labels", claims]
    one = invoke(*arguments)
    assert one.exit_code == 0, one.output
    many = invoke(*arguments, "--mesh", "query=2,model=2")
    assert many.exit_code == 0, many.output
    assert json.loads(many.stdout) == pytest.approx(json.loads(one.stdout), rel=1e-6)
