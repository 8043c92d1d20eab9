"""The commands that a command prints can be pasted into the shell that it was called from."""

import pathlib
import shlex
import subprocess
import sys

import pytest
from table_runs import search_in

import icmjax
from icmjax.cli.program import as_called, this_command
from icmjax.cli.spelling import as_options
from icmjax.errors import Fault, RunError

HERE = pathlib.Path(sys.executable).with_name("icmjax")  # the command, which PATH need not have


@pytest.fixture
def path_of(monkeypatch):
    """Makes PATH this one folder."""
    return lambda folder: monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("argument", "folder", "words"),
    [
        (str(HERE), HERE.parent, "icmjax"),  # as a shell finds it
        (str(HERE), "/", str(HERE)),
        ("./my folder/icmjax", HERE.parent, "'./my folder/icmjax'"),  # not the one of PATH
        ("icmjax/__main__.py", HERE.parent, "icmjax"),  # python -m icmjax
        ("icmjax/__main__.py", "/", f"{sys.executable} -m icmjax"),
        ("icmjax", "/", "icmjax"),  # a file that Python was handed
        ("./icmjax.py", "/", "icmjax"),
        ("pytest/__main__.py", "/", "icmjax"),
        ("notebook.py", "/", "icmjax"),
        ("", "/", "icmjax"),
    ],
)
def test_a_command_is_spelt_as_this_one_was_called(monkeypatch, path_of, argument, folder, words):
    monkeypatch.setattr(sys, "argv", [argument, "search"])
    path_of(folder)
    assert as_called(["report", "a b"]) == f"{words} report 'a b'"
    # What a run keeps may be read on another machine.
    assert this_command() == "icmjax search"
    remedy = "complete it by `icmjax search --columns persona=a --resume`"
    (told,) = as_options(RunError(Fault("", "", "", remedy))).faults
    assert told.remedy == remedy.replace("icmjax", words)


def test_what_ask_tells_to_run_next_runs(tmp_path, path_of):
    claims, _ = icmjax.load_task("persona-world:norvania:0")
    run = tmp_path / "run"
    search_in(run, claims.select(range(4)), icmjax.Bootstrap(), template="plain")
    path_of("/")
    options = ["--budget", "1", "--selector", "margin", "--out", tmp_path / "questions.jsonl"]
    words = [HERE, "ask", run, *options]
    asked = subprocess.run(words, capture_output=True, text=True, check=True)
    _, _, answer = asked.stdout.partition("set the labels, then ")
    tried = subprocess.run([*shlex.split(answer), "--help"], capture_output=True, check=True)
    assert shlex.split(answer)[:2] == [str(HERE), "answer"]
    assert b"--labels" in tried.stdout


@pytest.mark.parametrize("word", ["--resume", "--resume-if-begun"])
def test_a_search_is_told_once_to_go_on(word):
    assert icmjax.runs.resumed(f"icmjax search {word}") == f"icmjax search {word}"
    assert icmjax.runs.resumed("icmjax search --out a") == "icmjax search --out a --resume"
