"""From what holds claims to their rows: files, folders, datasets, frames and lists in memory."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from icmjax.claims.columns import rename_columns
from icmjax.claims.datasets_library import is_of_library, read_library
from icmjax.claims.files import Row, read_rows, rows_from_mappings
from icmjax.claims.schemas import Schema, find_schema
from icmjax.claims.surveys import find_survey, unfold
from icmjax.errors import ClaimsError, Fault, Kind, check_kinds

# A path, the name of a dataset, or rows in memory; a frame of pandas is recognised by its methods.
Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


class Table(NamedTuple):
    """The rows of one source, one a claim, and the faults found while reading them."""

    rows: list[Row]
    name: str  # what messages call it
    stem: str  # the file's name without folder and suffix; "" where it says nothing
    schema: Schema | None  # None where there is no row
    faults: list[Fault]


def read_table(
    source: Source, columns: Mapping[str, str] | None = None, name: str = "rows"
) -> Table:
    """The rows of a source by the names of our columns, surveys unfolded into claims.

    Args:
      source: where the claims are.
      columns: names of our columns to those that the source has.
      name: what messages call rows in memory.

    Raises:
      ClaimsError: the source is not there, or cannot be read at all; `columns` is no mapping.
    """
    is_mapping = columns is None or isinstance(columns, Mapping)
    remedy = 'write it as {"choice": "opinion"}, ours first; `parse_columns` reads choice=opinion'
    check_kinds(ClaimsError, columns=Kind(columns, is_mapping, "a mapping of names", remedy))
    faults: list[Fault] = []
    rows, name, stem = _read(source, name, faults)
    rows = rename_columns(rows, columns or {}, name, faults)
    survey = find_survey(rows)
    if survey is not None:
        schema: Schema | None = survey.schema
        rows = unfold(rows, survey, stem, faults)
    else:
        schema = find_schema(rows, stem) if rows else None
    return Table(rows, name, stem, schema, faults)


def column_names(source: Source) -> set[str]:
    """The columns that a source has under their own names; raises as `read_table` does."""
    rows, _, _ = _read(source, "rows", [])
    return {name for row in rows for name in row.values}


def _read(source: Source, name: str, faults: list[Fault]) -> tuple[list[Row], str, str]:
    """The rows as they stand, what messages call the source, and its stem."""
    if not isinstance(source, str | os.PathLike):
        return rows_from_mappings(_records(source, name, faults), name, faults), name, name
    if is_of_library(source):
        rows, stem = read_library(source, faults)
        return rows, os.fspath(source), stem
    path = pathlib.Path(source)
    return read_rows(path, faults), str(path), path.stem


def _records(source: Any, name: str, faults: list[Fault]) -> Iterable[Mapping[str, Any]]:
    """The rows of a frame as mappings, in which what is missing is None; others as they are."""
    if not (hasattr(source, "to_dict") and hasattr(source, "notna")):
        return source
    if not source.columns.is_unique:
        found = ", ".join(sorted(set(map(str, source.columns[source.columns.duplicated()]))))
        rule, remedy = "The columns of a frame have names of their own.", "rename one of each"
        faults.append(Fault(rule, found, f"{name}:columns", remedy))
        return []
    records = source.astype(object).where(source.notna(), None).to_dict("records")
    return [{name: _plain(cell) for name, cell in record.items()} for record in records]


def _plain(cell: Any) -> Any:
    """A cell without numpy's arrays and numbers, which frames have of lists in Parquet files."""
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if isinstance(cell, list):
        return [_plain(part) for part in cell]
    if isinstance(cell, dict):
        return {name: _plain(part) for name, part in cell.items()}
    return cell
