"""Claim files: from a path to rows that know the line they stand on; nothing is interpreted."""

import csv
import difflib
import io
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from icmjax.claims.json_text import Malformed, list_elements, read_value
from icmjax.claims.parquet import read_columns, with_class_names
from icmjax.claims.texts import short
from icmjax.errors import ClaimsError, Fault

_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


class Row(NamedTuple):
    """One row of a claim file."""

    where: str  # "file:line", or "file:row i" where a file has no lines
    values: Mapping[str, Any]  # column → value; absent or None where the row has none


def read_rows(path: str | pathlib.Path, faults: list[Fault]) -> list[Row]:
    """Read a JSON list, JSONL, CSV, TSV or Parquet file, or lines of statements, by its suffix.

    Args:
      path: the file.
      faults: gains a fault for every line that cannot be read.

    Raises:
      ClaimsError: the file is missing, a directory, not to be read or of an unknown kind.
    """
    path = pathlib.Path(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _file_error("A claim file exists.", "no such file", path, _offer_near(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no system takes
        raise _file_error("A claim file exists.", _reason(error), path, "check its name") from error
    if stat.S_ISDIR(mode):
        raise _file_error("A claim file is a file.", "a directory", path, _offer(path))
    if not stat.S_ISREG(mode):  # a pipe would be waited for
        found = "neither a file nor a directory"
        raise _file_error("A claim file is a file.", found, path, "copy its content into a file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        found = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        remedy = f"use one of {', '.join(_READERS)}"
        raise _file_error("A claim file says its format by its suffix.", found, path, remedy)
    try:
        content = path.read_bytes()
    except OSError as error:
        rule, remedy = "A claim file can be read.", "see that you may read it"
        raise _file_error(rule, _reason(error), path, remedy) from error
    return reader(path, content, faults)


def rows_from_mappings(
    mappings: Iterable[Mapping[str, Any]], source: str, faults: list[Fault]
) -> list[Row]:
    """Rows that are already loaded, such as a list of dicts or a Hugging Face `Dataset`.

    Where the rows declare names of classes, as a `Dataset` does in `features`, the names stand in
    for their numbers.
    """
    features = getattr(mappings, "features", None)
    names = {
        column: list(feature.names)
        for column, feature in (features.items() if isinstance(features, Mapping) else ())
        if isinstance(getattr(feature, "names", None), list | tuple)
    }
    entries = ((f"{source}:row {index}", entry) for index, entry in enumerate(mappings))
    rows = _only_objects(entries, faults)
    if not names:
        return rows
    return [Row(row.where, with_class_names(row.values, names, row.where, faults)) for row in rows]


def _file_error(rule: str, found: str, path: pathlib.Path, remedy: str) -> ClaimsError:
    return ClaimsError(Fault(rule, found, str(path), remedy))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _names_in(folder: pathlib.Path) -> list[str] | None:
    """Names in a folder; None where there is none that can be read."""
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return None


def _offer(folder: pathlib.Path) -> str:
    names = [
        name for name in _names_in(folder) or [] if pathlib.Path(name).suffix.lower() in _READERS
    ]
    return f"name a file in it, such as {', '.join(names[:5])}" if names else "name a file"


def _offer_near(path: pathlib.Path) -> str:
    siblings = _names_in(path.parent)
    if siblings is None:
        return f"check the folder: {path.parent} does not exist"
    names = [name for name in siblings if not name.startswith(".")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"see what {path.parent} holds"


def _only_objects(entries: Iterable[tuple[str, Any]], faults: list[Fault]) -> list[Row]:
    rows = []
    for where, entry in entries:
        if isinstance(entry, Mapping):
            rows.append(Row(where, entry))
        else:
            remedy = "give each row as an object of column names and values"
            if isinstance(entry, list):
                remedy += "; a JSON list of rows belongs in a .json file"
            found = f"{type(entry).__name__} {short(entry)}"
            faults.append(Fault("A row is an object.", found, where, remedy))
    return rows


def _as_text(path: pathlib.Path, content: bytes, faults: list[Fault]) -> str | None:
    # Bytes, so that carriage returns inside of texts are kept; a byte-order mark is dropped.
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02x}, which is not UTF-8"
        fault = Fault(
            "A claim file is UTF-8 text.", found, f"{path}:{line}", "save the file as UTF-8"
        )
        faults.append(fault)
        return None


def _malformed(path: pathlib.Path, line: int, found: str, faults: list[Fault]) -> None:
    kind = path.suffix.lower()[1:].upper()
    remedy = "mend or drop it"
    if kind == "JSON":
        remedy = "mend it: .json is a list of objects, and .jsonl an object a line"
    faults.append(Fault(f"Every row is well-formed {kind}.", found, f"{path}:{line}", remedy))


def _place(text: str, error: Malformed) -> tuple[int, str]:
    """The line of what is malformed, and what was found there."""
    before = text[: error.position]
    column = error.position - before.rfind("\n")
    return before.count("\n") + 1, f"{error.found} at column {column}"


def _read_json(path: pathlib.Path, content: bytes, faults: list[Fault]) -> list[Row]:
    text = _as_text(path, content, faults)
    if text is None:
        return []
    entries = []
    try:
        for line, value in list_elements(text):
            entries.append((f"{path}:{line}", value))
    except Malformed as error:
        _malformed(path, *_place(text, error), faults)
        return []  # what follows is unknown, so nothing more can be said of the rows
    return _only_objects(entries, faults)


def _read_jsonl(path: pathlib.Path, content: bytes, faults: list[Fault]) -> list[Row]:
    text = _as_text(path, content, faults)
    entries = []
    # Not splitlines: a JSON string may hold U+2028 and other breaks as they are.
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        if not line.strip():
            continue
        try:
            entries.append((f"{path}:{number}", read_value(line)))
        except Malformed as error:
            _malformed(path, number, _place(line, error)[1], faults)
    return _only_objects(entries, faults)


def _read_csv(path: pathlib.Path, content: bytes, faults: list[Fault]) -> list[Row]:
    text = _as_text(path, content, faults)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text or "", newline=""), strict=True, delimiter=delimiter)
    rows, header, start = [], None, 1
    try:
        for record in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not record:
                continue
            if header is None:
                header = record
                if delimiter == "," and _has_other_delimiter(header, where, faults):
                    return []
                if len(set(header)) < len(header):
                    _malformed(path, reader.line_num, "columns of the same name", faults)
            elif len(record) == len(header):
                rows.append(Row(where, dict(zip(header, record, strict=True))))
            else:
                found = f"{len(record)} cells under {len(header)} columns"
                faults.append(
                    Fault("Every CSV row has a cell for each column.", found, where, "mend it")
                )
    except csv.Error as error:
        _malformed(path, reader.line_num, str(error), faults)
    return rows


def _has_other_delimiter(header: list[str], where: str, faults: list[Fault]) -> bool:
    """Whether the names of the columns stand in one cell, with something between them."""
    for delimiter, name in _DELIMITERS.items():
        if len(header) == 1 and delimiter in header[0]:
            remedy = f"save the file with commas instead of {name}, texts in double quotes"
            remedy += "; or name it .tsv" if delimiter == "\t" else ""
            rule = "Commas separate the cells of a CSV file."
            faults.append(Fault(rule, f"{name} ({delimiter!r}) in the first line", where, remedy))
            return True
    return False


def _read_statements(path: pathlib.Path, content: bytes, faults: list[Fault]) -> list[Row]:
    """One statement a line, each a claim that nothing ties to another."""
    # Not splitlines: a statement may hold U+2028, a form feed and other breaks as they are.
    lines = re.split("\r?\n", _as_text(path, content, faults) or "")
    statements = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [
        Row(f"{path}:{number}", {"choice": text, "consistency_id": f"{number}"})
        for number, text in statements
        if text
    ]


def _read_parquet(path: pathlib.Path, content: bytes, faults: list[Fault]) -> list[Row]:
    columns = read_columns(str(path), content, faults)
    if not columns:
        return []
    entries = (
        dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
    )
    return [Row(f"{path}:row {index}", entry) for index, entry in enumerate(entries)]


_READERS: dict[str, Callable[[pathlib.Path, bytes, list[Fault]], list[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_statements,
}
