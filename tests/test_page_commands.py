"""The commands that pages show for claims and models of one's own, run at toy size."""

import csv
import json
import pathlib
import re
import shlex

import pytest
from click.testing import CliRunner

import icmjax
from icmjax.cli import main

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
MODEL = "Qwen/Qwen3-0.6B-Base"  # as the pages have it
COLUMNS = ("persona", "question", "choice", "label")


def commands_of(page: str) -> list[list[str]]:
    """The words of the commands of a page that name no claims of its own."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text())
    lines = re.findall(r"^(?: {4})?(icmjax [a-z]+ .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines if "opinions" not in line]


def write_claims(path: pathlib.Path, rows: list[dict]) -> None:
    """Rows as the file's ending says."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Claim files of the names that the pages have: claims that nothing ties."""
    folder = tmp_path_factory.mktemp("pages")
    for names, task in (
        (("japan.jsonl", "japan.csv", "mine.csv"), "persona-world:norvania:0"),
        (("japan_test.jsonl", "japan_more.jsonl"), "persona-world:norvania:0:test"),
    ):
        claims, gold = icmjax.load_task(task)
        rows = [
            {"persona": claim.persona, "question": "", "choice": claim.choice, "label": bool(label)}
            for claim, label in zip(claims.claims[:32:2], gold.labels[:32:2], strict=True)
        ]
        for name in names:
            write_claims(folder / name, rows)
    return folder


@pytest.mark.parametrize(
    "page", ["docs/labelling.md", "docs/feedback.md", "docs/tutorial.md", "README.md"]
)
def test_the_commands_of_a_page_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = commands_of(page)
    assert commands
    for _, name, *words in commands:
        words = [word.replace(MODEL, "persona-world") for word in words]
        if page == "README.md":
            words = [word.replace("runs/japan", "runs/readme") for word in words]
        given = None
        if name == "ask" and "--out" not in words:
            words, given = [*words, "--terminal"], "t\nf\nu\nt\n"
        if name == "answer":
            _set_labels(folder / "questions.csv")
        result = CliRunner().invoke(main, [name, *words], input=given)
        assert result.exit_code == 0, f"{name} {words}\n{result.output}"


def _set_labels(path: pathlib.Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": "True"} for row in rows)
