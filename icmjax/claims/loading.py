"""Claims, their gold labels and their pair rules: loading and checking, on the host.

Gold labels are read by a call of their own, so that no search can see them.
"""

import difflib
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icmjax.claims.claim_set import BINARY_OPTIONS, UNLABELLED, Claim, ClaimSet, GoldLabels
from icmjax.claims.consistency import Rule, select_rules
from icmjax.claims.files import Row, read_rows, rows_from_mappings
from icmjax.claims.rules import (
    check_limit,
    check_ties,
    choose_rule,
    declared_rules,
    spelt_out_rules,
)
from icmjax.claims.schemas import Fields, Schema, find_schema, read_fields
from icmjax.claims.texts import is_blank, kind_and_value, short, surrogate
from icmjax.errors import ClaimsError, Fault


def load_claims(
    path: str | pathlib.Path,
    persona: str | None = None,
    rule: Rule | str = "auto",
    limit: int | None = None,
    *,
    hard: bool = False,
    options: Sequence[str] | None = None,
    preamble: str | None = None,
) -> ClaimSet:
    """Load claims, without their labels, from a JSON list, JSONL, CSV, Parquet or text file.

    Args:
      path: the file; its columns decide on its schema (see `icmjax.claims.schemas`).
      persona: whose claims to load; None for all.
      rule: the pair rule between the claims of one consistency group; "auto" for the one that
        the schema declares or, else, that the options' texts show. A group of one claim is free
        under every rule.
      limit: load at most so many claims, the first ones; no pair is parted.
      hard: whether the rule is kept by construction, rather than paid for.
      options: the label options, from false to true; None for the file's own, or False and True.
      preamble: text before the first demonstration; None for the file's own, or none.

    Raises:
      ClaimsError: the file or the arguments are not usable; it lists all faults found.
    """
    faults: list[Fault] = []
    path = pathlib.Path(path)
    table = _Table(read_rows(path, faults), str(path), path.stem, faults)
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
    source: str = "rows",
) -> ClaimSet:
    """As `load_claims`, from rows in memory: a list of dicts or a Hugging Face `Dataset`.

    Args:
      rows: mappings from column to value.
      persona: see `load_claims`, as for the other arguments.
      rule: the pair rule.
      limit: at most so many claims.
      hard: whether the rule is kept by construction.
      options: the label options.
      preamble: text before the first demonstration.
      source: what messages call the rows.
    """
    faults: list[Fault] = []
    table = _Table(rows_from_mappings(rows, source, faults), source, source, faults)
    return _make_claims(table, persona, rule, limit, hard, options, preamble)


def load_gold(
    path: str | pathlib.Path,
    persona: str | None = None,
    limit: int | None = None,
    *,
    options: Sequence[str] | None = None,
) -> GoldLabels | None:
    """The gold labels of the claims that `load_claims` returns for the same arguments.

    A label is an option's name (False and True in any case), its index or, for the options False
    and True, a boolean; null, blank or absent is unlabelled.

    Returns:
      GoldLabels, or None where no row has a label.

    Raises:
      ClaimsError: the file is not usable, or labels are outside of the options.
    """
    faults: list[Fault] = []
    path = pathlib.Path(path)
    table = _Table(read_rows(path, faults), str(path), path.stem, faults)
    return _make_gold(table, persona, limit, options)


def gold_from_rows(
    rows: Iterable[Mapping[str, Any]],
    persona: str | None = None,
    limit: int | None = None,
    *,
    options: Sequence[str] | None = None,
    source: str = "rows",
) -> GoldLabels | None:
    """As `load_gold`, from rows in memory."""
    faults: list[Fault] = []
    table = _Table(rows_from_mappings(rows, source, faults), source, source, faults)
    return _make_gold(table, persona, limit, options)


class _Table(NamedTuple):
    """The rows of one source and the faults found while reading them."""

    rows: list[Row]
    name: str  # what messages call it
    stem: str  # the file's name without folder and suffix
    faults: list[Fault]


def _read_table(table: _Table) -> tuple[Schema, list[Fields]]:
    """Every row's fields, once nothing is wrong with any of them."""
    if not table.rows and not table.faults:
        remedy = "give at least two claims"
        raise ClaimsError(Fault("A claim set has claims.", "no row", table.name, remedy))
    schema = find_schema(table.rows, table.stem)
    fields = read_fields(table.rows, schema, table.stem, table.faults) if table.rows else []
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
    return schema, fields


