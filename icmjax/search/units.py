"""Units: sets of claims that a search relabels together, and the labels that each may take.

Claims tied by hard pair rules are one unit, so that a move of one unit goes from consistent labels
to consistent labels. Claims tied by soft rules alone are one unit as long as it stays small, so
that a pair can be turned round at once. Units are a partition of the claims: an assignment to each
unit is a labelling.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from icmjax.claims import PairRules
from icmjax.errors import ClaimsError, Fault, InputError

MAX_ASSIGNMENTS = 256  # of a unit under hard rules
MAX_SOFT_ASSIGNMENTS = 16  # of a unit that soft rules tie together


class Units(NamedTuple):
    """G units of up to M claims, each with up to A assignments; a pytree."""

    members: Array  # int32 [G, M], claims; N where a unit has fewer
    assignments: Array  # int8 [G, A, M], labels of the members; -1 in padding
    is_allowed: Array  # bool [G, A], False in padding
    penalties: Array  # float32 [G, A], what the pairs inside the unit cost
    mirror: Array  # int32 [G, A], the assignment with labels Y − 1 − y; itself where not allowed


def make_units(rules: PairRules, clamped: np.ndarray, num_options: int) -> Units:
    """The units of N claims; on the host.

    Args:
      rules: pair rules over the claims.
      clamped: int8 `[N]`, labels that never move, -1 where free.
      num_options: Y.

    Raises:
      ClaimsError: claims that hard rules tie together have no consistent labels, or more than
        `MAX_ASSIGNMENTS`.
    """
    pairs, penalties = np.asarray(rules.pairs), np.asarray(rules.penalties)
    is_hard, clamped = np.asarray(rules.is_hard), np.asarray(clamped)
    unit_of = np.arange(len(clamped))
    for first, second in pairs[is_hard]:
        unit_of[unit_of == unit_of[second]] = unit_of[first]

    def enumerate_unit(members: np.ndarray, limit: int) -> np.ndarray:
        inside = np.flatnonzero(np.isin(pairs, members).all(axis=1) & is_hard)
        options = [range(num_options) if y < 0 else [int(y)] for y in clamped[members]]
        tables = _tables_by_position(members, pairs[inside], penalties[inside])
        found = [
            row for row, _ in zip(_consistent(options, tables), range(limit + 1), strict=False)
        ]
        return np.array(found, np.int8).reshape(-1, len(members))

    def members_of(unit: int) -> np.ndarray:
        return np.flatnonzero(unit_of == unit)

    assignments = {
        unit: enumerate_unit(members_of(unit), MAX_ASSIGNMENTS) for unit in np.unique(unit_of)
    }
    faults = [
        _unit_fault(members_of(unit), len(rows))
        for unit, rows in assignments.items()
        if not 1 <= len(rows) <= MAX_ASSIGNMENTS
    ]
    if faults:
        raise ClaimsError(faults)
    for first, second in pairs[~is_hard]:
        one, other = sorted((int(unit_of[first]), int(unit_of[second])))
        if one != other and len(assignments[one]) * len(assignments[other]) <= MAX_SOFT_ASSIGNMENTS:
            unit_of[unit_of == other] = one
            del assignments[other]
            assignments[one] = enumerate_unit(members_of(one), MAX_SOFT_ASSIGNMENTS)
    return _pad(
        [members_of(unit) for unit in assignments], list(assignments.values()), rules, len(clamped)
    )


def check_labels(where: str, labels: np.ndarray, units: Units, clamped: np.ndarray) -> None:
    """Raise unless labels to start from, `[N]`, are an assignment to each unit; on the host.

    Args:
      where: whose labels they are, for the message.

    Raises:
      InputError: another number of claims, a hard rule broken, a clamped label changed.
    """
    if labels.shape != clamped.shape:
        found = f"labels {labels.shape}, {len(clamped)} claims"
        raise InputError(Fault("Every claim has a label to start from.", found, where, "add it"))
    padded = np.append(labels, -1)[np.asarray(units.members)]
    is_same = np.all(np.asarray(units.assignments) == padded[:, None], axis=-1)
    is_found = np.any(is_same & np.asarray(units.is_allowed), axis=-1)
    faults = [
        Fault(
            rule="Labels to start from are label options that keep clamped labels and hard rules.",
            found=str(labels[unit[unit < len(labels)]].tolist()),
            where=f"{where}, claims {unit[unit < len(labels)].tolist()}",
            remedy="correct these labels",
        )
        for unit in np.asarray(units.members)[~is_found]
    ]
    if faults:
        raise InputError(faults)


def labels_of(units: Units, assignment: Array, num_claims: int) -> Array:
    """The labelling of an assignment: int32 `[G]` → int8 `[N]`."""
    chosen = units.assignments[jnp.arange(units.members.shape[0], dtype=jnp.int32), assignment]
    labels = jnp.full((num_claims,), -1, jnp.int8)
    return labels.at[units.members].set(chosen, mode="drop")


def assignment_of(units: Units, labels: Array) -> Array:
    """The assignment of a labelling: int8 `[N]` → int32 `[G]`; 0 where a unit has none of its."""
    is_padding = units.members == labels.shape[0]
    found = jnp.take(labels, units.members, mode="clip")[:, None, :]
    is_same = jnp.all((units.assignments == found) | is_padding[:, None, :], axis=-1)
    return jnp.argmax(is_same & units.is_allowed, axis=-1).astype(jnp.int32)


def sum_by_assignment(units: Units, by_label: Array) -> Array:
    """Sums of a quantity of each claim and label over a unit's members: `[N, Y]` → `[G, A]`."""
    index = jnp.maximum(units.assignments, 0).astype(jnp.int32)  # [G, A, M]
    of_member = jnp.take(by_label, units.members, axis=0, mode="clip")  # [G, M, Y]
    values = jnp.take_along_axis(of_member[:, None], index[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(units.assignments >= 0, values, 0), axis=-1)


def _tables_by_position(
    members: np.ndarray, pairs: np.ndarray, penalties: np.ndarray
) -> list[list[tuple[int, np.ndarray]]]:
    """For each member the earlier members that it is tied to, and the table [theirs, its own]."""
    tables: list[list[tuple[int, np.ndarray]]] = [[] for _ in members]
    for (first, second), penalty in zip(np.searchsorted(members, pairs), penalties, strict=True):
        tables[second].append((int(first), penalty))
    return tables


def _consistent(
    options: Sequence[Sequence[int]],
    tables: Sequence[Sequence[tuple[int, np.ndarray]]],
    labels: tuple[int, ...] = (),
) -> Iterator[tuple[int, ...]]:
    """All labels that go on from `labels` and violate nothing, depth first."""
    if len(labels) == len(options):
        yield labels
        return
    for label in options[len(labels)]:
        if all(table[labels[other], label] == 0 for other, table in tables[len(labels)]):
            yield from _consistent(options, tables, (*labels, label))


def _pad(
    members: Sequence[np.ndarray], rows: Sequence[np.ndarray], rules: PairRules, num_claims: int
) -> Units:
    num_units, width = len(members), max(map(len, members))
    num_assignments = max(map(len, rows))
    members_of = np.full((num_units, width), num_claims, np.int32)
    assignments = np.full((num_units, num_assignments, width), -1, np.int8)
    is_allowed = np.zeros((num_units, num_assignments), bool)
    costs = np.zeros((num_units, num_assignments), np.float32)
    mirror = np.tile(np.arange(num_assignments, dtype=np.int32), (num_units, 1))
    num_options = rules.penalties.shape[-1]
    unit_of = np.zeros(num_claims, np.int32)
    for unit, (claims, labels) in enumerate(zip(members, rows, strict=True)):
        members_of[unit, : len(claims)] = claims
        assignments[unit, : len(labels), : len(claims)] = labels
        is_allowed[unit, : len(labels)] = True
        index = {row.tobytes(): position for position, row in enumerate(labels)}
        opposites = (num_options - 1 - labels).astype(np.int8)
        mirror[unit, : len(labels)] = [
            index.get(row.tobytes(), position) for position, row in enumerate(opposites)
        ]
        unit_of[claims] = unit
    pairs, penalties = np.asarray(rules.pairs), np.asarray(rules.penalties)
    for (first, second), penalty in zip(pairs, penalties, strict=True):
        unit = unit_of[first]
        if unit_of[second] == unit:
            one, other = np.searchsorted(members[unit], (first, second))
            labels = rows[unit]
            costs[unit, : len(labels)] += penalty[labels[:, one], labels[:, other]]
    arrays = (members_of, assignments, is_allowed, costs, mirror)
    return Units(*jax.device_put(arrays))


def _unit_fault(members: np.ndarray, num_assignments: int) -> Fault:
    claims = ", ".join(map(str, members[:8])) + (", ..." if len(members) > 8 else "")
    return Fault(
        rule=f"Claims that hard rules tie together have 1 to {MAX_ASSIGNMENTS} consistent labels.",
        found=f"more than {MAX_ASSIGNMENTS}" if num_assignments else "none",
        where=f"rules, claims {claims}",
        remedy="search by `ICM`, or make some of these rules soft"
        if num_assignments
        else "make these rules soft, or free a clamped label among these claims",
    )
