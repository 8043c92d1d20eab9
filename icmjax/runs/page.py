"""The page of a run: one HTML file that needs nothing else."""

import base64
import pathlib
import zlib
from typing import Any

import jinja2

from icmjax.errors import printable
from icmjax.runs.files import damage, read_file
from icmjax.runs.reading import RunRecord

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; }
th, td { text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.uncertain { background: #fff6dd; }
.warning { background: #fde2e2; padding: .4rem .7rem; }
img { max-width: 100%; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<table>
{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
{% for warning in warnings %}<p class="warning">Warning: {{ warning }}</p>
{% endfor %}
{% for name, image in figures %}<h2>{{ name }}</h2>
<img alt="{{ name }}" src="data:image/png;base64,{{ image }}">
{% endfor %}
<h2>Labels</h2>
<p>Marked: claims whose label is less than 80 % probable.</p>
<table>
<tr><th>claim</th><th>persona</th><th>label</th><th>probability</th><th>log-odds</th></tr>
{% for row in rows %}<tr{% if row.is_uncertain %} class="uncertain"{% endif %}>
<td>{{ row.text }}</td><td>{{ row.persona }}</td><td>{{ row.label }}</td>
<td class="number">{{ "%.2f"|format(row.marginal) }}</td>
<td class="number">{{ "%+.2f"|format(row.log_odds) }}</td></tr>
{% endfor %}</table>
</body>
</html>
"""
UNCERTAIN = 0.8
SHOWN = (
    "utility",
    "mutual_predictability",
    "num_inconsistent",
    "num_claims",
    "accuracy",
    "num_accuracy_claims",
    "num_tokens",
    "wall_seconds",
)


def make_page(run: RunRecord, folder: pathlib.Path) -> str:
    """The HTML page of a complete run, with the figures that lie in its folder.

    Raises:
      RunError: a figure is no whole PNG.
    """
    configuration = run.manifest["configuration"]
    facts: list[tuple[str, Any]] = [
        ("model", configuration.get("model")),
        ("algorithm", configuration["algorithm"]["name"]),
    ]
    facts += [(name, run.summary[name]) for name in SHOWN if run.summary.get(name) is not None]
    figures = [
        (printable(path.stem, keep=""), base64.b64encode(_read_png(path)).decode())
        for path in sorted(folder.glob("*.png"))
    ]
    rows = [
        {
            "text": " / ".join(filter(None, (claim.question, claim.choice, claim.choice_2))),
            "persona": claim.persona,
            "label": run.claims.options[label],
            # Of the label that is shown, which need not be the most probable one.
            "marginal": float(marginal[label]),
            "log_odds": float(log_odds),
            "is_uncertain": marginal[label] < UNCERTAIN,
        }
        for claim, label, marginal, log_odds in zip(
            run.claims.claims, run.labels, run.marginals, run.log_odds, strict=True
        )
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        title=printable(f"{folder.resolve().name}: {len(rows)} claims", keep=""),
        facts=facts,
        warnings=run.summary.get("warnings", []),
        figures=figures,
        rows=rows,
    )


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
