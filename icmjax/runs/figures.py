"""Figures as PNG for folders, and as SVG for pages, where they take on the page's colours."""

import contextlib
import io
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import matplotlib.axes
import matplotlib.figure
import numpy as np

from icmjax.errors import RunError, printable
from icmjax.files import write_bytes
from icmjax.runs.curves import Found
from icmjax.runs.facts import three_digits
from icmjax.runs.panels import BLUE, GRID, INK, MUTED, SERIES, Panel, mixing_text, panels_of
from icmjax.steering import Condition

WIDTH = 3.9  # inches of a panel
ABOVE_LEGEND = 24  # points, of a title
# By what the page calls them: it has other colours in the dark.
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
STYLE: Any = {
    "text.parse_math": False,  # a path or an option may hold dollar signs
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "icmjax",
}


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # An option's letters may lack in matplotlib's own font; a browser has others.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def plot_search(found: Found, path: pathlib.Path, title: str = "") -> matplotlib.figure.Figure:
    """How a search went and what it found, as a PNG of all panels that have something to show.

    Raises:
      RunError: the file cannot be written.
    """
    panels = panels_of(found)
    num_columns = 3 if len(panels) % 3 == 0 else 2
    num_rows = -(-len(panels) // num_columns)
    with _styled():
        figure = matplotlib.figure.Figure((4.8 * num_columns, 3.3 * num_rows), layout="constrained")
        grid = figure.add_gridspec(num_rows, num_columns)
        for place, panel in enumerate(panels):
            row, column = divmod(place, num_columns)
            end = num_columns if place == len(panels) - 1 else column + 1  # no place is left empty
            axes = figure.add_subplot(grid[row, column:end])
            panel.draw_fn(axes)
            axes.set_title(panel.title, pad=ABOVE_LEGEND)
        figure.suptitle(printable(title, keep=""))
        figure.supxlabel(mixing_text(found.diagnostics), fontsize="medium")
        _write(figure, path)
    return figure


def plot_comparison(
    conditions: Sequence[Condition], path: pathlib.Path, title: str = "", num_options: int = 2
) -> None:
    """Held-out accuracy by condition with its 95 % interval, as a PNG.

    Args:
      conditions: one or more.
      num_options: of a label, for the line of an even guess.

    Raises:
      RunError: the file cannot be written.
    """
    panel = comparison_panel(conditions, num_options)
    with _styled():
        figure = matplotlib.figure.Figure((6.4, _height(conditions)), layout="constrained")
        axes = figure.subplots()
        panel.draw_fn(axes)
        axes.set_title(printable(title, keep=""))
        _write(figure, path)


def _height(conditions: Sequence[Condition]) -> float:
    return 0.36 * len(conditions) + 1.1


def comparison_panel(conditions: Sequence[Condition], num_options: int) -> Panel:
    """Accuracy by condition, the first one uppermost."""
    names = [printable(condition.name, keep="") for condition in conditions]
    means = np.array([condition.mean("accuracy") for condition in conditions])
    intervals = np.array([condition.accuracy_interval for condition in conditions])

    def draw(axes: matplotlib.axes.Axes) -> None:
        places = np.arange(len(names))
        axes.axvline(1 / num_options, color=MUTED, linewidth=1, linestyle="--")
        axes.errorbar(
            means,
            places,
            xerr=np.abs(intervals.T - means),
            fmt="o",
            color=BLUE,
            markersize=5,
            capsize=3,
            elinewidth=1.4,
            clip_on=False,
        )
        for place, mean in enumerate(means.tolist()):
            axes.text(
                1.02,
                place,
                three_digits(mean),
                transform=axes.get_yaxis_transform(),
                va="center",
            )
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="held-out accuracy")
        axes.set_yticks(places, names)

    caption = (
        "Points are accuracies, bars 95 % Wilson intervals, each consistency group counted once; "
        "the dashed line is an even guess."
    )
    return Panel("Held-out accuracy", caption, draw)


def comparison_svg(conditions: Sequence[Condition], num_options: int, name: str) -> str:
    """`comparison_panel` as `panel_svg` gives it."""
    return panel_svg(comparison_panel(conditions, num_options), name, _height(conditions))


def panel_svg(panel: Panel, name: str, height: float = 2.7) -> str:
    """A panel as an inline SVG element whose colours are the page's variables.

    Args:
      name: of letters, its own on the page; ids begin with it.
      height: inches.
    """
    with _styled():
        figure = matplotlib.figure.Figure((WIDTH, height), layout="constrained")
        panel.draw_fn(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    return _for_pages(buffer.getvalue(), panel, name)


def _for_pages(drawn: str, panel: Panel, name: str) -> str:
    """An SVG document as an element of a page: named, with ids and colours that fit there."""
    root = ElementTree.fromstring(_NO_XML.sub("\ufffd", drawn))
    for parent in list(root.iter()):
        parent.tag = parent.tag.split("}")[-1]
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # which would hold of the whole page
                parent.remove(child)
        parent.attrib = {
            key.split("}")[-1]: _named(value, name) for key, value in parent.attrib.items()
        }
        if "id" in parent.attrib:
            parent.set("id", f"{name}-{parent.get('id')}")
    attributes = {"viewBox": root.get("viewBox", ""), "role": "img"}
    root.attrib = attributes | {"aria-labelledby": f"{name}-title {name}-text"}
    for place, (tag, text) in enumerate((("title", panel.title), ("desc", panel.caption))):
        told = ElementTree.Element(tag, id=f"{name}-{'title' if tag == 'title' else 'text'}")
        told.text = _NO_XML.sub("\ufffd", text)
        root.insert(place, told)
    return ElementTree.tostring(root, encoding="unicode")


def _named(value: str, name: str) -> str:
    """An attribute with the page's colours, its font, and the ids that this figure has there."""
    for colour, variable in COLOURS.items():
        value = value.replace(colour, f"var(--{variable})")
    value = re.sub(r"font-family: [^;]*(; )?", "", value)
    return re.sub(r"^#|(?<=url\()#", f"#{name}-", value)


# What no XML document may hold, such as U+FFFE, though an option's name may.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_METADATA = ("Creator", "Date", "Format", "Type")


def _write(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    """Write a figure as PNG; a run error where the file cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    write_bytes(path, buffer.getvalue(), error=RunError)
