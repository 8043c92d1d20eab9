"""From the rows of a table to claims and, apart, their gold labels, once all rows are right."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from icmjax.claims.claim_set import UNLABELLED, Claim, ClaimSet, GoldLabels
from icmjax.claims.columns import check_columns
from icmjax.claims.consistency import select_rules
from icmjax.claims.files import Row
from icmjax.claims.labels import label_hint, label_index, label_options
from icmjax.claims.rules import (
    check_limit,
    check_ties,
    choose_rule,
    declared_rules,
    spelt_out_rules,
)
from icmjax.claims.schemas import Fields, Schema, columns_of, read_fields
from icmjax.claims.surveys import SURVEY_COLUMNS
from icmjax.claims.tables import Table
from icmjax.claims.texts import kind_and_value, short, surrogate
from icmjax.errors import ClaimsError, Fault

# Columns that are read whatever the kind of the file.
READ = set("question choice choice_2 consistency_id persona id label preamble".split())


class CheckedTable(NamedTuple):
    """A table in which nothing is wrong with any row."""

    rows: list[Row]
    fields: list[Fields]  # of the same rows
    name: str
    schema: Schema
    options: tuple[str, ...]


def check_table(table: Table, options: Sequence[str] | None) -> CheckedTable:
    """Every row's fields and the label options, once nothing is wrong with any of them.

    Raises:
      ClaimsError: all faults found, those of reading the table included.
    """
    if not table.rows and not table.faults:
        remedy = "give at least two claims"
        raise ClaimsError(Fault("A claim set has claims.", "no row", table.name, remedy))
    if table.schema is None:
        raise ClaimsError(table.faults)
    fault = check_columns(table.rows, table.schema, SURVEY_COLUMNS) if table.rows else None
    fields = []
    if fault is not None:
        table.faults.append(fault)
    else:
        fields = read_fields(table.rows, table.schema, table.stem, table.faults)
    first_seen: dict[str, str] = {}
    for row in fields:
        if row.id in first_seen:
            found = f"{row.id!r}, which {first_seen[row.id]} has already"
            table.faults.append(
                Fault("Ids are distinct.", found, f"{row.where}:id", "rename one of the two")
            )
        first_seen.setdefault(row.id, row.where)
    if table.faults:
        raise ClaimsError(table.faults)
    read = CheckedTable(table.rows, fields, table.name, table.schema, ())
    of_file = _of_all_rows(read, "label_options", list)
    return read._replace(options=label_options(options, of_file, table.name))


def make_claims(
    table: CheckedTable,
    persona: str | None,
    rule: str,
    limit: int | None,
    hard: bool,
    preamble: str | None,
) -> ClaimSet:
    """The claims of a persona, or all of them; arguments and errors are those of `load_claims`."""
    schema, fields, chosen = table.schema, table.fields, table.options
    own_template = _of_all_rows(table, "template", str)
    # Pairs of claims that are left out are never made: their number grows with the square.
    kept = _selection(table, persona, limit)
    own_preamble = None if preamble is not None else _own_preamble(table, kept)
    rows = [fields[index] for index in kept]
    if schema.is_written and rule == "auto":
        ids = [row.id for row in fields]
        spelt_out = spelt_out_rules(table.rows, ids, len(chosen), hard)
        rules, name, source = select_rules(spelt_out, kept), None, "spelt out in the file"
    else:
        name, source = choose_rule(rule, schema, rows, table.name)
        rules = declared_rules(name, rows, len(chosen), hard)
        check_ties(rule, rows, table.name)
    whole = ClaimSet(
        claims=tuple(
            Claim(row.id, row.persona, row.consistency_id, row.question, row.choice, row.choice_2)
            for row in rows
        ),
        rules=rules,
        template=own_template if schema.is_written else schema.template,
        preamble=_preamble(table, (own_preamble or "") if preamble is None else preamble),
        options=chosen,
        rule=name,
        rule_source=source,
        unread=tuple(sorted(columns_of(table.rows) - READ - _columns_read(schema))),
    )
    if limit is None or limit >= len(whole):
        return whole
    check_limit(limit, rules, len(whole))
    return whole.select(range(limit))


def _columns_read(schema: Schema) -> set[str]:
    written = {"template", "label_options", "pair_rules"} if schema.is_written else set()
    return {*schema.columns.values(), *schema.recognised_by, schema.label} | written


def gold_labels(table: CheckedTable) -> np.ndarray:
    """The gold labels of all claims: int8 `[N]`, UNLABELLED where there is none.

    Raises:
      ClaimsError: labels are none of the options.
    """
    labels = np.full(len(table.fields), UNLABELLED, np.int8)
    faults: list[Fault] = []
    for index, row in enumerate(table.rows):
        value = row.values.get(table.schema.label)
        label = label_index(value, table.options)
        if label is None:
            names = ", ".join(table.options)
            faults.append(
                Fault(
                    rule=f"A label is one of {names}, the index of one, or null for none.",
                    found=kind_and_value(value),
                    where=f"{row.where}:{table.schema.label}",
                    remedy=label_hint(value, table.options),
                )
            )
        else:
            labels[index] = label
    if faults:
        raise ClaimsError(faults)
    return labels


def make_gold(
    table: CheckedTable, labels: np.ndarray, persona: str | None, limit: int | None
) -> GoldLabels | None:
    """The gold labels of the claims that `make_claims` makes, out of `gold_labels`."""
    selected = labels[_selection(table, persona, limit)[:limit]]
    return GoldLabels(selected) if np.any(selected != UNLABELLED) else None


def _own_preamble(table: CheckedTable, kept: Sequence[int]) -> str | None:
    """The text that a file has before the claims that are kept; None where it has no such column.

    Raises:
      ClaimsError: their rows have several.
    """
    if table.schema.is_written:
        return _of_all_rows(table, "preamble", str)
    texts = {index: table.rows[index].values.get("preamble") for index in kept}
    said = {index: text for index, text in texts.items() if text not in (None, "")}
    common = next(iter(said.values()), None)
    faults = [
        Fault(
            rule="Claims of one search have one preamble, or none.",
            found=f"{short(text)}, and {short(common)} before it",
            where=f"{table.rows[index].where}:preamble",
            remedy="take one persona's claims (`persona`), or each by itself (`load_personas`)",
        )
        for index, text in texts.items()
        if text != common and common is not None
    ]
    if faults:
        raise ClaimsError(faults)
    return None if common is None else str(common)


def _preamble(table: CheckedTable, preamble: str) -> str:
    half = surrogate(preamble)
    if half is None:
        return preamble
    found = f"{half}, half of a surrogate pair"
    fault = Fault("A preamble is Unicode text.", found, f"{table.name}:preamble", "replace it")
    raise ClaimsError(fault)


def _of_all_rows(table: CheckedTable, column: str, kind: type) -> Any:
    """The one value that a column of a written file has in all rows; None in other files."""
    if not table.schema.is_written:
        return None
    common = table.rows[0].values.get(column)
    is_kind = isinstance(common, kind | None)
    if isinstance(common, list):  # of texts, whose comparison goes no deeper
        is_kind = is_kind and all(isinstance(item, str) for item in common)
    faults = [
        Fault(
            rule=f"The column {column} says the same in all rows.",
            found=f"{short(row.values.get(column))}, and {short(common)} in the first row",
            where=f"{row.where}:{column}",
            remedy="keep claims of different kinds in different files",
        )
        for row in table.rows
        if not is_kind or row.values.get(column) != common
    ]
    if faults:
        raise ClaimsError(faults)
    return common


def _selection(table: CheckedTable, persona: str | None, limit: int | None) -> list[int]:
    """Indices of all claims of a persona, once at least two of them are within the limit."""
    if limit is not None and limit < 2:
        remedy = "raise the limit; leave-one-out scores need at least two claims"
        raise ClaimsError(Fault("A limit is two claims or more.", str(limit), "limit", remedy))
    fields = table.fields
    present = sorted({row.persona for row in fields})
    if persona is not None and persona not in present:
        named = [name for name in present if name]
        near = difflib.get_close_matches(persona, named, n=3, cutoff=0.5)
        by_case = [name for name in named if name.lower() == persona.lower()]
        remedy = f"the file has {', '.join(named)}" if named else "leave out `persona`"
        if near or by_case:
            remedy = f"did you mean {' or '.join(dict.fromkeys(by_case + near))}? {remedy}"
        rule = "The persona occurs in the file."
        raise ClaimsError(Fault(rule, repr(persona), f"{table.name}:persona", remedy))
    kept = [index for index, row in enumerate(fields) if persona in (None, row.persona)]
    if len(kept) < 2:
        where = fields[kept[0]].where
        remedy = "add claims; a label is scored given the others"
        raise ClaimsError(Fault("A claim set has two claims or more.", "one", where, remedy))
    return kept
