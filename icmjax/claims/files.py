"""Claim files: from a path to rows that know the line they stand on; nothing is interpreted."""

import csv
import difflib
import io
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from icmjax.errors import ClaimsError, Fault

_BETWEEN = re.compile(r"[ \t\r\n,]*")  # what stands between the elements of a JSON list


class Row(NamedTuple):
    """One row of a claim file."""

    where: str  # "file:line", or "file:row i" where a file has no lines
    values: Mapping[str, Any]  # column → value; absent or None where the row has none


def read_rows(path: str | pathlib.Path, faults: list[Fault]) -> list[Row]:
    """Read a JSON list, JSONL, CSV or Parquet file, by its suffix.

    Args:
      path: the file.
      faults: gains a fault for every line that cannot be read.

    Raises:
      ClaimsError: the file is missing, a directory or of an unknown kind.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise _file_error("A claim file is a file.", "a directory", path, _offer(path.iterdir()))
    if not path.is_file():
        raise _file_error("A claim file exists.", "no such file", path, _offer_near(path))
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        found = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        remedy = f"use one of {', '.join(_READERS)}"
        raise _file_error("A claim file says its format by its suffix.", found, path, remedy)
    return reader(path, faults)


def rows_from_mappings(
    mappings: Iterable[Mapping[str, Any]], source: str, faults: list[Fault]
) -> list[Row]:
    """Rows that are already loaded, such as a list of dicts or a Hugging Face `Dataset`."""
    entries = ((f"{source}:row {index}", entry) for index, entry in enumerate(mappings))
    return _only_objects(entries, faults)


def _file_error(rule: str, found: str, path: pathlib.Path, remedy: str) -> ClaimsError:
    return ClaimsError(Fault(rule, found, str(path), remedy))


def _offer(paths: Iterable[pathlib.Path]) -> str:
    names = sorted(path.name for path in paths if path.suffix.lower() in _READERS)
    return f"name a file in it, such as {', '.join(names[:5])}" if names else "name a file"


def _offer_near(path: pathlib.Path) -> str:
    if not path.parent.is_dir():
        return f"check the folder: {path.parent} does not exist"
    names = [sibling.name for sibling in path.parent.iterdir() if not sibling.name.startswith(".")]
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
            found = f"{type(entry).__name__} {_short(entry)}"
            faults.append(Fault("A row is an object.", found, where, remedy))
    return rows


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _read_text(path: pathlib.Path, faults: list[Fault]) -> str | None:
    # Bytes, so that carriage returns inside of texts are kept; a byte-order mark is dropped.
    try:
        return path.read_bytes().decode("utf-8-sig")
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
    fault = Fault(f"Every row is well-formed {kind}.", found, f"{path}:{line}", "mend or drop it")
    faults.append(fault)


def _read_json(path: pathlib.Path, faults: list[Fault]) -> list[Row]:
    text = _read_text(path, faults)
    if text is None:
        return []
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; one object a line belongs in a .jsonl file" if error.msg == "Extra data" else ""
        _malformed(path, error.lineno, f"{error.msg} at column {error.colno}{hint}", faults)
        return []
    if not isinstance(entries, list):
        _malformed(path, 1, f"{type(entries).__name__} instead of a list of rows", faults)
        return []
    where = (f"{path}:{line}" for line in _element_lines(text))
    return _only_objects(zip(where, entries, strict=True), faults)


def _element_lines(text: str) -> Iterator[int]:
    """The line on which each element of a well-formed JSON list starts."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _BETWEEN.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    while text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        yield line
        _, end = decoder.raw_decode(text, position)
        position = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]


def _read_jsonl(path: pathlib.Path, faults: list[Fault]) -> list[Row]:
    text = _read_text(path, faults)
    entries = []
    # Not splitlines: a JSON string may hold U+2028 and other breaks as they are.
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        if not line.strip():
            continue
        try:
            entries.append((f"{path}:{number}", json.loads(line)))
        except json.JSONDecodeError as error:
            _malformed(path, number, f"{error.msg} at column {error.colno}", faults)
    return _only_objects(entries, faults)


def _read_csv(path: pathlib.Path, faults: list[Fault]) -> list[Row]:
    text = _read_text(path, faults)
    reader = csv.reader(io.StringIO(text or "", newline=""), strict=True)
    rows, header, start = [], None, 1
    try:
        for record in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not record:
                continue
            if header is None:
                header = record
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


def _read_parquet(path: pathlib.Path, faults: list[Fault]) -> list[Row]:
    try:
        entries = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        faults.append(Fault("The file is Parquet.", str(error), str(path), "write it again"))
        return []
    return [Row(f"{path}:row {index}", entry) for index, entry in enumerate(entries)]


_READERS: dict[str, Callable[[pathlib.Path, list[Fault]], list[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
