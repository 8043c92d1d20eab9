"""Messages of faults: four lines each, without characters that steer a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmjax.errors import Fault, printable

ESCAPES = ["\x1b[31m", "\x9b2J", "\x07", "\r", "\x00", "\x7f", "\u202e", "\ud800"]


@pytest.mark.parametrize("escape", ESCAPES)
def test_escapes_are_spelt_out(escape):
    assert printable(f"a{escape}b") == f"a{escape}b".encode("unicode_escape").decode()


def test_other_text_stays_as_it_is():
    text = "ünïcödé 日本 👩‍👩‍👧 \\ 'quotes' \"both\"\tand\nlines"
    assert printable(text) == text
    assert printable("a\tb\nc", keep="") == "a\\tb\\nc"


anything = st.text(st.characters() | st.sampled_from("\x1b\x9b\x85\r\n\u2028\u202e\ud800"))


@given(anything, anything, anything, anything)
def test_a_fault_has_four_lines_that_any_terminal_can_show(rule, found, where, remedy):
    message = str(Fault(rule, found, where, remedy))
    assert len(message.splitlines()) == 4
    message.encode()
    assert not set("\x1b\x9b\r\u202e") & set(message)
