"""Options from files, lines for people, JSON for programs, logs; what a shell completes."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from checkpoints import make_checkpoint
from commands import invoke

import icmjax
from icmjax.cli import commands, options
from icmjax.cli.commands import main

TEXTS = ["Trade helps", "Trade harms", "Taxes help", "Taxes harm", "Dams help", "Dams harm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a claim file, and a search's run with its log."""
    folder = tmp_path_factory.mktemp("config")
    make_checkpoint(folder / "model", "llama", [*TEXTS, "I think this claim is True", "False"] * 9)
    (folder / "claims.txt").write_text("".join(f"{text}.\n" for text in TEXTS))
    (folder / "run.yaml").write_text(
        f"model: {folder / 'model'}\nclaims: {folder / 'claims.txt'}\niterations: 4\nalpha: 20\n"
        "hard: false\nmemory-budget: 1\n"
    )
    result = invoke(
        "search",
        *("--config", folder / "run.yaml", "--alpha", 30, "--out", folder / "run"),
        *("--log", folder / "log.txt"),
    )
    assert result.exit_code == 0, result.output
    (folder / "stdout.txt").write_text(result.stdout)
    (folder / "stderr.txt").write_text(result.stderr)
    return folder


@pytest.mark.slow
def test_a_file_s_options_stand_where_the_command_line_says_nothing(folder):
    configuration = icmjax.read_run(folder / "run").manifest["configuration"]
    assert configuration["algorithm"]["num_iterations"] == 4  # of the file
    assert configuration["algorithm"]["alpha"] == 30  # of the command line
    assert configuration["algorithm"]["num_shots"] == 4  # of neither


