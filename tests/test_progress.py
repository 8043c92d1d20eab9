"""How far a search is, told in time."""

import importlib
import io
import re
import sys
import time
import types
import warnings

import pytest
import tqdm.notebook
from tqdm import TqdmWarning

from icmjax.notebooks import let_bars_be_plain
from icmjax.search import progress as module
from icmjax.search.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: Clock.now)
    return Clock


def make(expected_tokens: int | None = None) -> Progress:
    return Progress(10, 0, 0, expected_tokens, is_shown=False, file=io.StringIO())


def test_the_first_step_is_said_to_be_compiled(clock):
    told = make()
    clock.now += 7
    assert told.line() == "first step, with compilation, 7 s"


def test_rates_are_of_what_came_after_the_first_block(clock):
    told = make(expected_tokens=2000)
    clock.now += 60  # of compilation
    told.update(1, 100, {})
    clock.now += 10
    told.update(2, 600, {"U": "-3.000"})
    # 500 tokens in 10 s, and 1400 are left.
    assert told.line() == "U -3.000, 50 tokens/s, 1:10 min, about 28 s left"


def test_where_no_tokens_are_expected_steps_tell_what_is_left(clock):
    told = make()
    told.update(2, 0, {})
    clock.now += 8
    told.update(4, 0, {})
    assert told.line() == "8 s, about 24 s left"


def test_a_finished_search_has_nothing_left(clock):
    told = make(expected_tokens=100)
    told.update(1, 10, {})
    clock.now += 3
    told.update(10, 100, {})
    assert told.line() == "30 tokens/s, 3 s"


def test_lines_come_while_a_step_runs(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    file = io.StringIO()
    with Progress(10, 0, 0, None, is_shown=True, file=file):
        time.sleep(0.5)
    lines = file.getvalue().splitlines()
    assert len(lines) >= 3  # of ten; a busy machine may be late
    assert {re.sub(r"\d s$", "", line) for line in lines} == {
        "search: step 0 of 10, first step, with compilation, "
    }


def test_nothing_is_shown_where_nobody_watches(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    file = io.StringIO()
    with Progress(10, 0, 0, None, is_shown=False, file=file) as told:
        told.update(10, 5, {})
    assert file.getvalue() == ""


def test_on_a_terminal_a_bar_has_the_line():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    with Progress(10, 0, 0, None, is_shown=True, file=file) as told:
        told.update(10, 50, {"U": "-1.000"})
    assert "step 10 of 10, U -1.000" in file.getvalue()
    assert "100%" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (75, "1:15 min"), (3720, "1:02 h")]
)
def test_time_is_for_people(seconds, text):
    assert module._time(seconds) == text


def test_a_notebook_without_widgets_has_bars_of_text(monkeypatch):
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    console = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", console)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", console)
    monkeypatch.setattr(tqdm.notebook, "IProgress", None)

    def forget():
        for name in ("tqdm.auto", "tqdm.autonotebook"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    forget()
    with pytest.warns(TqdmWarning, match="IProgress not found"):
        importlib.import_module("tqdm.auto")  # as it would be without our own import
    forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        let_bars_be_plain()
    bar = sys.modules["tqdm.auto"].tqdm(total=1, file=io.StringIO())
    assert not isinstance(bar, tqdm.notebook.tqdm)
    bar.close()
