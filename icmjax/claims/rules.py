"""Pair rules of a claim file: declared for all its groups, or spelt out pair by pair."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from icmjax.claims.consistency import RULES, PairRules, Rule, make_rules, rules_from_groups
from icmjax.claims.files import Row
from icmjax.claims.opposites import are_opposite
from icmjax.claims.schemas import Fields, Schema
from icmjax.claims.texts import short
from icmjax.errors import ClaimsError, Fault

MAX_TIED = 128  # claims of one group; its pairs grow with their square
MANY_TIED = ("not_both_true", "one_answer", "same_answer_same_label")  # rules of any number
MAX_PENALTY = 1e6  # of one pair; beyond, float32 loses sight of all other pairs


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


class ChosenRule(NamedTuple):
    """A rule between the claims of every consistency group, and why it is this one."""

    name: Rule
    source: str  # how it was found, as a claim set's description says it


def choose_rule(rule: str, schema: Schema, fields: Sequence[Fields], name: str) -> ChosenRule:
    """The rule that was asked for, else the schema's, else the one that the texts show.

    Args:
      rule: a rule's name, or "auto".
      schema: the file's schema.
      fields: the N claims.
      name: what messages call the file.

    Raises:
      ClaimsError: there is no such rule, or none is asked for, declared or shown, though claims
        are tied.
    """
    if rule not in ("auto", *RULES):
        near = difflib.get_close_matches(str(rule), RULES, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose auto or one of {', '.join(RULES)}"
        raise ClaimsError(Fault("A pair rule is chosen by its name.", repr(rule), "rule", remedy))
    if rule != "auto":
        return ChosenRule(rule, "as asked")  # type: ignore[arg-type]
    if schema.rule is not None:
        return ChosenRule(schema.rule, f"declared by the columns of a {schema.name} file")
    tied = [members for members in group_claims(fields) if len(members) > 1]
    if not tied:
        return ChosenRule("none", "no claims are tied")
    num_opposite = sum(
        len(members) == 2 and are_opposite(fields[members[0]], fields[members[1]])
        for members in tied
    )
    if num_opposite == len(tied):
        return ChosenRule("exactly_one_true", "found by the options' text")
    groups = "1 group" if len(tied) == 1 else f"{len(tied)} groups"
    of_which = "none of them" if num_opposite == 0 else f"only {num_opposite} of them"
    raise ClaimsError(
        Fault(
            rule="Where several claims share a consistency_id, a pair rule says what ties them.",
            found=f"{groups} of several claims, {of_which} two opposite options by text",
            where=f"{name}:consistency_id",
            remedy=(f'choose one as `rule`: {", ".join(RULES[1:])}; or rule="none" to go without'),
        )
    )


def declared_rules(
    rule: Rule, fields: Sequence[Fields], num_options: int, is_hard: bool
) -> PairRules:
    """One rule between the claims of each consistency group, once it fits every group.

    Args:
      rule: the rule.
      fields: the N claims.
      num_options: Y.
      is_hard: whether the rule is kept by construction.

    Raises:
      ClaimsError: there are groups that the rule does not fit.
    """
    groups = group_claims(fields)
    faults = []
    for members in groups:
        misfit = _misfit(rule, [fields[index] for index in members])
        if misfit:
            faults.append(
                Fault(
                    rule=f"Every group of tied claims fits the rule {rule}.",
                    found=misfit,
                    where=f"{fields[members[0]].where}:consistency_id",
                    remedy='mend the group, or choose another rule or rule="none"',
                )
            )
    if faults:
        raise ClaimsError(faults)
    return rules_from_groups(rule, groups, num_options, is_hard, [row.answer for row in fields])


def check_ties(rule: str, fields: Sequence[Fields], name: str) -> None:
    """Refuse a rule that was asked for where it ties nothing.

    Raises:
      ClaimsError: no two claims share their persona and `consistency_id`.
    """
    if rule not in ("auto", "none") and max(map(len, group_claims(fields))) == 1:
        found = "no two claims with the same persona and consistency_id"
        remedy = 'tie claims by consistency_id, or choose rule="none"'
        raise ClaimsError(Fault(f"The rule {rule} ties claims.", found, name, remedy))


def check_limit(limit: int, rules: PairRules, num_claims: int) -> None:
    """Refuse a number of claims that would part two claims of a pair.

    Raises:
      ClaimsError: it does; the message has the nearest limits that do not.
    """
    if limit >= num_claims or not len(rules.pairs):
        return
    # Limit k parts the pair (i, j) where i < k <= j.
    change = np.zeros(num_claims + 2, np.int64)
    np.add.at(change, np.asarray(rules.pairs)[:, 0] + 1, 1)
    np.add.at(change, np.asarray(rules.pairs)[:, 1] + 1, -1)
    is_whole = np.cumsum(change)[: num_claims + 1] == 0
    if is_whole[limit]:
        return
    whole = np.flatnonzero(is_whole)
    below, above = whole[(whole >= 2) & (whole < limit)], whole[whole > limit]
    nearest = [str(number) for number in (*below[-1:], *above[:1])]
    raise ClaimsError(
        Fault(
            rule="A limit keeps tied claims together.",
            found=f"{limit}, which parts a pair",
            where="limit",
            remedy=f'choose {" or ".join(nearest)}, or rule="none"',
        )
    )


def _misfit(rule: Rule, group: Sequence[Fields]) -> str | None:
    """What keeps a group of tied claims from fitting a rule; a claim alone fits every rule."""
    if len(group) == 1 or rule == "none":
        return None
    if len(group) > MAX_TIED and rule in MANY_TIED:
        num_pairs = len(group) * (len(group) - 1) // 2
        return f"{len(group)} claims and so {num_pairs} pairs, where {MAX_TIED} claims are the most"
    if rule == "one_answer":
        return _repeated_choice(group)
    if rule == "not_both_true":
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


def _repeated_choice(group: Sequence[Fields]) -> str | None:
    seen: dict[str, str] = {}
    for row in group:
        if row.choice in seen:
            return f"the same claim at {seen[row.choice]} and {row.where}"
        seen[row.choice] = row.where
    return None


def pair_rules_column(rules: PairRules, ids: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Rules spelt out for a file: with the first claim of a pair, what ties it to the second."""
    column: list[list[dict[str, Any]]] = [[] for _ in ids]
    for (first, second), penalties, is_hard in zip(*rules, strict=True):
        entry = {"with": ids[second], "penalties": penalties.tolist(), "hard": bool(is_hard)}
        column[first].append(entry)
    return column