def test_a_run_s_own_file_gives_the_same_search(folder, tmp_path):
    saved = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert saved["alpha"] == 30
    assert not {"out", "resume", "quiet", "log", "json", "config"} & saved.keys()
    again = invoke("search", "--config", folder / "run" / "config.yaml", "--out", tmp_path / "run")
    assert again.exit_code == 0, again.output
    for name in ("labels.jsonl", "config.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("alhpa: 3\n", "'alhpa'"),
        ("alpha: [1, 2]\n", "alpha: [1, 2]"),
        ("template: yes\n", "template: True"),
        ("- alpha\n", "list"),
        ("alpha: {\n", "expected the node content"),
        ("out: runs/x\n", "'out'"),
        ("limit: 2.9\n", "limit: 2.9"),
        ("seed: 1\nseed: 2\n", "'seed' stands twice"),
        ("memory-budget: 1\nmemory_budget: 2\n", "memory-budget twice"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, found):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    result = invoke("search", "--config", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert found in result.stderr
    assert str(path) in result.stderr
    assert "to do:" in result.stderr


def test_a_slip_is_met_with_the_nearest_name(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("algorthm: icm\n")
    result = invoke("search", "--config", path, "--out", tmp_path / "run")
    assert "did you mean algorithm?" in result.stderr
    result = invoke("serch")
    assert result.exit_code == 2
    assert "Did you mean 'search'?" in result.stderr


def test_a_file_that_is_not_there_is_said_to_be_none(tmp_path):
    result = invoke("search", "--config", tmp_path / "none.yaml", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "found: No such file or directory" in result.stderr


def test_all_faults_of_a_file_are_told_at_once(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("alhpa: 3\nmodle: x\n")
    result = invoke("search", "--config", path, "--out", tmp_path / "run")
    assert "'alhpa'" in result.stderr
    assert "'modle'" in result.stderr


def test_a_value_of_a_file_is_checked_as_one_of_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("alpha: much\nmodel: m\nclaims: c\n")
    result = invoke("search", "--config", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "'much' is not a valid float" in result.stderr


@pytest.mark.slow
def test_the_file_names_places_that_hold_everywhere(folder, tmp_path, monkeypatch):
    """Relative paths of the command line would be another folder's files."""
    monkeypatch.chdir(folder)
    words = "--model", "model", "--claims", "claims.txt", "--iterations", 4, "--out", tmp_path / "a"
    assert invoke("search", *words).exit_code == 0
    monkeypatch.chdir(tmp_path)
    again = invoke("search", "--config", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b")
    assert again.exit_code == 0, again.output


@pytest.mark.slow
def test_a_search_that_kept_nothing_leaves_nothing_in_its_way(folder, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    words = "--config", folder / "run.yaml", "--out", tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("icmjax.search.loop.run_block", interrupted)
        assert invoke("search", *words).exit_code == 130
    assert not (tmp_path / "run").exists()
    assert invoke("search", *words, "--resume-if-begun").exit_code == 0


def test_people_get_lines(folder):
    lines = (folder / "stdout.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["labels", "doubt", "U", "read", "wrote"]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    numbers = [round(share * 6) for share in summary["diagnostics"]["label_shares"]]
    assert lines[0] == f"labels      {numbers[0]} False, {numbers[1]} True"
    assert f"{summary['utility']:.3f}" in lines[2]
    assert f"{summary['num_tokens']:,} tokens" in lines[3]


def test_programs_get_json(folder, tmp_path):
    result = invoke("search", "--config", folder / "run.yaml", "--json", "--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    printed = json.loads(result.stdout)
    assert printed["utility"] == summary["utility"]
    assert sum(printed["label_shares"]) == pytest.approx(1)


def test_a_log_has_what_was_told_with_its_time(folder):
    lines = (folder / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in lines)
    texts = [line[24:] for line in lines]
    assert "6 claims, no pair rule" in texts
    assert any(text.startswith("search: step 4 of 4") for text in texts)
    assert any(text.startswith("warning: ") for text in texts)
    told = (folder / "stderr.txt").read_text().splitlines()
    assert {text for text in texts if text.startswith("warning: ")} <= set(told)


def test_a_log_that_cannot_be_written_is_refused(folder, tmp_path):
    log = tmp_path / "nowhere" / "log.txt"
    arguments = "--config", folder / "run.yaml", "--log", log, "--out", tmp_path / "run"
    result = invoke("search", *arguments)
    assert result.exit_code == 2
    assert f"where: {log}" in result.stderr


def test_help_has_each_algorithm_s_own_defaults():
    said = {"N (ln N + 3)", "the coldest rung's", "0.99; 2 with the deviations", "not known"}
    said |= {"all other claims"}  # where the library has None, and says so in its own words

    def fields(config):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            yield from fields(value) if dataclasses.is_dataclass(value) else [(field.name, value)]

    found: dict[str, dict[str, str]] = {name: {} for name in options.OWN_DEFAULTS}
    for name, kind in options.ALGORITHMS.items():
        for field, value in fields(getattr(icmjax, kind)()):
            if field in found:
                found[field][name] = value
    for field, by_algorithm in options.OWN_DEFAULTS.items():
        assert by_algorithm.keys() == found[field].keys(), field
        for name, text in by_algorithm.items():
            assert (text in said) if found[field][name] is None else text == str(found[field][name])


def test_every_command_shows_examples_of_options_that_it_has():
    for name in commands.COMMANDS:
        shown = invoke(name, "--help").output.partition("Examples:\n")[2].splitlines()
        assert shown, name
        command = main.get_command(None, name)
        known = {opt for option in command.params for opt in option.opts}
        for line in filter(str.strip, shown):
            words = line.split()
            assert f"icmjax {name}" in line
            assert {word for word in words if word.startswith("--")} <= known, line


def test_the_group_s_help_has_every_status():
    shown = invoke("--help").output
    for status in ("0 ", "2 ", "130", "143"):
        assert f"\n  {status}" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_ICMJAX_COMPLETE" in result.stdout


def test_options_are_completed_without_jax():
    words = {"_ICMJAX_COMPLETE": "bash_complete", "COMP_WORDS": "icmjax search --al"}
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-c",
            "from icmjax.cli import main; main(None, 'icmjax')",
        ],
        capture_output=True,
        text=True,
        env=os.environ | words | {"COMP_CWORD": "2"},
    )
    assert done.stdout.split() == ["plain,--alpha", "plain,--algorithm"]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"jax", "numpy", "transformers", "yaml"}
