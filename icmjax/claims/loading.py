"""Claims, their gold labels and their pair rules, loaded from wherever they are; on the host.

Gold labels are read by a call of their own, so that no search can see them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icmjax.claims.claim_set import ClaimSet, GoldLabels
from icmjax.claims.consistency import Rule
from icmjax.claims.making import check_table, gold_labels, make_claims, make_gold
from icmjax.claims.tables import Source, read_table
from icmjax.claims.texts import is_blank
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
    table = check_table(read_table(path, columns), options)
    return make_claims(table, persona, rule, limit, hard, preamble)


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
    table = check_table(read_table(rows, columns, source), options)
    return make_claims(table, persona, rule, limit, hard, preamble)


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
    table = check_table(read_table(path, columns), options)
    return make_gold(table, gold_labels(table), persona, limit)


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
    table = check_table(read_table(rows, columns, source), options)
    return make_gold(table, gold_labels(table), persona, limit)


def load_personas(
    path: Source,
    personas: Sequence[str] | None = None,
    rule: Rule | str = "auto",
    limit: int | None = None,
    *,
    hard: bool = False,
    options: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> dict[str, tuple[ClaimSet, GoldLabels | None]]:
    """The claims and, apart, the gold labels of each persona of a source, which is read once.

    Args:
      path: see `load_claims`.
      personas: whose claims to load, in this order; None for all that are named.
      rule: see `load_claims`.
      limit: at most so many claims of each.
      hard, options, columns: see `load_claims`.

    Returns:
      By persona, what `load_claims` and `load_gold` return for it.

    Raises:
      ClaimsError: as of `load_claims`, the faults of all personas; or no persona is named.
    """
    table = check_table(read_table(path, columns), options)
    labels = gold_labels(table)
    present = dict.fromkeys(row.persona for row in table.fields if not is_blank(row.persona))
    wanted = list(dict.fromkeys(present if personas is None else personas))
    if not wanted:
        remedy = 'use `load_claims`, or map a column as columns={"persona": "NAME"}'
        raise ClaimsError(Fault("Claims name their personas.", "none", table.name, remedy))
    found: dict[str, tuple[ClaimSet, GoldLabels | None]] = {}
    faults: list[Fault] = []
    for persona in wanted:
        try:
            claims = make_claims(table, persona, rule, limit, hard, None)
            found[persona] = claims, make_gold(table, labels, persona, limit)
        except ClaimsError as error:
            faults += error.faults
    if faults:
        raise ClaimsError(list(dict.fromkeys(faults)))
    return found
