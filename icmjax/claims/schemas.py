"""Schemas of claim files: which columns hold what, and the template and rule that the data ask for.

A schema is one row of a table. It is recognised by its columns, and in one case by the file's name.
It reads no label: that a row has one is all it passes on.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from icmjax.claims.consistency import Rule
from icmjax.claims.files import Row
from icmjax.claims.texts import is_blank, kind_and_value, surrogate
from icmjax.claims.wording import country_claim
from icmjax.errors import Fault


class Fields(NamedTuple):
    """What one row says about its claim, whatever its columns are called."""

    where: str  # "file:line"
    id: str
    persona: str
    consistency_id: str
    question: str
    choice: str
    choice_2: str | None
    answer: str | None  # the final answer of a worked solution


class Schema(NamedTuple):
    """One kind of claim file."""

    name: str
    recognised_by: tuple[str, ...]  # present in the file, all of them
    template: str
    rule: Rule | None  # None: the columns do not say whether tied claims exclude each other
    columns: Mapping[str, str]  # field → the column that holds it; all of them are required
    # What follows from more than one column, or from the file's name.
    derive_fn: Callable[[list[Fields], str, list[Fault]], list[Fields]] | None = None
    label: str = "label"  # the column with the gold label
    named: str = ""  # part of the file's name, in lower case

    @property
    def is_written(self) -> bool:
        """Whether `icmjax.claims.write_claims` wrote the file, template and rules included."""
        return self is WRITTEN


def find_schema(rows: Sequence[Row], source: str) -> Schema:
    """The first schema of the table that the file's name fits and whose columns some row fills.

    A column of labels need not be filled: what a file is does not depend on its labels.
    """
    columns = columns_of(rows)
    named = {name for row in rows for name in row.values}
    columns |= named & {schema.label for schema in SCHEMAS}
    return next(
        schema
        for schema in SCHEMAS
        if columns.issuperset(schema.recognised_by) and schema.named in source.lower()
    )


def columns_of(rows: Iterable[Row]) -> set[str]:
    """Names of the columns that at least one row fills; null and blank text fill nothing."""
    return {name for row in rows for name, value in row.values.items() if not is_blank(value)}


def read_fields(
    rows: Sequence[Row], schema: Schema, source: str, faults: list[Fault]
) -> list[Fields]:
    """The fields of every row that has no fault.

    Args:
      rows: rows of one file, whose columns are right (`icmjax.claims.columns.check_columns`).
      schema: the file's schema.
      source: the file's name without its suffix; some files name their persona there.
      faults: gains a fault for every value of the wrong type.
    """
    columns = required_columns(rows, schema)
    read = [_read_row(index, row, columns, faults) for index, row in enumerate(rows)]
    fields = [row for row in read if row is not None]
    if schema.derive_fn is not None and len(fields) == len(rows):
        fields = schema.derive_fn(fields, source, faults)
    return fields


def required_columns(rows: Sequence[Row], schema: Schema) -> Mapping[str, str]:
    """The columns that have to be filled: ids that tie claims only where something is tied."""
    is_tied = any("consistency_id" in row.values for row in rows)
    if is_tied or schema.rule not in (None, "none") or schema.is_written:
        return schema.columns
    return {field: name for field, name in schema.columns.items() if field != "consistency_id"}


def _read_row(
    index: int, row: Row, columns: Mapping[str, str], faults: list[Fault]
) -> Fields | None:
    num_faults = len(faults)

    def read(field: str, default: str = "") -> str:
        is_required = field in columns
        column = columns.get(field, field)
        value = row.values.get(column)
        kind, to_text = _KINDS.get(field, ("text", _as_text))
        if is_blank(value) and not is_required:
            return value if isinstance(value, str) and default == "" else default
        text = to_text(value)
        name = field.replace("_", " ")
        if text is None or is_blank(text):
            rule = f"The {name} of a claim is {kind}, and not blank."
            remedy = "mend the row or drop it"
            faults.append(Fault(rule, kind_and_value(value), f"{row.where}:{column}", remedy))
            return ""
        half = surrogate(text)
        if half is not None:
            rule = f"The {name} of a claim is Unicode text."
            remedy = "replace the character, or save the file from text that was read as UTF-8"
            found = f"{half}, half of a surrogate pair"
            faults.append(Fault(rule, found, f"{row.where}:{column}", remedy))
        return text

    choice, choice_2 = read("choice"), read("choice_2")
    # Of claims that nothing ties. Rows of other files, which have other texts, have other ids.
    alone = f"{index}-{hashlib.sha256(choice.encode('utf-8', 'replace')).hexdigest()[:8]}"
    fields = Fields(
        where=row.where,
        id=read("id", str(index)),
        persona=read("persona"),
        consistency_id=read("consistency_id", default=alone),
        question=read("question"),
        choice=choice,
        choice_2=None if is_blank(choice_2) else choice_2,
        answer=read("answer").strip() or None,
    )
    return fields if len(faults) == num_faults else None


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def as_id(value: Any) -> str | None:
    """Ids are compared as text; a whole float is what a table with gaps makes of an integer."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and (isinstance(value, bool) or value.bit_length() > _MAX_BITS):
        return None
    return str(value) if isinstance(value, str | int) else None


