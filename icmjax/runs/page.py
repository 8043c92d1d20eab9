"""The page of a run: one HTML file that needs nothing else."""

import base64
import functools
import hashlib
import os
import pathlib
import re
import zlib

import jinja2
import markupsafe

from icmjax._version import __version__
from icmjax.claims import GoldLabels
from icmjax.errors import RunError, printable
from icmjax.files import write_text
from icmjax.runs.curves import found_in
from icmjax.runs.evaluations import EvaluationRecord, read_evaluations
from icmjax.runs.facts import (
    accuracies,
    key_numbers,
    sentences,
    settings_of_run,
    three_digits,
)
from icmjax.runs.figures import comparison_svg, panel_svg
from icmjax.runs.files import damage, read_file
from icmjax.runs.panels import panels_of
from icmjax.runs.reading import ANSWERS, RunRecord, read_run
from icmjax.runs.rows import KINDS, answered_in, extremes, gold_in, label_rows, pair_rows
from icmjax.runs.warned import turned_by, warnings_of

PAGE = "report.html"
# What commands draw as PNG the page draws itself, in its own colours.
DRAWN = re.compile(r"diagnostics\.png|evaluation(-\d+)?\.png")
MANY_PAIRS = 64  # from which on they are folded away at first


def report(folder: str | os.PathLike[str], gold: GoldLabels | None = None) -> pathlib.Path:
    """Write the page of a complete run into its folder: what was asked and found, and how.

    The page is one HTML file that loads nothing. An earlier one is written over. Where the search
    was given answers of people, the owner alone may read it, as the answers.

    Args:
      folder: of the run.
      gold: gold labels of its claims, where the run keeps none.

    Returns:
      Where the page lies: `folder/report.html`.

    Raises:
      RunError: the folder holds no complete run, files of it are damaged, or the page cannot be
        written.
    """
    folder = pathlib.Path(folder)
    run = read_run(folder)
    page = make_page(run, folder, gold)
    is_private = ANSWERS in run.manifest["files"]
    write_text(folder / PAGE, page, private=is_private, error=RunError)
    return folder / PAGE


def make_page(run: RunRecord, folder: pathlib.Path, gold: GoldLabels | None = None) -> str:
    """The HTML page of a complete run, with the evaluations and figures that lie in its folder.

    Raises:
      RunError: a file of the folder that the page shows is damaged.
    """
    found = found_in(run, gold_in(folder, run) or gold)
    rows = label_rows(run, found, answered_in(folder, run))
    evaluations = read_evaluations(folder)
    questions = {row.question for row in rows}
    surest, least_sure = extremes(rows)
    asked, told = sentences(run, found)
    warnings = warnings_of(run.manifest, run.summary, run.claims, found)
    warnings += turned_by(run.summary, run.claims, run.labels)
    pairs = pair_rows(run.claims, run.labels, rows)
    environment = _environment()
    script = environment.get_template("report.js").render()
    return environment.get_template("report.html").render(
        title=printable(folder.resolve().name, keep=""),
        asked=asked,
        told=told,
        warnings=[printable(warning, keep="") for warning in warnings],
        numbers=key_numbers(run, found),
        panels=[
            (panel, markupsafe.Markup(panel_svg(panel, f"figure{number}")))
            for number, panel in enumerate(panels_of(found))
        ],
        images=_images(folder),
        accuracies=accuracies(found),
        evaluations=[
            (evaluation, _comparison(evaluation, number, len(run.claims.options)))
            for number, evaluation in enumerate(evaluations)
        ],
        rows=rows,
        question=questions.pop() if len(questions) == 1 else "",
        has_personas=len(run.claims.personas) > 1,
        has_gold=any(row.gold for row in rows),
        has_held=any(row.held for row in rows),
        options=[printable(option, keep="") for option in run.claims.options],
        personas=[printable(persona, keep="") for persona in run.claims.personas],
        surest=surest,
        least_sure=least_sure,
        pairs=pairs,
        kinds=[(kind, KINDS[kind]) for kind in KINDS if kind in {pair.kind for pair in pairs}],
        many_pairs=MANY_PAIRS,
        settings=settings_of_run(run),
        version=__version__,
        script=markupsafe.Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _comparison(evaluation: EvaluationRecord, number: int, num_options: int) -> markupsafe.Markup:
    drawn = comparison_svg(evaluation.conditions, num_options, f"comparison{number}")
    return markupsafe.Markup(drawn)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("icmjax.runs"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["digits"] = three_digits
    environment.filters["plain"] = lambda value: printable(str(value), keep="")
    return environment


def _images(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Other figures that somebody put into the folder: name, and PNG in base 64."""
    return [
        (printable(path.stem, keep=""), base64.b64encode(_read_png(path)).decode())
        for path in sorted(folder.glob("*.png"))
        if not DRAWN.fullmatch(path.name)
    ]


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _read_png(path: pathlib.Path) -> bytes:
    """The bytes of a figure, each part of which is as its checksum says.

    Raises:
      RunError: the file cannot be read, or is no whole PNG.
    """
    content = read_file(path)
    start, kind = len(SIGNATURE), b""
    is_whole = content.startswith(SIGNATURE)
    while is_whole and kind != b"IEND":
        length, kind = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        end = start + 8 + length
        is_whole = int.from_bytes(content[end : end + 4]) == zlib.crc32(content[start + 4 : end])
        is_whole &= end + 4 <= len(content)
        start = end + 4
    if not is_whole:
        raise damage(path, "no whole PNG", "take it away; the page is made without it")
    return content