def _make_claims(
    table: _Table,
    persona: str | None,
    rule: str,
    limit: int | None,
    hard: bool,
    options: Sequence[str] | None,
    preamble: str | None,
) -> ClaimSet:
    schema, fields = _read_table(table)
    label_options = _label_options(table, schema, options)
    own_preamble = _of_all_rows(table, schema, "preamble", str)
    own_template = _of_all_rows(table, schema, "template", str)
    # Pairs of claims that are left out are never made: their number grows with the square.
    kept = _selection(table, fields, persona, limit)
    rows = [fields[index] for index in kept]
    if schema.is_written and rule == "auto":
        ids = [row.id for row in fields]
        spelt_out = spelt_out_rules(table.rows, ids, len(label_options), hard)
        rules, name, source = select_rules(spelt_out, kept), None, "spelt out in the file"
    else:
        name, source = choose_rule(rule, schema, rows, table.name)
        rules = declared_rules(name, rows, len(label_options), hard)
        check_ties(rule, rows, table.name)
    whole = ClaimSet(
        claims=tuple(
            Claim(row.id, row.persona, row.consistency_id, row.question, row.choice, row.choice_2)
            for row in rows
        ),
        rules=rules,
        template=own_template if schema.is_written else schema.template,
        preamble=_preamble(table, (own_preamble or "") if preamble is None else preamble),
        options=label_options,
        rule=name,
        rule_source=source,
    )
    if limit is None or limit >= len(whole):
        return whole
    check_limit(limit, rules, len(whole))
    return whole.select(range(limit))


def _make_gold(
    table: _Table, persona: str | None, limit: int | None, options: Sequence[str] | None
) -> GoldLabels | None:
    schema, fields = _read_table(table)
    label_options = _label_options(table, schema, options)
    labels = np.full(len(fields), UNLABELLED, np.int8)
    for index, row in enumerate(table.rows):
        value = row.values.get(schema.label)
        label = label_index(value, label_options)
        if label is None:
            names = ", ".join(label_options)
            table.faults.append(
                Fault(
                    rule=f"A label is one of {names}, the index of one, or null for none.",
                    found=kind_and_value(value),
                    where=f"{row.where}:{schema.label}",
                    remedy=_label_hint(value, label_options),
                )
            )
        else:
            labels[index] = label
    if table.faults:
        raise ClaimsError(table.faults)
    selected = labels[_selection(table, fields, persona, limit)[:limit]]
    return GoldLabels(selected) if np.any(selected != UNLABELLED) else None


def label_index(value: Any, options: tuple[str, ...]) -> int | None:
    """The index of a label's option, UNLABELLED where there is none, None where it is no label.

    A number is the option of that name where options are numbers, and an index elsewhere. It means
    the same whether a file has it as a number or, as CSV does, as text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNLABELLED
    if isinstance(value, bool):
        return int(value) if options == BINARY_OPTIONS else None
    if isinstance(value, str):
        if value in options:
            return options.index(value)
        text = value.strip()
        if not text:
            return UNLABELLED
        names = [option.strip() for option in options]
        if text in names:
            return names.index(text)
        if options == BINARY_OPTIONS and text.lower() in ("false", "true"):
            return int(text.lower() == "true")
        number = _INDEX.fullmatch(text)
        value = int(number[1]) if number else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        return None
    # On a scale whose options are numbers, a number is the option of that name.
    named = {option.strip(): index for index, option in enumerate(options)}
    if any(name.isdecimal() for name in named):
        return named.get(str(value))
    return value if 0 <= value < len(options) else None


_INDEX = re.compile(r"0*([0-9]{1,3})(?:\.0*)?")  # whole, as 1 or 1.0
_MAX_OPTIONS = 128  # labels are int8
_TRUE_WORDS = {"yes", "y", "t", "agree", "agreed", "correct", "right", "support"}
_FALSE_WORDS = {"no", "n", "f", "disagree", "disagreed", "incorrect", "wrong", "oppose"}


def _label_hint(value: Any, options: tuple[str, ...]) -> str:
    word = value.strip().lower() if isinstance(value, str) else ""
    is_true, is_false = word in _TRUE_WORDS, word in _FALSE_WORDS
    if options == BINARY_OPTIONS and (is_true or is_false):
        return (
            "write True for labels such as yes and agree, False for no and disagree; or name the "
            'options, false first, such as options=("No", "Yes")'
        )
    return "mend the label, or name the options"


def _label_options(table: _Table, schema: Schema, options: Sequence[str] | None) -> tuple[str, ...]:
    own_options = _of_all_rows(table, schema, "label_options", list)
    asked = (options,) if isinstance(options, str) else options
    chosen = tuple(asked or own_options or BINARY_OPTIONS)
    is_named = all(isinstance(option, str) and not is_blank(option) for option in chosen)
    is_distinct = is_named and len({option.strip() for option in chosen}) == len(chosen)
    is_text = is_named and surrogate("".join(chosen)) is None
    if len(chosen) < 2 or not (is_distinct and is_text):
        remedy = "name at least two, from false to true"
        found = short(chosen, 200)
        raise ClaimsError(Fault("Label options are distinct names.", found, table.name, remedy))
    if len(chosen) > _MAX_OPTIONS:
        rule, remedy = f"There are at most {_MAX_OPTIONS} label options.", "name fewer"
        raise ClaimsError(Fault(rule, str(len(chosen)), table.name, remedy))
    return chosen


def _preamble(table: _Table, preamble: str) -> str:
    half = surrogate(preamble)
    if half is None:
        return preamble
    found = f"{half}, half of a surrogate pair"
    fault = Fault("A preamble is Unicode text.", found, f"{table.name}:preamble", "replace it")
    raise ClaimsError(fault)


def _of_all_rows(table: _Table, schema: Schema, column: str, kind: type) -> Any:
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
    table: _Table, fields: Sequence[Fields], persona: str | None, limit: int | None
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
