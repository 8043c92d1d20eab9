"""Several personas in one command: each as alone, in a folder of its name, and resumed."""

import csv
import html
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
from checkpoints import make_checkpoint
from commands import invoke, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

import icmjax
from icmjax.claims import load_claims, load_gold, load_personas
from icmjax.cli import personas as personas_room
from icmjax.cli.personas import folder_names
from icmjax.errors import ClaimsError

WORDS = ("tea", "rice", "soup", "jam")


def rows_of(place: str, num: int = 4) -> list[dict]:
    return [
        {
            "question": "Food?",
            "choice": f"People from {place} would answer: '{word}'",
            "consistency_id": index // 2,
            "persona": place,
            "label": index % 2,
        }
        for index, word in enumerate(WORDS[:num])
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and claims of three personas of which two are of one shape."""
    folder = tmp_path_factory.mktemp("personas")
    rows = [*rows_of("Peru"), *rows_of("Mali"), *rows_of("South Sudan", 2)]
    texts = [row["choice"] + row["question"] for row in rows]
    texts += ["I think this claim is True", "I think this claim is False"] * 20
    make_checkpoint(folder / "model", "llama", texts, num_hidden_layers=1)
    write_rows(folder / "claims.jsonl", rows)
    return folder


def search(folder, out, *words):
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl", "--out", out
    return invoke("search", *files, "--algorithm", "bootstrap", *words)


@pytest.fixture(scope="module")
def done(folder):
    out = folder / "runs"
    result = search(folder, out, "--personas", "all")
    assert result.exit_code == 0, result.output
    return out, result


@pytest.mark.slow
def test_each_persona_has_a_folder_and_a_row(done):
    out, result = done
    assert sorted(path.name for path in out.iterdir()) == [
        "Mali",
        "Peru",
        "South-Sudan",
        "summary.csv",
    ]
    told = result.stderr
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["persona"] for row in rows] == ["Peru", "Mali", "South Sudan"]
    assert [row["folder"] for row in rows] == ["Peru", "Mali", "South-Sudan"]
    for row in rows:
        summary = icmjax.read_run(out / row["folder"]).summary
        for name in ("accuracy", "utility", "num_claims"):
            assert float(row[name]) == pytest.approx(summary[name])
        # The table, the summary, the terminal and the page warn of the same.
        page = html.unescape(icmjax.report(out / row["folder"]).read_text())
        assert int(row["num_warnings"]) == len(summary["warnings"]) == page.count("Warning:") > 0
        for warning in summary["warnings"]:
            assert f"<strong>Warning:</strong> {warning}" in page
            assert re.search(rf"^warning: .*{row['persona']}.*: {re.escape(warning)}$", told, re.M)
            whose = re.findall(rf"^warning: (.*): {re.escape(warning)}$", told, re.M)
            assert sum(row["persona"] in names.split(", ") for names in whose) == 1
    assert "searching together: Peru, Mali" in result.stderr
    assert "searching South Sudan" in result.stderr
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == ["persona", "Peru", "Mali", "South Sudan"]


@pytest.mark.slow
def test_each_persona_is_labelled_as_alone(folder, done, tmp_path):
    out, _ = done
    for persona, name in (("Mali", "Mali"), ("South Sudan", "South-Sudan")):
        result = search(folder, tmp_path / name, "--persona", persona, "--quiet")
        assert result.exit_code == 0, result.output
        alone, found = icmjax.read_run(tmp_path / name), icmjax.read_run(out / name)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_allclose(found.marginals, alone.marginals, atol=1e-4)
        assert found.claims == alone.claims
        assert found.manifest["configuration"] == alone.manifest["configuration"]
        assert found.manifest["options"] == alone.manifest["options"]


@pytest.mark.slow
def test_later_commands_take_a_persona_s_folder(folder, done, tmp_path):
    out, _ = done
    asked = invoke(
        "ask", out / "Peru", "--budget", 1, "--selector", "margin", "--out", tmp_path / "q.jsonl"
    )
    assert asked.exit_code == 0, asked.output
    assert invoke("report", out / "Peru").exit_code == 0
    files = "--model", folder / "model", "--claims", folder / "claims.jsonl"
    result = invoke("evaluate", "--demos", out / "Peru", *files, "--persona", "Mali")
    assert result.exit_code == 0, result.output


def test_what_is_complete_is_not_run_again(folder, done, monkeypatch):
    out, _ = done
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(personas_room, "_label_all", None)
    result = search(folder, out, "--personas", "all", "--resume")
    assert result.exit_code == 0, result.output
    assert "3 complete already" in result.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert search(folder, out, "--personas", "all").exit_code == 2
    other = search(folder, out, "--personas", "all", "--resume", "--seed", 1)
    assert other.exit_code == 2
    assert "seed = 1, before 0" in other.output


def test_the_table_is_json_where_it_is_asked_for(folder, done):
    out, _ = done
    result = search(folder, out, "--personas", "all", "--resume", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    with (out / "summary.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert [{name: str(cell) for name, cell in row.items()} for row in rows] == expected
    assert f"wrote {out / 'summary.csv'}" in result.stderr


def test_the_table_loses_no_persona(folder, done):
    out, _ = done
    before = (out / "summary.csv").read_bytes()
    result = search(folder, out, "--personas", "Peru", "--resume")
    assert result.exit_code == 2, result.output
    assert "leaves out: Mali" in result.stderr
    assert "leaves out: South-Sudan" in result.stderr
    assert (out / "summary.csv").read_bytes() == before


def test_processes_do_not_share_several_searches(folder, tmp_path, monkeypatch):
    """Each of them would tell by itself which are left, and wait for the others in vain."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    result = search(folder, tmp_path / "runs", "--personas", "all")
    assert result.exit_code == 2, result.output
    assert "2 processes" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "num_blocks",
    [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)],
)
def test_a_search_that_was_cut_off_goes_on(folder, done, tmp_path, monkeypatch, num_blocks):
    """SIGTERM comes before a block of those that are searched together."""
    together = icmjax.search_together

    def interrupted(*arguments, stop_fn, **others):
        blocks = []

        def stop():
            if len(blocks) == num_blocks:
                os.kill(os.getpid(), signal.SIGTERM)
            blocks.append(None)
            return stop_fn()

        return together(*arguments, stop_fn=stop, **others)

    monkeypatch.setattr(icmjax, "search_together", interrupted)
    out = tmp_path / "runs"
    result = search(folder, out, "--personas", "all")
    assert result.exit_code == 143, result.output
    assert len([*out.iterdir()]) == (2 if num_blocks else 0)
    assert f"preempted {'after' if num_blocks else 'before'}" in result.stderr
    monkeypatch.undo()
    result = search(folder, out, "--personas", "all", "--resume-if-begun")
    assert result.exit_code == 0, result.output
    for name in ("Peru", "Mali", "South-Sudan"):
        found, expected = icmjax.read_run(out / name), icmjax.read_run(done[0] / name)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.marginals, expected.marginals, atol=1e-4)


