"""Column names: a user's mapped onto those of claim files, and what is wrong with a file's."""

import csv
import difflib
import io
import json
import re
from collections.abc import Mapping, Sequence

from icmjax.claims.files import Row
from icmjax.claims.schemas import SCHEMAS, WRITTEN, Schema, columns_of, required_columns
from icmjax.claims.texts import is_blank, short
from icmjax.errors import ClaimsError, Fault

# That some schema or survey reads.
KNOWN_COLUMNS = (
    "question",
    "choice",
    "choice_2",
    "consistency_id",
    "persona",
    "label",
    "id",
    "statement",
    "claim",
    "preamble",
    "options",
    "selections",
    "option",
    "answer",
    "cot",
    "raw_choice_1",
    "raw_choice_2",
    "is_liberal",
)
_RULE = "Columns are named as ours=yours, with commas between."


def parse_columns(text: str) -> dict[str, str]:
    """A mapping such as "question=Q,choice=A", ours to yours.

    A name with a comma stands in double quotes together with ours, as CSV has it:
    `"question=Q, in full",choice=A`.

    Raises:
      ClaimsError: the text is no such mapping.
    """
    try:
        parts = next(csv.reader([text], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        raise ClaimsError(Fault(_RULE, f"{short(text)}: {error}", "columns", _EXAMPLE)) from None
    pairs = [part.partition("=") for part in parts]
    faults = [
        Fault(_RULE, repr(part), "columns", _EXAMPLE)
        for part, (ours, separator, yours) in zip(parts, pairs, strict=True)
        if not (ours.strip() and separator and yours)
    ]
    names = [ours.strip() for ours, _, _ in pairs]
    faults += [
        Fault("A column of ours is named once.", name, "columns", "name it once")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if faults or not parts:
        raise ClaimsError(faults or Fault(_RULE, "nothing", "columns", _EXAMPLE))
    return {name: yours for name, (_, _, yours) in zip(names, pairs, strict=True)}


_EXAMPLE = "write it as question=Q,choice=A"


def columns_text(columns: Mapping[str, str]) -> str:
    """The mapping as `parse_columns` reads it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(f"{name}={columns[name]}" for name in columns)
    return line.getvalue()


def rename_columns(
    rows: Sequence[Row], columns: Mapping[str, str], name: str, faults: list[Fault]
) -> list[Row]:
    """Rows by the names of our columns; a column of that name gives way in every row of the file.

    Args:
      rows: of one file.
      columns: ours to yours.
      name: what messages call the file.
      faults: gains a fault for each name that is not known, ours or yours.
    """
    present = list(dict.fromkeys(column for row in rows for column in row.values))
    num_faults = len(faults)
    for ours, yours in columns.items():
        if ours not in KNOWN_COLUMNS:
            rule, remedy = "A column that a file's is mapped onto is one of ours.", _near(ours)
            faults.append(Fault(rule, repr(ours), "columns", remedy))
        if rows and yours not in present:
            rule, remedy = "A column that is mapped is in the file.", _offer(yours, present)
            faults.append(Fault(rule, repr(yours), f"{name}:columns", remedy))
    if len(faults) > num_faults:
        return []
    # Of ours, too, so that a row without the mapped column has no value of another one.
    renamed = {*columns, *columns.values()}
    return [
        Row(
            row.where,
            {key: value for key, value in row.values.items() if key not in renamed}
            | {ours: row.values[yours] for ours, yours in columns.items() if yours in row.values},
        )
        for row in rows
    ]


def _near(ours: str) -> str:
    near = difflib.get_close_matches(ours, KNOWN_COLUMNS, n=1)
    known = f"ours are {', '.join(KNOWN_COLUMNS)}"
    return f"did you mean {near[0]}? {known}" if near else known


def _offer(yours: str, present: Sequence[str]) -> str:
    names = [str(column) for column in present]
    near = difflib.get_close_matches(yours, names, n=1)
    there = f"the file has {', '.join(names)}"
    return f"did you mean {near[0]}? {there}" if near else there


def check_columns(
    rows: Sequence[Row], schema: Schema, others: Mapping[str, Sequence[str]]
) -> Fault | None:
    """What is wrong with the names of a file's columns; where it is of no kind, by the nearest one.

    Args:
      rows: of the file.
      schema: the one that was found for it.
      others: columns of further kinds of files, by the kind's name.
    """
    present = columns_of(rows)
    name, needed = schema.name, list(required_columns(rows, schema).values())
    if set(needed) <= present and not _misspelt(rows, needed):
        return None
    if not schema.recognised_by and not schema.named:
        nearest = _nearest(present, others)
        if nearest is None and not _misspelt(rows, needed):
            return _of_no_kind(rows, present)
        name, needed = nearest or (name, _all_columns(schema))
    misspelt = _misspelt(rows, needed)
    missing = [name for name in needed if name not in present | set(misspelt.values())]
    renaming = [f"{found} to {meant}" for found, meant in misspelt.items()]
    remedy = [f"add or rename: {', '.join(missing)}"] if missing else []
    remedy += [f"rename {', '.join(renaming)}"] if renaming else []
    if missing:
        remedy.append(f'or name a column of yours, as columns={{"{missing[0]}": "NAME"}}')
    return Fault(
        rule=f"A {name} file fills the columns {', '.join(needed)}, and question where a claim "
        "answers one.",
        found=f"it fills {', '.join(sorted(map(str, present))) or 'none'}",
        where=rows[0].where.rpartition(":")[0],
        remedy="; ".join(remedy),
    )


def _of_no_kind(rows: Sequence[Row], present: set[str]) -> Fault:
    names = sorted(map(str, present))
    example = _likely_claims(rows, names) or "NAME"
    mapping = json.dumps({"claim": example}, ensure_ascii=False)
    return Fault(
        rule="One column of a file holds its claims, and is called claim or statement, or choice.",
        found=f"columns {', '.join(names) or 'none'}",
        where=rows[0].where.rpartition(":")[0],
        remedy=f"say which, as columns={mapping}; docs/data.md lists all kinds of files",
    )


def _likely_claims(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The column that looks most like one of claims; None where none does.

    Claims differ from row to row, and have more words than names, numbers and ids.
    """
    most: tuple[float, float] = (0.0, 0.0)
    likely = None
    for name in names:
        values = [row.values.get(name) for row in rows]
        texts = [value for value in values if isinstance(value, str) and not is_blank(value)]
        if len(set(texts)) <= len(rows) / 2 or all(map(_is_number, texts)):
            continue
        num_words = sum(len(text.split()) for text in texts)
        size = num_words / len(texts), sum(map(len, texts)) / len(texts)
        if size > most:
            most, likely = size, name
    return likely


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\s\d.,+-]*", text) is not None


def _all_columns(schema: Schema) -> list[str]:
    return list(dict.fromkeys((*schema.columns.values(), *schema.recognised_by)))


def _nearest(
    present: set[str], others: Mapping[str, Sequence[str]]
) -> tuple[str, list[str]] | None:
    """The kind of file of whose columns at least half are there, the largest share of all."""
    kinds = [(each.name, _all_columns(each)) for each in SCHEMAS if each is not WRITTEN]
    kinds += [(name, list(columns)) for name, columns in others.items()]
    shares = [sum(name in present for name in own) / len(own) for _, own in kinds]
    best = max(range(len(kinds)), key=lambda index: shares[index])
    return kinds[best] if shares[best] >= 0.5 else None


def _misspelt(rows: Sequence[Row], needed: Sequence[str]) -> dict[str, str]:
    """Columns named as one that is read but for their case and signs, and that one.

    A column that a file may leave out would else be left out unseen.
    """
    named = {name for row in rows for name in row.values if isinstance(name, str)}
    read = {"question", "persona", "choice_2", "consistency_id", *needed}
    meant = {_letters(name): name for name in sorted(read - named)}
    found = {name: meant.get(_letters(name)) for name in sorted(named - read)}
    return {name: to for name, to in found.items() if to is not None}


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
