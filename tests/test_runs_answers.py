"""Questions and answers of people are kept; a run needs nothing but its own folder and model."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
from checkpoints import make_checkpoint
from commands import invoke, read_rows, write_rows

import icmjax
from icmjax import runs
from icmjax.cli.inputs import gold_of_run
from icmjax.runs import files, free_name
from icmjax.search import loop

CHOICES = ("Trade helps", "Trade harms", "Taxes help", "Taxes harm", "Dams help", "Dams harm")
PERSONAS = ("Japan", "Kenya")


def ask(run, budget, *options):
    """Write questions into the run's folder."""
    return invoke("ask", run, "--budget", budget, "--out", run / "questions.jsonl", *options)


def claim_rows():
    return [
        {
            "id": f"{persona}{index}",
            "question": "What do you think?",
            "choice": choice,
            "raw_choice_1": "helps",
            "raw_choice_2": "harms",
            "consistency_id": index // 2,
            "persona": persona,
            "label": index % 2,
        }
        for persona in PERSONAS
        for index, choice in enumerate(CHOICES)
    ]


def search_options(made, out):
    files = "--model", made / "model", "--claims", made / "claims.jsonl", "--persona", "Japan"
    return *files, "--out", out, "--iterations", 5, "--quiet"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, claims and a finished run."""
    folder = tmp_path_factory.mktemp("answers")
    text = f"{CHOICES} What do you think? Japan would answer: I think this claim is True False"
    make_checkpoint(folder / "model", "llama", [text] * 10)
    write_rows(folder / "claims.jsonl", claim_rows())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # recorded paths are relative to where the search ran
        options = "--model", "model", "--claims", "claims.jsonl"
        result = invoke("search", *search_options(folder, folder / "run"), *options)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.mark.slow
def test_what_the_folder_has_replies_to_is_not_asked_again(run, tmp_path):
    kept = [{"id": "Japan0", "label": 1}, {"id": "Japan2", "label": None, "is_unsure": True}]
    write_rows(run / "questions.jsonl", kept)
    path = tmp_path / "questions.csv"
    result = invoke("ask", run, "--budget", 1, "--selector", "margin", "--out", path)
    assert result.exit_code == 0, result.output
    assert "not asked again: 2, which" in result.output
    assert path.read_text().splitlines()[1].startswith(("Japan4,", "Japan5,"))


def answered(run, label=1):
    """The labels of a first question, written by hand."""
    return write_rows(run.parent / "labels.jsonl", [{"id": "Japan0", "label": label}])


def test_asking_again_keeps_what_was_answered(run):
    path = run / "questions.jsonl"
    assert ask(run, 2, "--selector", "margin").exit_code == 0
    first, second = read_rows(path)
    assert path.stat().st_mode & 0o777 == 0o600
    filled = [first | {"label": "True", "note": "sure"}, second]
    write_rows(path, filled)
    result = ask(run, 1, "--selector", "margin")
    assert result.exit_code == 0, result.output
    assert "kept 2 earlier questions, 1 of them answered" in result.output
    rows = read_rows(path)
    assert rows[:2] == filled
    assert len({row["consistency_id"] for row in rows}) == 3
    assert rows[2]["label"] is None
    result = ask(run, 1, "--selector", "margin")
    assert result.exit_code == 2  # no group is left
    assert read_rows(path) == rows
    write_rows(path, [{"id": "somebody else's", "label": 1}])
    assert ask(run, 1, "--selector", "margin").exit_code == 2
    assert read_rows(path) == [{"id": "somebody else's", "label": 1}]


def test_the_selector_is_zero_shot_entropy_by_default(run):
    texts = []
    for options in ((), ("--selector", "zero_shot_entropy"), ("--selector", "margin")):
        assert ask(run, 3, *options).exit_code == 0
        texts.append([row["uncertainty"] for row in read_rows(run / "questions.jsonl")])
        (run / "questions.jsonl").unlink()
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_claims_steer_no_terminal(made, tmp_path):
    rows = [row | {"question": "\x1b[2J" + row["question"]} for row in claim_rows()[:6]]
    write_rows(tmp_path / "claims.jsonl", rows)
    options = *search_options(made, tmp_path / "run"), "--claims", tmp_path / "claims.jsonl"
    result = invoke("search", *options)
    assert result.exit_code == 0, result.output
    result = ask(tmp_path / "run", 3, "--selector", "margin")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\\x1b[2J" in result.output


@pytest.mark.slow
def test_scores_that_are_no_numbers_are_refused(made, run, tmp_path):
    shutil.copytree(made / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["model.norm.weight"][:] = np.nan
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    manifest = files.read_sealed(run / "manifest.json")
    manifest["options"]["model"] = str(tmp_path / "model")
    files.write_sealed(run / "manifest.json", manifest)
    for selector in ("zero_shot_entropy", "expected_gain"):
        result = ask(run, 1, "--selector", selector)
        assert result.exit_code == 2, result.output
        assert "claim 'Japan0'" in result.output
    assert not (run / "questions.jsonl").exists()


@pytest.mark.slow
def test_an_answered_run_is_never_written_over(run):
    for number, name in enumerate(("answered", "answered-2", "answered-3")):
        result = invoke("answer", run, "--labels", answered(run, number % 2), "--quiet")
        assert result.exit_code == 0, result.output
        assert read_rows(run / name / "labels.jsonl")[0]["label"] == number % 2
    result = invoke("answer", run, "--labels", answered(run), "--out", run / "answered", "--quiet")
    assert result.exit_code == 2
    assert "new or empty folder" in result.output
    assert read_rows(run / "answered" / "labels.jsonl")[0]["label"] == 0


@pytest.mark.slow
def test_answers_are_kept_in_the_run_for_its_owner(run):
    result = invoke("answer", run, "--labels", answered(run), "--quiet")
    assert result.exit_code == 0, result.output
    path = run / "answered" / "answers.jsonl"
    rows = read_rows(path)
    assert [(row["id"], row["label"], row["is_answer"]) for row in rows] == [
        ("Japan0", "True", True),
        ("Japan1", "False", False),  # implied
    ]
    others_may_read = {
        path.name
        for path in (run / "answered").iterdir()
        if path.is_file() and path.stat().st_mode & 0o077
    }
    assert others_may_read.isdisjoint({"answers.jsonl", "manifest.json"})
    for name in others_may_read:
        assert b"clamped" not in (run / "answered" / name).read_bytes(), name
    assert (run / "manifest.json").stat().st_mode & 0o044  # which has none
    assert not list(run.glob("*clamp*"))
    summary = json.loads((run / "answered" / "summary.json").read_text())
    assert summary["num_accuracy_claims"] == 4


def test_a_refused_answer_leaves_nothing(run):
    before = sorted(path.name for path in run.iterdir())
    options = "--labels", answered(run), "--memory-budget", 0.00001
    assert invoke("answer", run, *options).exit_code == 2
    everything = [{"id": f"Japan{index}", "label": (index + 1) % 2} for index in range(6)]
    labels = write_rows(run.parent / "all.jsonl", everything)
    result = invoke("answer", run, "--labels", labels, "--quiet")
    assert result.exit_code == 2, result.output
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1, 0], "True and False of claim 'Japan0'"),
        ([1, None], 1),
        ([None, 0], 0),
        ([1, "True"], 1),
        ([None, None], "has a label"),
    ],
)
def test_of_several_rows_of_a_claim_none_wins_by_its_place(run, rows, expected):
    rows = [{"id": "Japan0", "label": label} for label in rows]
    labels = write_rows(run.parent / "labels.jsonl", rows)
    result = invoke("answer", run, "--labels", labels, "--quiet")
    if isinstance(expected, str):
        assert result.exit_code == 2
        assert expected in result.output
        assert not (run / "answered").exists()
    else:
        assert result.exit_code == 0, result.output
        assert read_rows(run / "answered" / "labels.jsonl")[0]["label"] == expected


@pytest.mark.parametrize("field", ["question", "choice", "choice_2"])
def test_answers_to_another_text_are_refused(run, made, field):
    row = {"id": "Japan0", "question": "What do you think?", "choice": CHOICES[0], "label": 1}
    labels = write_rows(run.parent / "labels.jsonl", [row | {field: "Something else"}])
    result = invoke("answer", run, "--labels", labels, "--quiet")
    assert result.exit_code == 2
    assert "says something else" in result.output
    if field == "choice_2":
        return
    rows = claim_rows()[:6]
    rows[0] |= {field: "Something else"}
    labels = write_rows(run.parent / "all.jsonl", rows)
    clamp = "--clamp", labels, "--out", run.parent / "next"
    result = invoke("search", *search_options(made, run.parent / "next"), *clamp)
    assert result.exit_code == 2
    assert f"claim 'Japan0', {field}" in result.output


@pytest.mark.slow
def test_a_persona_may_be_clamped_by_the_labels_of_all(made, tmp_path):
    rows = [row | {"label": row["label"] if row["id"] in KNOWN else None} for row in claim_rows()]
    clamp = write_rows(tmp_path / "clamp.jsonl", rows)
    result = invoke("search", *search_options(made, tmp_path / "run"), "--clamp", clamp, "--json")
    assert result.exit_code == 0, result.output
    labels = {row["id"]: row["label"] for row in read_rows(tmp_path / "run" / "labels.jsonl")}
    assert labels["Japan3"] == 1
    assert json.loads(result.stdout)["num_accuracy_claims"] == 5


KNOWN = {"Japan3", "Kenya2"}


@pytest.mark.slow
def test_a_run_needs_its_source_for_nothing(made, run, tmp_path):
    """The claims that were searched, and their gold labels, are the run's own."""
    lonely = tmp_path / "lonely"
    shutil.copytree(made / "model", lonely / "model")
    write_rows(lonely / "claims.jsonl", claim_rows())
    options = search_options(lonely, tmp_path / "first")
    assert invoke("search", *options).exit_code == 0
    (lonely / "claims.jsonl").unlink()
    words = "--labels", answered(run), "--quiet", "--json"
    result = invoke("answer", tmp_path / "first", *words)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["num_claims"], summary["num_accuracy_claims"]) == (6, 4)
    assert "no accuracy" not in result.stderr


