"""Claims, their gold labels and their pair rules: made of rows and checked, on the host.

Gold labels are read by a call of their own, so that no search can see them.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icmjax.claims.claim_set import UNLABELLED, Claim, ClaimSet, GoldLabels
from icmjax.claims.columns import check_columns
from icmjax.claims.consistency import Rule, select_rules
from icmjax.claims.labels import label_hint, label_index, label_options
from icmjax.claims.rules import (
    check_limit,
    check_ties,
    choose_rule,
    declared_rules,
    spelt_out_rules,
)
from icmjax.claims.schemas import Fields, Schema, read_fields
from icmjax.claims.surveys import SURVEY_COLUMNS
from icmjax.claims.tables import Source, Table, read_table
from icmjax.claims.texts import kind_and_value, short, surrogate
from icmjax.errors import ClaimsError, Fault


def load_claims(
    path: Source,
    persona: str | None = None,
    rule: Rule | str = "auto",
    limit: int | None = None,
    *,
    hard: bool = False,
    options: Sequence[str] | None = None,
    preamble: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> ClaimSet:
    """Load claims, without their labels, from a file, a folder, the hub or memory.

    Args:
      path: a JSON list, JSONL, CSV, TSV, Parquet or text file; a folder or `hf:OWNER/NAME`, which
        the library datasets reads; a frame of pandas, or an iterable of mappings. Its columns
        decide on its schema (see `icmjax.claims.schemas` and `icmjax.claims.surveys`).
      persona: whose claims to load; None for all.
      rule: the pair rule between the claims of one consistency group; "auto" for the one that
        the schema declares or, else, that the options' texts show. A group of one claim is free
        under every rule.
      limit: load at most so many claims, the first ones; no pair is parted.
      hard: whether the rule is kept by construction, rather than paid for.
      options: the label options, from false to true; None for the file's own, or False and True.
      preamble: text before the first demonstration; None for the file's own, or none.
      columns: names of our columns to those of the file, where these differ.

    Raises:
      ClaimsError: the file or the arguments are not usable; it lists all faults found.
    """
    table = read_table(path, columns)
    return _make_claims(table, persona, rule, limit, hard, options, preamble)


def claims_from_rows(
    rows: Iterable[Mapping[str, Any]],
    persona: str | None = None,
    rule: Rule | str = "auto",
    limit: int | None = None,
    *,
    hard: bool = False,
    options: Sequence[str] | None = None,
    preamble: str | None = None,
    columns: Mapping[str, str] | None = None,
    source: str = "rows",
) -> ClaimSet:
    """As `load_claims`, from rows in memory: dicts, a Hugging Face `Dataset`, a frame of pandas.

    Args:
      rows: mappings from column to value.
      persona: see `load_claims`, as for the other arguments.
      rule: the pair rule.
      limit: at most so many claims.
      hard: whether the rule is kept by construction.
      options: the label options.
      preamble: text before the first demonstration.
      columns: names of our columns to those of the rows.
      source: what messages call the rows.
    """
    table = read_table(rows, columns, source)
    return _make_claims(table, persona, rule, limit, hard, options, preamble)


def load_gold(
    path: Source,
    persona: str | None = None,
    limit: int | None = None,
    *,
    options: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> GoldLabels | None:
    """The gold labels of the claims that `load_claims` returns for the same arguments.

    A label is an option's name (False and True in any case), its index or, for the options False
    and True, a boolean; null, blank or absent is unlabelled.

    Returns:
      GoldLabels, or None where no row has a label.

    Raises:
      ClaimsError: the file is not usable, or labels are outside of the options.
    """
    return _make_gold(read_table(path, columns), persona, limit, options)


def gold_from_rows(
    rows: Iterable[Mapping[str, Any]],
    persona: str | None = None,
    limit: int | None = None,
    *,
    options: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    source: str = "rows",
) -> GoldLabels | None:
    """As `load_gold`, from rows in memory."""
    return _make_gold(read_table(rows, columns, source), persona, limit, options)


def _read_table(table: Table) -> tuple[Schema, list[Fields]]:
    """Every row's fields, once nothing is wrong with any of them."""
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
    return table.schema, fields


def _make_claims(
    table: Table,
    persona: str | None,
    rule: str,
    limit: int | None,
    hard: bool,
    options: Sequence[str] | None,
    preamble: str | None,
) -> ClaimSet:
    schema, fields = _read_table(table)
    chosen = label_options(options, _of_all_rows(table, schema, "label_options", list), table.name)
    own_preamble = _of_all_rows(table, schema, "preamble", str)
    own_template = _of_all_rows(table, schema, "template", str)
    # Pairs of claims that are left out are never made: their number grows with the square.
    kept = _selection(table, fields, persona, limit)
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
    )
    if limit is None or limit >= len(whole):
        return whole
    check_limit(limit, rules, len(whole))
    return whole.select(range(limit))


def _make_gold(
    table: Table, persona: str | None, limit: int | None, options: Sequence[str] | None
) -> GoldLabels | None:
    schema, fields = _read_table(table)
    chosen = label_options(options, _of_all_rows(table, schema, "label_options", list), table.name)
    labels = np.full(len(fields), UNLABELLED, np.int8)
    for index, row in enumerate(table.rows):
        value = row.values.get(schema.label)
        label = label_index(value, chosen)
        if label is None:
            names = ", ".join(chosen)
            table.faults.append(
                Fault(
                    rule=f"A label is one of {names}, the index of one, or null for none.",
                    found=kind_and_value(value),
                    where=f"{row.where}:{schema.label}",
                    remedy=label_hint(value, chosen),
                )
            )
        else:
            labels[index] = label
    if table.faults:
        raise ClaimsError(table.faults)
    selected = labels[_selection(table, fields, persona, limit)[:limit]]
    return GoldLabels(selected) if np.any(selected != UNLABELLED) else None


def _preamble(table: Table, preamble: str) -> str:
    half = surrogate(preamble)
    if half is None:
        return preamble
    found = f"{half}, half of a surrogate pair"
    fault = Fault("A preamble is Unicode text.", found, f"{table.name}:preamble", "replace it")
    raise ClaimsError(fault)


def _of_all_rows(table: Table, schema: Schema, column: str, kind: type) -> Any:
    """The one value that a column of a written file has in all rows; None in other files."""
    if not schema.is_written:
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


def _selection(
    table: Table, fields: Sequence[Fields], persona: str | None, limit: int | None
) -> list[int]:
    """Indices of all claims of a persona, once at least two of them are within the limit."""
    if limit is not None and limit < 2:
        remedy = "raise the limit; leave-one-out scores need at least two claims"
        raise ClaimsError(Fault("A limit is two claims or more.", str(limit), "limit", remedy))
    present = sorted({row.persona for row in fields})
    if persona is not None and persona not in present:
        named = [name for name in present if name]
        near = difflib.get_close_matches(persona, named, n=3, cutoff=0.5)
        by_case = [name for name in named if name.lower() == persona.lower()]
        remedy = f"the file has {', '.join(named)}" if named else "leave out persona"
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