def spelt_out_rules(
    rows: Sequence[Row], ids: Sequence[str], num_options: int, all_hard: bool = False
) -> PairRules:
    """The rules in the column `pair_rules` of a file, as `pair_rules_column` makes it.

    Args:
      rows: the file's rows.
      ids: the claims' ids, one a row.
      num_options: Y.
      all_hard: whether all rules are kept by construction, whatever the file says.

    Raises:
      ClaimsError: an entry is malformed, names no other claim of the file, or a pair twice.
    """
    index_of = {claim_id: index for index, claim_id in enumerate(ids)}
    faults: list[Fault] = []
    found: dict[frozenset[int], tuple[tuple[int, int], np.ndarray, bool]] = {}
    for index, row in enumerate(rows):
        for entry in _entries(row.values.get("pair_rules")):
            match entry:
                case {"with": str(other), "penalties": list(penalties), "hard": bool(is_hard)}:
                    pair = (index, index_of.get(other, index))
                    is_table = _is_table(penalties, num_options)
                    if pair[0] != pair[1] and is_table and frozenset(pair) not in found:
                        table = np.array(penalties, np.float32)
                        found[frozenset(pair)] = (pair, table, is_hard or all_hard)
                        if not (table.all() and (is_hard or all_hard)):
                            continue
                        faults.append(_allows_nothing(f"{row.where}:pair_rules"))
                        continue
            faults.append(
                Fault(
                    rule="A spelt-out pair rule ties a claim to another one of the file, once.",
                    found=short(entry, 80),
                    where=f"{row.where}:pair_rules",
                    remedy=(
                        'write a list of {"with": id, "penalties": Y rows of Y numbers from 0 to '
                        f'{MAX_PENALTY:g}, "hard": boolean}}'
                    ),
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


def _entries(cell: Any) -> list[Any]:
    """The entries of a cell; what is no list is an entry, and no good one."""
    return [] if cell is None else cell if isinstance(cell, list) else [cell]


def _allows_nothing(where: str) -> Fault:
    return Fault(
        rule="A hard pair rule allows some labels.",
        found="a penalty on every pair of labels",
        where=where,
        remedy='set the penalty of allowed labels to 0, or "hard" to false',
    )


def _is_table(penalties: list[Any], num_options: int) -> bool:
    return len(penalties) == num_options and all(
        isinstance(line, list)
        and len(line) == num_options
        and all(isinstance(x, int | float) and 0 <= x <= MAX_PENALTY for x in line)
        for line in penalties
    )
