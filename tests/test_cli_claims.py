"""Claims by columns of other names and with other labels, from a search to what is made of it."""

import json

import numpy as np
import pytest
from checkpoints import make_checkpoint
from commands import invoke, write_rows

import icmjax

WORDS = ("tea", "rice", "soup", "jam", "salt", "corn")
SCALE = ("never", "at times", "always")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and claims on a scale, in columns of other names."""
    folder = tmp_path_factory.mktemp("claims")
    rows = [
        {"id": f"c{i}", "Q, in full": "How often?", "Text": f"I eat {word}", "How": SCALE[i % 3]}
        for i, word in enumerate(WORDS)
    ]
    write_rows(folder / "claims.jsonl", rows)
    held_out = [row | {"Text": row["Text"].replace("eat", "like"), "id": f"t{i}"}
                for i, row in enumerate(rows)]  # fmt: skip
    write_rows(folder / "test.jsonl", held_out)
    texts = [row["Text"] + row["Q, in full"] for row in rows]
    texts += [f"I think this claim is {label} like True False" for label in SCALE] * 20
    make_checkpoint(folder / "model", "llama", texts, num_hidden_layers=1)
    return folder


COLUMNS = "--columns", '"question=Q, in full",choice=Text,label=How'
OPTIONS = "--options", ",".join(SCALE)


@pytest.fixture(scope="module")
def run(folder):
    out = folder / "run"
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl", "--out", out
    result = invoke("search", *files, *COLUMNS, *OPTIONS, "--algorithm", "bootstrap", "--quiet")
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.slow
def test_a_run_has_the_claims_and_the_labels_of_the_options(folder, run):
    record = icmjax.read_run(run)
    assert record.claims.options == SCALE
    assert [claim.choice for claim in record.claims.claims] == [f"I eat {word}" for word in WORDS]
    assert record.marginals.shape == (6, 3)
    expected = (record.labels == np.arange(6) % 3).mean()
    assert record.summary["accuracy"] == pytest.approx(expected)
    options = record.manifest["options"]
    assert (options["columns"], options["label_options"]) == (COLUMNS[1], OPTIONS[1])


@pytest.mark.slow
def test_later_commands_know_both(folder, run):
    model = "--model", folder / "model"
    scored = invoke(
        "score", *model, "--claims", folder / "claims.jsonl", *COLUMNS, *OPTIONS,
        "--labels", run / "labels.jsonl",
    )  # fmt: skip
    assert scored.exit_code == 0, scored.output
    summary = icmjax.read_run(run).summary
    assert json.loads(scored.stdout)["accuracy"] == summary["accuracy"]
    # Queries have the labels of the demonstrations, without being told.
    for options in ((), OPTIONS):
        gold = "--gold", folder / "claims.jsonl"
        test = "--claims", folder / "test.jsonl", "--demos", run, "--draws", 1
        result = invoke("evaluate", *model, *test, *COLUMNS, *options, *gold)
        assert result.exit_code == 0, result.output
        assert "gold labels" in result.stdout
    questions = "--out", run / "questions.jsonl"
    asked = invoke("ask", run, "--budget", 1, "--selector", "margin", *questions)
    assert asked.exit_code == 0, asked.output
    (row,) = [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]
    write_rows(run / "questions.jsonl", [row | {"label": "always"}])
    answered = invoke("answer", run, "--labels", run / "questions.jsonl", "--quiet")
    assert answered.exit_code == 0, answered.output
    again = icmjax.read_run(run / "answered")
    index = [claim.id for claim in again.claims.claims].index(row["id"])
    assert again.labels[index] == SCALE.index("always")
    assert again.summary["num_accuracy_claims"] == 5  # gold is found by the columns
    exported = invoke("export", run, "--format", "prompt")
    assert exported.exit_code == 0, exported.output
    assert "I eat tea" in (run / "prompt.txt").read_text()


@pytest.mark.slow
def test_predictions_have_the_labels_of_the_run_and_read_no_gold(folder, run, tmp_path):
    """A label that is none of the options is not even looked at."""
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    asked = write_rows(tmp_path / "asked.jsonl", [row | {"How": "who knows"} for row in rows])
    files = "--model", folder / "model", "--demos", run, "--claims", asked
    out = tmp_path / "predictions.jsonl"
    result = invoke("predict", *files, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert f"columns {COLUMNS[1]}, as the run's" in result.stderr
    assert list(json.loads(result.stdout)["label_shares"]) == [*SCALE]
    assert len(out.read_text().splitlines()) == len(rows)


def test_an_exported_task_asks_for_the_labels_of_the_run(folder, run, tmp_path):
    claims = "--claims", folder / "test.jsonl"
    out = tmp_path / "task"
    result = invoke("export", run, "--format", "lm-eval", *claims, "--out", out)
    assert result.exit_code == 0, result.output
    labels = [
        json.loads(line)["label"] for line in (out / "queries.jsonl").read_text().splitlines()
    ]
    assert labels == [0, 1, 2] * 2


def test_gold_labels_of_demonstrations_are_found_by_the_run_s_columns(folder, run, tmp_path):
    """The held-out claims have our names."""
    claims = icmjax.load_claims(
        folder / "test.jsonl",
        options=SCALE,
        columns=icmjax.claims.parse_columns(COLUMNS[1]),
    )
    gold = icmjax.GoldLabels(np.arange(6, dtype=np.int8) % 3)
    icmjax.write_claims(claims, tmp_path / "test.jsonl", gold)
    files = "--model", folder / "model", "--demos", run, "--claims", tmp_path / "test.jsonl"
    result = invoke("evaluate", *files, "--draws", 1, "--gold", folder / "claims.jsonl")
    assert result.exit_code == 0, result.output
    assert "gold labels" in result.stdout


def test_check_says_both(folder):
    claims = "--claims", folder / "claims.jsonl"
    result = invoke("check", *claims, *COLUMNS, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert "labels to choose from: never, at times, always" in result.output
    assert "gold labels: 6 of 6" in result.output


@pytest.mark.parametrize("command", ["check", "search", "score", "evaluate"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--columns", "choice=text"), "did you mean Text?"),
        (("--columns", "coice=Text"), "did you mean choice?"),
        (("--columns", "Text"), "ours=yours"),
        (("--columns", "choice=Text", "--options", "A"), "Label options are distinct names"),
        (("--columns", "choice=Text", "--options", '"A'), "Names have commas"),
        (("--columns", "choice=Text,label=How"), "A label is one of False, True"),
        ((), "--columns claim=Text"),
    ],
)
def test_every_command_names_what_is_wrong(folder, run, tmp_path, command, words, found):
    needed = {
        "check": (),
        "search": ("--out", tmp_path / "out"),
        "score": ("--labels", run / "labels.jsonl"),
        "evaluate": ("--demos", run),
    }[command]
    if command == "evaluate" and "A label is" in found:
        words = (*words, "--options", "False,True")  # which are not the run's
    if command == "evaluate" and not words:
        words = ("--columns", "label=How")  # else the run's are taken
    model = ("--model", folder / "model") if command != "check" else ()
    result = invoke(command, *model, "--claims", folder / "claims.jsonl", *needed, *words)
    assert result.exit_code == 2, result.output
    assert found in result.output, result.output
    assert "to do:" in result.output
    assert not (tmp_path / "out").exists()


def test_a_task_says_its_labels_itself():
    result = invoke("check", "--claims", "persona-world:norvania:0", *OPTIONS)
    assert result.exit_code == 2
    assert "labels itself" in result.output


def test_a_folder_with_a_split_is_recorded_by_its_whole_path(tmp_path, monkeypatch):
    from icmjax.cli.inputs import place_of

    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert place_of("data@train") == f"{tmp_path / 'data'}@train"
    assert place_of("data") == str(tmp_path / "data")
    assert place_of("hf:owner/name@train") == "hf:owner/name@train"
    assert place_of("nowhere@train") == "nowhere@train"


def test_two_columns_of_a_spreadsheet_are_enough(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text("claim,label\nRice helps,True\nTea harms,False\n")
    result = invoke("check", "--claims", path)
    assert result.exit_code == 0, result.output
    assert "2 claims, no pair rule" in result.output
    assert "gold labels: 2 of 2" in result.output
