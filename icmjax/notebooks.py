"""Values as tables in notebooks, every text escaped; bars of other libraries there."""

import html
import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import TqdmWarning

MOST_ROWS = 8  # of a table; what is left out is counted
STYLE = "text-align: left; vertical-align: top"


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """A title over names and values."""
    return _table(title, "".join(_row([name, value]) for name, value in facts.items()))


def rows_html(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A title over the first rows of a table, and how many there are.

    Args:
      rows: each as long as the columns.
    """
    head = "".join(f'<th style="{STYLE}">{html.escape(name)}</th>' for name in columns)
    shown = "".join(_row(row) for row in rows[:MOST_ROWS])
    left_out = len(rows) - MOST_ROWS
    more = f'<tr><td colspan="{len(columns)}">and {left_out} more</td></tr>' if left_out > 0 else ""
    return _table(title, f"<tr>{head}</tr>{shown}{more}")


def let_bars_be_plain() -> None:
    """Have bars of other libraries be text where a notebook has no widgets, without a warning.

    Call it before what imports `tqdm.auto`, which warns once, when it is first imported, that
    ipywidgets is not there. Nothing here has need of it: searches tell their steps in lines.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        importlib.import_module("tqdm.auto")


def _table(title: str, body: str) -> str:
    return f"<table><caption>{html.escape(title)}</caption>{body}</table>"


def _row(cells: Sequence[Any]) -> str:
    shown = (f'<td style="{STYLE}">{html.escape(_text(cell))}</td>' for cell in cells)
    return f"<tr>{''.join(shown)}</tr>"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