def _as_answer(value: Any) -> str | None:
    return str(value) if isinstance(value, float) else as_id(value)


_MAX_BITS = 4096  # of an id; Python refuses to write integers of some thousand digits
_KINDS = {
    "id": ("text or a whole number", as_id),
    "consistency_id": ("text or a whole number", as_id),
    "answer": ("text or a number", _as_answer),
}


def _claim_country(fields: list[Fields], source: str, faults: list[Fault]) -> list[Fields]:
    """Claims about a country's people, which a row's persona or else the file's name names."""
    by_file, separator, _ = source.partition("_")
    by_file = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", by_file)
    if not separator and not all(row.persona for row in fields):
        found = f"the name {source!r}, and no column persona"
        remedy = "add a column persona, or name the file as in UnitedStates_train.json"
        rule = "Country answers say whose they are."
        faults.append(Fault(rule, found, fields[0].where, remedy))
        return []
    claims = []
    for row in fields:
        country = row.persona or by_file
        claims.append(row._replace(persona=country, choice=country_claim(country, row.choice)))
    return claims


def _pair_by_position(fields: list[Fields], source: str, faults: list[Fault]) -> list[Fields]:
    """Statements of two sides on consecutive rows; questions repeat and so cannot be the key."""
    del source
    padded: list[Fields | None] = [*fields, None] if len(fields) % 2 else [*fields]
    for first, second in zip(padded[::2], padded[1::2], strict=True):
        assert first is not None
        if second is None or first.question != second.question:
            rule = "Rows 1 and 2, 3 and 4, ... are the two sides of one question."
            found = "no second side" if second is None else "another question on the next row"
            remedy = "put the two sides of a question on consecutive rows"
            faults.append(Fault(rule, found, f"{first.where}:question", remedy))
    return [
        row._replace(persona="liberal", consistency_id=str(position // 2))
        for position, row in enumerate(fields)
    ]


# A statement asks no question, so that no file needs the column.
PLAIN_COLUMNS = {"choice": "choice", "consistency_id": "consistency_id"}
PERSONA_COLUMNS = PLAIN_COLUMNS | {"persona": "persona"}

# What `icmjax.claims.write_claims` writes: the template is a column, the rules are spelt out.
WRITTEN = Schema(
    "written",
    ("pair_rules",),
    template="",
    rule="none",
    columns={"id": "id", "choice": "choice", "consistency_id": "consistency_id"},
)

SCHEMAS: tuple[Schema, ...] = (
    WRITTEN,
    Schema(
        "political",
        ("is_liberal",),
        template="truth",
        rule="exactly_one_true",
        columns={"choice": "choice"},
        derive_fn=_pair_by_position,
        label="is_liberal",
    ),
    Schema(
        "country",
        ("option", "options", "selections"),
        template="country",
        rule="exactly_one_true",
        columns=PLAIN_COLUMNS | {"choice": "option"},
        derive_fn=_claim_country,
    ),
    Schema(
        "preference",
        ("choice_2",),
        template="preference",
        rule="asymmetric_preference",
        columns=PLAIN_COLUMNS | {"choice_2": "choice_2"},
    ),
    Schema(
        "solution",
        ("answer", "cot"),
        template="solution",
        rule="same_answer_same_label",
        columns=PLAIN_COLUMNS | {"choice": "cot", "answer": "answer"},
    ),
    Schema(
        "persona pair",
        ("persona", "raw_choice_1", "raw_choice_2"),
        template="persona",
        rule="exactly_one_true",
        columns=PERSONA_COLUMNS,
    ),
    Schema("persona", ("persona",), template="persona", rule=None, columns=PERSONA_COLUMNS),
    # Answers to one question may all be right or all be wrong: no rule. The public reference code
    # ties them by a key that it derives from the gold labels. Columns do not tell these files from
    # others, for which a rule has to be chosen.
    Schema(
        "TruthfulQA", (), template="truth", rule="none", columns=PLAIN_COLUMNS, named="truthfulqa"
    ),
    Schema("truth", (), template="truth", rule=None, columns=PLAIN_COLUMNS),
)
