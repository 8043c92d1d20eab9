"""Labelled claims as a folder that Hugging Face's `datasets` loads: Parquet, and a card."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml

from icmjax.errors import printable
from icmjax.runs.exports.source import title_of
from icmjax.runs.jsonl import label_rows
from icmjax.runs.reading import RunRecord

DATA = "labels.parquet"
GIVEN, FOUND = "given", "found"
COLUMNS = {
    "id": "of the claim",
    "persona": "whose claim it is",
    "consistency_id": "claims of one persona with the same one are tied",
    "question": "what was asked",
    "choice": "the claim",
    "choice_2": "the other response, where two are compared",
    "label": "{options}",
    "log_odds": "{odds}, given all the other labels, in nats",
    "marginal": "{marginal}",
    "source": "found: by the search; given: the search was told it, or it follows from such labels",
}


def dataset(run: RunRecord, name: str) -> dict[str, bytes]:
    """The files of a data set's folder: `labels.parquet`, and `README.md` with its metadata.

    `datasets` is not needed. The card says how the labels came about. It states no licence: that
    is for whom the claims belong to.

    Args:
      run: a complete one.
      name: what the card calls the data.
    """
    rows = label_rows(run.claims, run.labels, run.log_odds, run.marginals)
    clamped = run.manifest["configuration"].get("clamped", {})
    for row in rows:
        row["source"] = GIVEN if row["id"] in clamped else FOUND
    fields = {column: _field(column, rows) for column in COLUMNS if column in rows[0]}
    schema = pyarrow.schema(list(fields.items()))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), buffer)
    return {DATA: buffer.getvalue(), "README.md": _card(run, name, fields).encode()}


def _field(column: str, rows: list[dict[str, Any]]) -> pyarrow.DataType:
    if column == "marginal" and isinstance(rows[0][column], list):
        return pyarrow.list_(pyarrow.float64())
    return {float: pyarrow.float64(), int: pyarrow.int64(), str: pyarrow.string()}[
        type(rows[0][column])
    ]


def _card(run: RunRecord, name: str, fields: dict[str, pyarrow.DataType]) -> str:
    metadata = {
        "pretty_name": f"Labels found without gold labels: {name}",
        "task_categories": ["text-classification"],
        "tags": ["icmjax", title_of(name)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": DATA}]}],
        "dataset_info": {
            "features": [_feature(column, kind, run) for column, kind in fields.items()]
        },
    }
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    text = "\n".join(_paragraphs(run, name, list(fields)))
    return f"---\n{front}---\n\n{printable(text)}\n"


def _feature(column: str, kind: pyarrow.DataType, run: RunRecord) -> dict[str, Any]:
    """A column as cards of `datasets` declare it."""
    if column == "label":
        names = {str(index): option for index, option in enumerate(run.claims.options)}
        return {"name": column, "dtype": {"class_label": {"names": names}}}
    if pyarrow.types.is_list(kind):
        return {"name": column, "list": "float64"}
    return {"name": column, "dtype": {"double": "float64"}.get(str(kind), str(kind))}


def _paragraphs(run: RunRecord, name: str, columns: list[str]) -> Iterator[str]:
    """The card's text, in lines."""
    configuration, summary = run.manifest["configuration"], run.summary
    options = run.claims.options
    personas = ", ".join(persona or "nobody named" for persona in run.claims.personas)
    yield f"# Labels found without gold labels: {name}\n"
    yield f"{len(run.claims)} claims with a label each. Whose they are: {personas}.\n"
    yield "## How the labels came about\n"
    yield (
        "icmjax labelled the claims without gold labels. The labels are what a language model "
        "made of the claims.\n"
    )
    yield f"- model: `{configuration['model']}`"
    yield f"- algorithm: `{configuration['algorithm']['name']}`"
    yield f"- icmjax: {summary['versions']['icmjax']}"
    yield f"- utility U: {summary['utility']:.4f}"
    yield f"- tied claims whose labels break a pair rule: {summary['num_inconsistent']} pairs"
    num_given = len(configuration.get("clamped", {}))
    yield f"- labels that the search was given, or that follow from these: {num_given}"
    if summary["accuracy"] is None:
        yield "- accuracy: not known, as the claims had no gold labels to compare with"
    else:
        yield (
            f"- accuracy: {summary['accuracy']:.3f} of {summary['num_accuracy_claims']} labels "
            "that were found, by gold labels that the search did not see"
        )
    warnings = [f"- warning: {warning}" for warning in summary["warnings"]]
    yield from warnings or ["- warnings of the search: none"]
    yield "\n## Columns\n\n| column | what |\n|---|---|"
    is_binary = len(options) == 2
    words = {
        "options": ", ".join(f"{index}: {option}" for index, option in enumerate(options)),
        "odds": f"log P({options[-1]}) − log P({options[0]})"
        if is_binary
        else "of the label against all others",
        "marginal": f"probability of {options[-1]}" if is_binary else "probability of each label",
    }
    for column in columns:
        yield f"| `{column}` | {COLUMNS[column].format(**words)} |"
    yield "\n## Licence\n\nNone is stated. Whoever publishes this data states that of the claims."
