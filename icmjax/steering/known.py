"""Which queries the demonstrations answer already, and by what."""

from typing import NamedTuple

import numpy as np

from icmjax.claims import Claim, ClaimSet, are_opposite


class Overlap(NamedTuple):
    """Of each query, by what a demonstration answers it: bool `[N]`, at most one of the three."""

    is_same: np.ndarray  # the same text
    is_opposite: np.ndarray  # the opposite of a demonstration, or tied to a query of the same text
    is_by_id: np.ndarray  # nothing but a consistency id and a question, or tied to such a query

    @property
    def is_known(self) -> np.ndarray:
        """Whether a demonstration answers the query at all, bool `[N]`."""
        return self.is_same | self.is_opposite | self.is_by_id


def held_out(demonstrations: ClaimSet, queries: ClaimSet) -> np.ndarray:
    """The queries that the demonstrations do not answer: their indices, int64, in order.

    A demonstration answers a query with the same persona, question, choice and second choice, or
    with the same two choices in the other order. It answers one with the same persona, question and
    consistency id, as its opposite has. It answers what is tied to such a query by a consistency
    group. Differences in white space do not count. Ids alone say nothing across files: many number
    their rows, so that an id counts with a question, and where no two choices are compared.
    """
    return np.flatnonzero(~overlap(demonstrations, queries).is_known)


def overlap(demonstrations: ClaimSet, queries: ClaimSet) -> Overlap:
    """By what the demonstrations answer queries, as `held_out` counts it.

    Ids cannot say whether two texts that share one are opposites, or other claims that happen to
    have the same number: where texts do not say it either, `is_by_id` tells of it.
    """
    texts = {_text(claim) for claim in demonstrations.claims}
    by_id: dict[tuple, list[Claim]] = {}
    for claim in filter(_counts_by_id, demonstrations.claims):
        by_id.setdefault(_id(claim), []).append(claim)
    asked = queries.claims
    is_same = np.array([_text(claim) in texts for claim in asked], bool)
    is_opposite = np.array([_turned(claim) in texts for claim in asked], bool)
    tied = [by_id.get(_id(claim), []) if _counts_by_id(claim) else [] for claim in asked]
    pairs = zip(asked, tied, strict=True)
    is_opposite |= np.array([any(are_opposite(claim, o) for o in those) for claim, those in pairs])
    is_by_id = np.array([bool(others) for others in tied], bool)
    groups = queries.group_index
    is_opposite |= np.isin(groups, groups[is_same | is_opposite])
    is_by_id |= np.isin(groups, groups[is_by_id])
    return Overlap(is_same, is_opposite & ~is_same, is_by_id & ~is_same & ~is_opposite)


def _text(claim: Claim) -> tuple:
    choices = _plain(claim.choice), None if claim.choice_2 is None else _plain(claim.choice_2)
    return (_plain(claim.persona), _plain(claim.question), *choices)


def _turned(claim: Claim) -> tuple | None:
    """The same comparison in the other order; None where nothing is compared."""
    if claim.choice_2 is None:
        return None
    return _text(claim._replace(choice=claim.choice_2, choice_2=claim.choice))


def _id(claim: Claim) -> tuple:
    return _plain(claim.persona), _plain(claim.question), claim.consistency_id


def _counts_by_id(claim: Claim) -> bool:
    return bool(_plain(claim.question)) and claim.choice_2 is None


def _plain(text: str) -> str:
    return " ".join(text.split())
