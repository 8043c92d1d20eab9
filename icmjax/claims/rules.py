"""Pair rules of a claim file: declared for all its groups, or spelt out pair by pair."""

import difflib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from icmjax.claims.consistency import RULES, PairRules, Rule, make_rules, rules_from_groups
from icmjax.claims.files import Row
from icmjax.claims.schemas import Fields, Schema
from icmjax.errors import ClaimsError, Fault


class Grouped(Protocol):
    """What has a group key."""

    @property
    def persona(self) -> str:
        """Whose claim it is."""

    @property
    def consistency_id(self) -> str:
        """Distinct within a persona alone."""


def group_claims(claims: Sequence[Grouped]) -> tuple[tuple[int, ...], ...]:
    """Indices of tied claims, by (persona, `consistency_id`), in the order of first members."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, claim in enumerate(claims):
        groups.setdefault((claim.persona, claim.consistency_id), []).append(index)
    return tuple(tuple(members) for members in groups.values())


def declared_rules(
    rule: str, schema: Schema, fields: Sequence[Fields], num_options: int, is_hard: bool, name: str
) -> PairRules:
    """One rule between the claims of each consistency group, once it fits every group.

    Args:
      rule: a rule's name, or "auto" for the schema's.
      schema: the file's schema.
      fields: the N claims.
      num_options: Y.
      is_hard: whether the rule is kept by construction.
      name: what messages call the file.

    Raises:
      ClaimsError: there is no such rule, or groups that it does not fit.
    """
    if rule not in ("auto", *RULES):
        near = difflib.get_close_matches(rule, RULES, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose auto or one of {', '.join(RULES)}"
        raise ClaimsError(Fault("A pair rule is chosen by its name.", repr(rule), "rule", remedy))
    declared: Rule = schema.rule if rule == "auto" else rule  # type: ignore[assignment]
    groups = group_claims(fields)
    faults = []
    for members in groups:
        misfit = _misfit(declared, [fields[index] for index in members])
        if misfit:
            faults.append(
                Fault(
                    rule=f"Every group of tied claims fits the rule {declared}.",
                    found=misfit,
                    where=f"{fields[members[0]].where}:consistency_id",
                    remedy='mend the group, or choose another rule or rule="none"',
                )
            )
    if rule not in ("auto", "none") and max(map(len, groups)) == 1:
        found = "no two claims with the same persona and consistency_id"
        remedy = 'tie claims by consistency_id, or choose rule="none"'
        faults.append(Fault(f"The rule {rule} ties claims.", found, name, remedy))
    if faults:
        raise ClaimsError(faults)
    return rules_from_groups(declared, groups, num_options, is_hard, [row.answer for row in fields])


def _misfit(rule: Rule, group: Sequence[Fields]) -> str | None:
    """What keeps a group of tied claims from fitting a rule; a claim alone fits every rule."""
    if len(group) == 1 or rule in ("none", "not_both_true"):
        return None
    if rule == "same_answer_same_label":
        unanswered = [row.where for row in group if row.answer is None]
        return f"no answer at {', '.join(unanswered)}" if unanswered else None
    if len(group) > 2:
        return f"{len(group)} claims, where the rule is one of two"
    first, second = group
    if rule == "exactly_one_true":
        return f"the same claim at {second.where}" if first.choice == second.choice else None
    is_swapped = (first.choice, first.choice_2) == (second.choice_2, second.choice)
    is_fit = is_swapped and first.question == second.question
    return None if is_fit else f"{second.where} does not swap the two responses"


def pair_rules_column(rules: PairRules, ids: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Rules spelt out for a file: with the first claim of a pair, what ties it to the second."""
    column: list[list[dict[str, Any]]] = [[] for _ in ids]
    for (first, second), penalties, is_hard in zip(*rules, strict=True):
        entry = {"with": ids[second], "penalties": penalties.tolist(), "hard": bool(is_hard)}
        column[first].append(entry)
    return column


def spelt_out_rules(rows: Sequence[Row], ids: Sequence[str], num_options: int) -> PairRules:
    """The rules in the column `pair_rules` of a file, as `pair_rules_column` makes it.

    Raises:
      ClaimsError: an entry is malformed, names no other claim of the file, or a pair twice.
    """
    index_of = {claim_id: index for index, claim_id in enumerate(ids)}
    faults: list[Fault] = []
    found: dict[frozenset[int], tuple[tuple[int, int], np.ndarray, bool]] = {}
    for index, row in enumerate(rows):
        for entry in row.values.get("pair_rules") or []:
            match entry:
                case {"with": str(other), "penalties": list(penalties), "hard": bool(is_hard)}:
                    pair = (index, index_of.get(other, index))
                    is_table = _is_table(penalties, num_options)
                    if pair[0] != pair[1] and is_table and frozenset(pair) not in found:
                        table = np.array(penalties, np.float32)
                        found[frozenset(pair)] = (pair, table, is_hard)
                        continue
            faults.append(
                Fault(
                    rule="A spelt-out pair rule ties a claim to another one of the file, once.",
                    found=f"{entry!r:.80}",
                    where=f"{row.where}:pair_rules",
                    remedy='write {"with": id, "penalties": Y rows of Y numbers, "hard": boolean}',
                )
            )
    if faults:
        raise ClaimsError(faults)
    entries = list(found.values())
    return make_rules(
        pairs=[pair for pair, _, _ in entries],
        penalties=np.array([table for _, table, _ in entries]).reshape(
            -1, num_options, num_options
        ),
        is_hard=np.array([is_hard for _, _, is_hard in entries], bool),
        num_options=num_options,
    )


def _is_table(penalties: list[Any], num_options: int) -> bool:
    return len(penalties) == num_options and all(
        isinstance(line, list)
        and len(line) == num_options
        and all(isinstance(penalty, int | float) and penalty >= 0 for penalty in line)
        for line in penalties
    )
