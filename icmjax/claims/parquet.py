"""Parquet tables as columns of Python values, by the types that the file itself declares."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from icmjax.claims.texts import kind_and_value
from icmjax.errors import Fault

# What pyarrow raises about a file's content; ValueError and OverflowError are those of values that
# Python has no type for, such as nanoseconds and the year 30000.
_ERRORS = (pyarrow.ArrowException, OSError, ValueError, OverflowError)


def read_columns(name: str, content: bytes, faults: list[Fault]) -> dict[str, list[Any]]:
    """The columns of a Parquet file, with names of classes for their numbers.

    Args:
      name: what messages call the file.
      content: the file's bytes.
      faults: gains a fault for every column that cannot be read.
    """
    rule, remedy = "The file is Parquet.", "write it again"
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        names = table.column_names
    except _ERRORS as error:
        faults.append(Fault(rule, _one_line(error), name, remedy))
        return {}
    if len(set(names)) < len(names):
        faults.append(Fault(rule, "columns of the same name", name, "rename one of them"))
        return {}
    columns, num_faults = {}, len(faults)
    for column in names:
        try:
            columns[column] = _values(table.column(column))
        except _ERRORS as error:
            rule = "Python can hold the values of every column."
            faults.append(Fault(rule, _one_line(error), f"{name}:{column}", "mend or drop it"))
    if len(faults) > num_faults:
        return {}  # a row without one of its columns would be called faulty for that
    for column, classes in _class_names(table.schema.metadata or {}, name, faults).items():
        if column in columns:
            columns[column] = [
                _class_name(value, classes, f"{name}:row {index}:{column}", faults)
                for index, value in enumerate(columns[column])
            ]
    return columns


def with_class_names(
    values: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    where: str,
    faults: list[Fault],
) -> Mapping[str, Any]:
    """A row with names of classes for their numbers, in the columns that have some."""
    named = {
        column: _class_name(values[column], classes, f"{where}:{column}", faults)
        for column, classes in names.items()
        if column in values
    }
    return {**values, **named}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _values(column: pyarrow.ChunkedArray) -> list[Any]:
    # Without pandas, Python has no nanoseconds; no claim is one, so that their text will do.
    if pyarrow.types.is_temporal(column.type):
        column = pyarrow.compute.cast(column, pyarrow.string())
    return column.to_pylist()


def _class_names(
    metadata: Mapping[bytes, bytes], name: str, faults: list[Fault]
) -> dict[str, list[str]]:
    """The names of classes that a Hugging Face dataset declares, by column."""
    declared = metadata.get(b"huggingface")
    if declared is None:
        return {}
    try:
        features = json.loads(declared)["info"]["features"]
        return {
            column: [str(class_name) for class_name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        rule = "A file that declares the types of its columns does so as Hugging Face datasets do."
        remedy = "write the file again, or without the metadata"
        faults.append(Fault(rule, "metadata of another form", f"{name}:huggingface", remedy))
        return {}


def _class_name(value: Any, classes: Sequence[str], where: str, faults: list[Fault]) -> Any:
    """The class that a number stands for; -1 is none, and names stay as they are."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or value == -1:
        return None if is_number else value
    if 0 <= value < len(classes):
        return classes[value]
    rule = f"A class is one of {', '.join(classes)}, by its number."
    faults.append(Fault(rule, kind_and_value(value), where, "mend the cell"))
    return None
