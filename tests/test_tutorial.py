"""The tutorial, as it is written, by a person who reads the page of questions in a browser."""

import csv
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
from browsers import open_browser

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MINUTES = 10  # that the page states, at the most
KEYS = {"True": "t", "False": "f"}


@pytest.fixture
def place(tmp_path):
    """A folder with the tables, and the surroundings of its commands."""
    for table in (ROOT / "docs" / "tutorial").glob("*.csv"):
        (tmp_path / table.name).write_bytes(table.read_bytes())
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "icmjax").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m icmjax "$@"\n')
    (commands / "icmjax").chmod(0o755)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return tmp_path, os.environ | environment


def answer(command: str, folder: pathlib.Path, environment: dict[str, str]) -> str:
    """Answer all questions of `icmjax ask` as the table has them; returns what the page says."""
    rows = csv.DictReader((folder / "opinions.csv").read_text().splitlines())
    truth = {row["choice"]: row["label"] for row in rows if row["persona"] == "Ilvania"}
    process = subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    with process, open_browser() as browser:
        url = next(line.strip() for line in process.stdout if "http://127.0.0.1" in line)
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(url)
        for number in range(1, 5):
            page.wait_for_selector(f"#heading:has-text('Question {number} of 4')")
            page.keyboard.press(KEYS[truth[page.inner_text("#choice").strip()]])
        page.wait_for_selector("#done:not([hidden])")
        said = page.inner_text("#done")
        page.click("#close")
        page.wait_for_selector("#over:not([hidden])")
        process.stdout.read()
        process.wait(60)
    assert process.returncode == 0
    return said


@pytest.mark.slow
def test_a_newcomer_gets_from_a_table_to_a_steered_model(place):
    folder, environment = place
    started, printed = time.monotonic(), {}
    for block in BLOCKS:
        for command in re.sub(r"\\\n\s*", " ", block).splitlines():
            name = command.split()[1]
            if name == "ask":
                printed[name] = answer(command, folder, environment)
                continue
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            printed[name] = done.stdout
    assert time.monotonic() - started < 60 * MINUTES
    assert list(printed) == ["check", "search", "report", "ask", "evaluate", "export"]
    assert "2 personas, 40 claims" in printed["check"]
    assert "Ilvania" in printed["search"]
    assert "held fast" in printed["ask"] or "labels" in printed["ask"]
    assert "search labels" in printed["evaluate"]
    run = folder / "runs" / "opinions" / "Ilvania"
    assert (run / "report.html").is_file()
    assert (run / "answered" / "prompt.txt").read_text().startswith("National poll from Ilvania.")
    assert list((run / "answered" / "lm_eval").glob("*.yaml"))


def test_the_rows_that_the_page_shows_are_the_table_s():
    shown = re.search(r"^```\n(persona,.*?)^```", PAGE, re.MULTILINE | re.DOTALL).group(1)
    table = (ROOT / "docs" / "tutorial" / "opinions.csv").read_text()
    assert table.startswith(shown)
