"""Every command that README and docs show is run by a test, or is at least one that exists."""

import contextlib
import io
import pathlib
import re
import shlex
import shutil
import subprocess

import click
import pytest

from icmjax.cli import main
from icmjax.persona_world import pretrain

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
PAGES = sorted(["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
PROGRAMS = "icmjax|python|make|pip|gcloud|srun|lm_eval|inspect"

# Pages whose commands of icmjax, and of its exports' readers, a test runs one after the other.
RUN = {
    "README.md": "test_page_commands.py::test_the_commands_of_a_page_run",
    "docs/exports.md": "test_exports.py::test_the_page_s_commands_run",
    "docs/feedback.md": "test_page_commands.py::test_the_commands_of_a_page_run",
    "docs/labelling.md": "test_page_commands.py::test_the_commands_of_a_page_run",
    "docs/tutorial.md": "test_tutorial.py::test_a_newcomer_gets_from_a_table_to_a_steered_model",
}
# What is too long or too large to be run as it stands, by how it begins, and the test of its like.
LIKE = {
    "python -c ": "test_page_blocks.py::test_a_program_in_a_line_runs",
    "python -m icmjax.persona_world.pretrain ": (
        "test_training.py::test_the_command_trains_exports_and_refuses"
    ),
    "python experiments/ablations.py ": "test_ablations.py::test_ablations_run_and_resume",
    "make ": "test_page_blocks.py::test_the_makefile_has_every_target",
    "pip install ": "test_docs.py::test_the_demo_runs_from_a_wheel",
    "gcloud ": "test_preemption.py::test_hosts_of_a_job_are_preempted_and_resumed_together",
    "srun ": "test_preemption.py::test_hosts_of_a_job_are_preempted_and_resumed_together",
}


def commands_of(page: str) -> list[str]:
    """The commands in a page's blocks, a line each."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text())
    fenced = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    lines = [*"\n".join(fenced).splitlines(), *indented]
    return [line for line in lines if re.match(rf"({PROGRAMS}) ", line)]


COMMANDS = [(page, line) for page in PAGES for line in commands_of(page)]


def test_every_command_of_a_page_has_a_test():
    assert len(COMMANDS) > 40
    used = set()
    for page, line in COMMANDS:
        begin = next((begin for begin in LIKE if line.startswith(begin)), None)
        used.add(begin or page)
        test = LIKE[begin] if begin else RUN[page]
        file, name = test.split("::")
        assert f"def {name}(" in (TESTS / file).read_text(), test
    assert used == {*LIKE, *RUN}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_makefile_has_every_target():
    words = [shlex.split(line, comments=True)[1:] for _, line in COMMANDS if line[:5] == "make "]
    targets = sorted({word for line in words for word in line if "=" not in word})
    assert {"demo", "demo-real", "test", "docs", "bench"} <= set(targets)
    command = ["make", "--dry-run", "ACCELERATOR=cpu", *targets]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)


def test_extras_that_are_installed_are_there():
    asked = {extra for page in PAGES for extra in re.findall(r"\[(\w+)\]\"", page_text(page))}
    extras = re.findall(r"^([\w-]+) =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert {"cuda", "tpu"} <= asked <= set(extras)


def page_text(page: str) -> str:
    return (ROOT / page).read_text()


def test_a_program_in_a_line_runs():
    programs = [shlex.split(line)[2] for _, line in COMMANDS if line.startswith("python -c ")]
    assert programs
    for program in programs:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program, {})
        assert printed.getvalue().strip()


def launched() -> list[str]:
    """The options of each search that the page on many chips launches."""
    text = re.sub(r"\\?\n[ \t]+", " ", page_text("docs/scaling.md"))
    return re.findall(r"icmjax search (--[^\"\n]*)", text)


def test_what_launches_a_search_gives_it_options_that_it_has():
    assert len(launched()) == 3
    search = main.get_command(click.Context(main), "search")
    for words in launched():
        context = search.make_context("search", shlex.split(words))
        assert context.params["distributed"]


def test_pretraining_has_the_options_of_its_commands():
    lines = [line for _, line in COMMANDS if line.startswith("python -m icmjax.persona_world")]
    assert len(lines) == 2
    for line in lines:
        assert pretrain.main.make_context("pretrain", shlex.split(line)[3:]).params["out"]