@pytest.mark.slow
def test_claims_of_unlike_lengths_go_together_longest_first(folder, tmp_path):
    """The shape of longer claims serves shorter ones, in whatever order the file has them."""
    rows = [
        row | {"choice": row["choice"] + " tea" * num}
        for place, num in {"Peru": 8, "Mali": 14, "Oman": 11}.items()
        for row in rows_of(place)
    ]
    claims = write_rows(tmp_path / "claims.jsonl", rows)
    files = "--model", folder / "model", "--claims", claims, "--out", tmp_path / "runs"
    result = invoke("search", *files, "--algorithm", "bootstrap", "--personas", "all")
    assert result.exit_code == 0, result.output
    assert "searching together: Mali, Oman, Peru" in result.stderr


def test_a_budget_that_cannot_be_shared_is_used_one_by_one(folder, tmp_path, monkeypatch):
    """The budget is what one search needs: neither a half nor a third of it does for any."""
    prepare, used = personas_room.prepare, []

    def counted(task, options, lm, machine):
        used.append(machine.memory_gib)
        if machine.memory_gib < 1:
            raise ClaimsError(icmjax.errors.Fault("It fits.", "it does not", "memory", "more"))
        return prepare(task, options, lm, machine)

    monkeypatch.setattr(personas_room, "prepare", counted)
    words = "--personas", "Peru,Mali", "--memory-budget", 1
    result = search(folder, tmp_path / "runs", *words)
    assert result.exit_code == 0, result.output
    assert used == [0.5, 1.0, 1.0]
    assert "one after another" in result.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--personas", "Peru,Malli"), "did you mean Mali?"),
        (("--personas", "Peru", "--persona", "Peru"), "--persona Peru, which is one"),
        (("--personas", '"Peru'), "unexpected end of data"),
        (("--personas", "Peru", "--resume"), "no run in it"),
        (("--personas", "all", "--limit", 3), "parts a pair"),
        (("--personas", ""), "none"),
    ],
)
def test_what_cannot_be_searched_is_refused(folder, tmp_path, words, found):
    result = search(folder, tmp_path / "runs", *words)
    assert result.exit_code == 2, result.output
    assert found in result.output
    assert "to do:" in result.output
    assert not (tmp_path / "runs").exists()


def test_a_task_is_one_persona():
    words = "--model", "m", "--claims", "persona-world:norvania:0", "--out", "o"
    result = invoke("search", *words, "--personas", "all")
    assert result.exit_code == 2
    assert "which is one" in result.output


def test_a_folder_with_other_files_is_kept(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = search(folder, tmp_path, "--personas", "all")
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_check_says_what_each_persona_is(folder):
    result = invoke("check", "--claims", folder / "claims.jsonl", "--personas", "Mali,South Sudan")
    assert result.exit_code == 0, result.output
    assert "personas: Mali: 4" in result.output
    assert "personas: South Sudan: 2" in result.output
    assert "2 personas, 6 claims; each is labelled by itself" in result.output
    assert invoke("check", "--claims", folder / "claims.jsonl", "--personas", "x").exit_code == 2


def test_personas_are_loaded_as_each_is_alone(folder):
    path = folder / "claims.jsonl"
    for persona, (claims, gold) in load_personas(path, limit=2).items():
        assert claims == load_claims(path, persona, limit=2)
        np.testing.assert_array_equal(gold.labels, load_gold(path, persona, limit=2).labels)
    assert list(load_personas(path, ["Mali", "Peru", "Mali"])) == ["Mali", "Peru"]
    nameless = [{"choice": "Rice helps."}, {"choice": "Tea helps."}]
    with pytest.raises(ClaimsError, match="name their personas"):
        load_personas(nameless)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=80), max_size=8, unique=True))
def test_folders_of_any_personas_are_safe_and_apart(personas):
    names = folder_names(personas)
    assert len({name.casefold() for name in names}) == len(names) == len(personas)
    for name in names:
        assert name not in ("", ".", "..", "summary.csv")
        assert not name.startswith(("-", "."))
        assert not set(name) & set('/\\:*?"<>|\0\n ')
        assert len(name) < 80
    assert folder_names(["United States", "united states", "日本"]) == [
        "United-States",
        "united-states-2",
        "日本",
    ]
