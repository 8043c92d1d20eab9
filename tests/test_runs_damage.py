"""Files of a run that are damaged, swapped or missing are named, and nothing of them believed."""

import contextlib
import json
import re
import shutil

import numpy as np
import pytest
from checkpoints import make_checkpoint
from commands import invoke
from test_runs_moments import BLOCK, CLAIMS, Info, results, toy_search

from icmjax.errors import RunError, RunWarning
from icmjax.runs import files, open_run, read_run
from icmjax.search import Account

FILES = ("manifest.json", "summary.json", "claims.jsonl", "labels.jsonl", "scores.npz", "trace.npz")
CHOICES = ("Trade helps", "Trade harms", "Taxes help", "Taxes harm", "Dams help", "Dams harm")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _folder(path):
    path.unlink()
    path.mkdir()


def _other_type(path):
    if path.suffix == ".npz":
        np.savez(path, labels=np.zeros(1, np.int8))
    else:
        path.write_text("[1, 2]\n")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a bit": _flip,
    "other type": _other_type,
    "a folder": _folder,
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, claims and a finished run."""
    folder = tmp_path_factory.mktemp("damage")
    rows = [
        {
            "id": f"c{index}",
            "question": "What do you think?",
            "choice": choice,
            "consistency_id": index,
            "label": index % 2,
        }
        for index, choice in enumerate(CHOICES)
    ]
    make_checkpoint(folder / "model", "llama", [f"{CHOICES}: this claim is True False"] * 10)
    (folder / "claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = invoke("search", *search_options(folder))
    assert result.exit_code == 0, result.output
    (folder / "answers.jsonl").write_text('{"id": "c0", "label": 1}\n')
    return folder


def search_options(made, out=None):
    files = "--model", made / "model", "--claims", made / "claims.jsonl"
    return *files, "--out", out or made / "run", "--iterations", 3, "--quiet"


@pytest.fixture
def run(made, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_every_command_names_what_is_damaged(made, run, name, kind):
    DAMAGES[kind](run / name)
    commands = {
        "report": ("report", run),
        "export": ("export", run, "--format", "sft"),
        "ask": ("ask", run, "--budget", 1, "--selector", "margin"),
        "answer": ("answer", run, "--labels", made / "answers.jsonl", "--quiet"),
    }
    is_named = (name, kind) != ("summary.json", "missing")  # then the run is not complete
    for command, arguments in commands.items():
        result = invoke(*arguments)
        assert result.exit_code == 2, (command, result.output)
        lines = result.output.splitlines()
        assert [line[:8].strip() for line in lines[1:4]] == ["found:", "where:", "to do:"], lines
        assert not is_named or str(run / name) in lines[2]
    left = {path.name for path in run.iterdir()}
    assert left.isdisjoint({"report.html", "sft.jsonl", "questions.jsonl", "answered"})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_complete_run_is_not_resumed(tmp_path, name, kind):
    folder = tmp_path / "run"
    toy_search(folder)
    DAMAGES[kind](folder / name)
    if (name, kind) == ("summary.json", "missing"):
        toy_search(folder, resume=True)  # what is not complete is completed
        read_run(folder)
        return
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        toy_search(folder, resume=True)
    assert name in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["manifest.json", "claims.jsonl", "answers.jsonl"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_run_is_not_resumed(tmp_path, name, kind):
    with pytest.raises(InterruptedError):
        toy_search(tmp_path / "run", num_blocks=2)
    DAMAGES[kind](tmp_path / "run" / name)
    with pytest.raises(RunError) as caught:
        toy_search(tmp_path / "run", resume=True)
    assert name in str(caught.value)


@pytest.mark.parametrize("which", ["state", "block"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, which, kind):
    toy_search(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        toy_search(tmp_path / "run", num_blocks=2)
    checkpoints = tmp_path / "run" / "checkpoints"
    pattern = {"state": "state-000000004-*", "block": "trace-000000004*"}[which]
    (last,) = checkpoints.glob(pattern)
    DAMAGES[kind](last)
    # A state that is gone leaves no trace.
    is_told = (which, kind) != ("state", "missing")
    with (
        open_run(tmp_path / "run", *of_toy(tmp_path / "run"), resume=True) as run,
        tells_of(last) if is_told else contextlib.nullcontext(),
    ):
        _, blocks, account = run.restore({"value": np.zeros((), np.int64)})
        assert [len(block["value"]) for block in blocks] == [BLOCK]
        assert account == Account(3, 0.5)
    if last.is_dir():
        last.rmdir()
        is_told = which == "block"
    with tells_of(last) if is_told else contextlib.nullcontext():
        toy_search(tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def tells_of(path):
    return pytest.warns(RunWarning, match=re.escape(path.name))


def of_toy(folder):
    return CLAIMS, files.read_sealed(folder / "manifest.json")["configuration"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_missing_block_renumbers_no_step(tmp_path, kind):
    """Without its first block a search went on from step 2 of 4, and repeated keys."""
    with pytest.raises(InterruptedError):
        toy_search(tmp_path / "run", num_blocks=2)
    DAMAGES[kind](tmp_path / "run" / "checkpoints" / "trace-000000002.npz")
    with pytest.raises(RunError, match=r"trace-000000002\.npz"):
        toy_search(tmp_path / "run", resume=True)


def test_blocks_without_any_state_are_no_start(tmp_path):
    with pytest.raises(InterruptedError):
        toy_search(tmp_path / "run", num_blocks=2)
    for state in (tmp_path / "run" / "checkpoints").glob("state-*"):
        state.unlink()
    with pytest.raises(RunError, match="2 blocks of a trace and no state"):
        toy_search(tmp_path / "run", resume=True)


@pytest.mark.parametrize("num_steps", [BLOCK - 1, BLOCK + 1])
def test_steps_that_blocks_do_not_have_are_not_believed(tmp_path, num_steps):
    with open_run(tmp_path / "run", CLAIMS, {}) as run:
        state, info = {"value": np.int64(0)}, Info(np.zeros(BLOCK, np.int64))
        run.save(state, info, num_steps, Account(1, 1.0))
        with pytest.raises(RunError, match=f"{BLOCK} steps up to trace-00000000{num_steps}"):
            run.restore(state)


def test_the_state_of_another_search_is_refused(tmp_path):
    claims, configuration = _begun(tmp_path / "run", seed=0)
    _begun(tmp_path / "other", seed=1)
    (own,) = (tmp_path / "run" / "checkpoints").glob("state-*")
    (others,) = (tmp_path / "other" / "checkpoints").glob("state-*")
    own.unlink()
    shutil.copy(others, own.parent)
    opened = open_run(tmp_path / "run", claims, configuration, resume=True)
    with opened as run, pytest.raises(RunError, match="state of another search"):
        run.restore({"value": np.zeros((), np.int64)})


def _begun(folder, seed):
    configuration = {"rng_key": {"data": [0, seed]}}
    with open_run(folder, CLAIMS, configuration) as run:
        run.save({"value": np.int64(seed)}, Info(np.zeros(BLOCK, np.int64)), BLOCK, Account(1, 1.0))
    return CLAIMS, configuration


def test_reversed_claims_get_no_labels(run):
    lines = (run / "claims.jsonl").read_text().splitlines(keepends=True)
    (run / "claims.jsonl").write_text("".join(reversed(lines)))
    for command in (("report", run), ("export", run, "--format", "prompt")):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "claims.jsonl" in result.output
        assert "of the same length" in result.output


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("labels", lambda labels: np.where(np.arange(6) == 2, -1, labels), "from -1 to"),
        ("labels", lambda labels: np.where(np.arange(6) == 2, 2, labels), "to 2, and 2 options"),
        ("labels", lambda labels: labels[:5], "6 claims have"),
        ("labels", lambda labels: labels.astype(np.float32), "float32 labels"),
        ("marginals", lambda marginals: marginals + 1, "marginals that cannot be"),
        ("label_log_probs", lambda logp: logp * np.nan, "label_log_probs that cannot be"),
        ("log_odds", lambda odds: odds * np.nan, "log_odds that cannot be"),
    ],
)
def test_results_that_cannot_be_are_refused(run, name, change, expected):
    """Digests tell what was written; whoever wrote it may have been wrong."""
    arrays = dict(np.load(run / "scores.npz"))
    changed = change(arrays[name])
    arrays[name] = changed.astype(np.int8) if changed.dtype == np.int64 else changed
    np.savez(run / "scores.npz", **arrays)
    summary = files.read_sealed(run / "summary.json")
    summary["files"]["scores.npz"] = files.digest_of((run / "scores.npz").read_bytes())
    files.write_sealed(run / "summary.json", summary)
    with pytest.raises(RunError, match=expected):
        read_run(run)


def test_a_summary_of_another_run_is_refused(run, made, tmp_path):
    other = tmp_path / "other"
    assert invoke("search", *search_options(made, other), "--seed", 1).exit_code == 0
    for name in ("summary.json", "labels.jsonl", "scores.npz", "trace.npz"):
        shutil.copy(other / name, run / name)
    with pytest.raises(RunError, match="summary of another run"):
        read_run(run)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_figure_is_named(run, kind):
    shutil.copy(run / "diagnostics.png", run / "other.png")
    DAMAGES[kind](run / "other.png")
    result = invoke("report", run)
    if kind == "missing":
        assert result.exit_code == 0
        assert "data:image" not in (run / "report.html").read_text()
        return
    assert result.exit_code == 2
    assert "other.png" in result.output
    assert not (run / "report.html").exists()


def test_all_that_is_damaged_is_named_at_once(tmp_path):
    toy_search(tmp_path / "run")
    for name in ("claims.jsonl", "labels.jsonl", "trace.npz"):
        _flip(tmp_path / "run" / name)
    with pytest.raises(RunError) as caught:
        read_run(tmp_path / "run")
    names = [fault.where.rpartition("/")[2] for fault in caught.value.faults]
    assert names == ["claims.jsonl", "labels.jsonl", "trace.npz"]