def test_gold_labels_are_the_run_s_own_and_else_its_source_s(run, tmp_path):
    rows = [row | {"label": 1 - row["label"]} for row in claim_rows()]  # otherwise than it was
    source = write_rows(tmp_path / "claims.jsonl", rows)
    manifest = files.read_sealed(run / "manifest.json")
    manifest["options"]["source"] = str(source)
    files.write_sealed(run / "manifest.json", manifest)
    kept = gold_of_run(icmjax.read_run(run), str(run)).labels
    assert kept.tolist() == [row["label"] for row in read_rows(run / "gold.jsonl")]
    # Of a run that keeps none, since its source had none when it was searched.
    summary = files.read_sealed(run / "summary.json")
    del summary["files"]["gold.jsonl"]
    files.write_sealed(run / "summary.json", summary)
    assert gold_of_run(icmjax.read_run(run), str(run)).labels.tolist() == (1 - kept).tolist()
    write_rows(source, claim_rows()[:4] + claim_rows()[6:])
    assert gold_of_run(icmjax.read_run(run), str(run)) is None


@pytest.mark.slow
def test_a_run_is_used_from_another_folder(run, tmp_path, monkeypatch):
    """The search was given `model` and `claims.jsonl`, relative to a folder that is not this."""
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("ask", "run", "--budget", 1, "--out", "run/questions.jsonl"),
        ("export", "run", "--format", "tree-order"),
        ("answer", "run", "--labels", answered(run), "--quiet"),
        ("report", "run"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    assert json.loads((run / "answered" / "summary.json").read_text())["accuracy"] is not None


def interrupted_at(patch, name, after):
    """Let a Ctrl-C come after, or before, a method of an open run did its work."""
    method = getattr(runs.Run, name)

    def interrupt(*arguments):
        if after:
            method(*arguments)
        raise KeyboardInterrupt

    patch.setattr(runs.Run, name, interrupt)


def results(folder):
    summary = json.loads((folder / "summary.json").read_text())
    del summary["sha256"], summary["wall_seconds"]
    names = ("labels.jsonl", "scores.npz", "trace.npz", "claims.jsonl")
    return summary, [(folder / name).read_bytes() for name in names]


def test_a_search_that_is_interrupted_says_how_to_go_on(made, tmp_path):
    out = tmp_path / "a run"
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(patch, "save", after=True)
        result = invoke("search", *search_options(made, out))
    assert result.exit_code == 130
    line = result.stderr.splitlines()[-1]
    assert line.startswith("  icmjax search --model ")
    assert line.endswith(f"--out '{out}' --iterations 5 --quiet --resume")
    result = invoke("search", *search_options(made, out), "--resume")
    assert result.exit_code == 0, result.output
    assert results(out) == results(made / "run")


def test_a_search_that_is_interrupted_early_keeps_nothing(made, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(patch, "save", after=False)
        result = invoke("search", *search_options(made, tmp_path / "run"))
    assert result.exit_code == 130
    line = f"  icmjax search --model {made / 'model'} "
    assert "nothing was kept; start anew with\n" + line in result.stderr
    assert "--resume" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_answer_that_is_interrupted_is_resumed(run, tmp_path):
    # The file wins, with what it implies; what it does not speak of is held as it was answered.
    kept = write_rows(run / "questions.jsonl", [{"id": f"Japan{n}", "label": 1} for n in (1, 2)])
    whole = shutil.copytree(run, tmp_path / "whole")
    result = invoke("answer", whole, "--labels", answered(run), "--json")
    assert result.exit_code == 0, result.output
    told = result.stderr
    assert f"held fast too: 1 earlier answer, of {whole / kept.name}" in told
    assert f"claim 'Japan1': {answered(run)} speaks against {whole / kept.name}" in told
    assert "rule exactly_one_true (declared by the columns" in told
    assert re.search(r"^\d of 6 labels turned; 4 are held fast$", told, re.M)
    rows = read_rows(whole / "answered" / "answers.jsonl")
    assert [row["id"] for row in rows if row["is_answer"]] == ["Japan0", "Japan2"]
    assert not (whole / "answered" / "summary.json").stat().st_mode & 0o077
    with pytest.MonkeyPatch.context() as patch:
        interrupted_at(patch, "save", after=True)
        result = invoke("answer", run, "--labels", answered(run), "--quiet")
    assert result.exit_code == 130
    assert f"--out {run / 'answered'} --resume" in result.stderr
    result = invoke("answer", run, "--labels", answered(run, label=0), "--quiet", "--resume")
    assert result.exit_code == 2
    told = "claim 'Japan0' (False, before True), claim 'Japan1' (True, before False)"
    assert f"given anew: {told}" in result.output
    assert "another folder (a new --out)" in result.output
    # What reads the search that was cut off says the whole command.
    words = (
        f"icmjax answer {run} --labels {answered(run)} --quiet --out {run / 'answered'} --resume"
    )
    assert f"complete it by `{words}`" in invoke("report", run / "answered").output
    result = invoke("answer", run, "--labels", answered(run), "--quiet", "--resume")
    assert result.exit_code == 0, result.output
    assert results(run / "answered") == results(whole / "answered")
    assert not (run / "answered-2").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_is_refused_before_the_model_is_loaded(made, run, resume):
    options = ["--model", "no/such/model"]
    if resume:
        (run / "manifest.json").write_text("{}")
        options += ["--resume"]
    result = invoke("search", *search_options(made, run), *options)
    assert result.exit_code == 2
    assert "no/such/model" not in result.output
    assert ("manifest.json" if resume else "--resume") in result.output


def test_a_plan_is_said_before_anything_is_spent(made, tmp_path):
    options = [word for word in search_options(made, tmp_path / "run") if word != "--quiet"]
    result = invoke("search", *options, "--model", "no/such/model")
    assert result.exit_code == 2
    first = result.stderr.splitlines()[0]
    assert "6 claims" in first
    assert "3 pairs" in first
    assert "exactly_one_true" in first


def test_warnings_are_shown(run):
    summary = files.read_sealed(run / "summary.json")
    summary["warnings"] = ["all labels are <one>"]
    files.write_sealed(run / "summary.json", summary)
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    assert "<strong>Warning:</strong> all labels are &lt;one&gt;" in page


@pytest.mark.slow
def test_a_collapsed_search_warns(made, tmp_path, monkeypatch):
    """Five labels of six are held to one value, which passes for a collapse here."""
    monkeypatch.setattr(loop, "COLLAPSED_SHARE", 0.6)
    rows = [row | {"label": 1 if index < 5 else None} for index, row in enumerate(claim_rows()[:6])]
    clamp = write_rows(tmp_path / "clamp.jsonl", rows)
    options = "--clamp", clamp, "--rule", "none"
    result = invoke("search", *search_options(made, tmp_path / "run"), *options)
    assert result.exit_code == 0, result.output
    warnings = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert any("of the labels are the same one" in warning for warning in warnings)
    for warning in warnings:
        assert f"warning: {warning}" in result.stderr


def test_a_title_with_dollar_signs_is_no_formula(made, tmp_path):
    folder = tmp_path / "US$ and $x_{"
    folder.mkdir()
    write_rows(folder / "claims.jsonl", claim_rows())
    claims = "--claims", folder / "claims.jsonl"
    result = invoke("search", *search_options(made, folder / "run"), *claims)
    assert result.exit_code == 0, result.output
    assert invoke("report", folder / "run").exit_code == 0


def test_a_name_that_is_free(tmp_path):
    assert free_name(tmp_path / "evaluation.json") == tmp_path / "evaluation.json"
    (tmp_path / "evaluation.json").write_text("")
    (tmp_path / "evaluation-2.json").symlink_to("nowhere")
    assert free_name(tmp_path / "evaluation.json") == tmp_path / "evaluation-3.json"
    os.mkdir(tmp_path / "answered")
    assert free_name(tmp_path / "answered") == tmp_path / "answered-2"
