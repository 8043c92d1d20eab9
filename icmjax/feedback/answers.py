"""What people answered: read from files, and held fast together with what it implies."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from icmjax.claims import UNLABELLED, Claim, ClaimSet, PairRules, label_index, read_rows
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.feedback.selectors import implied_labels
from icmjax.search import Algorithm, Scorer, SearchResult, run_search


def differing_fields(values: Mapping[str, Any], claim: Claim) -> list[str]:
    """Which parts of a claim's text other values contradict; what they leave blank they do not.

    Args:
      values: by the names of a `Claim`'s fields.
    """

    def text(value: Any) -> str:
        return "" if value is None else str(value).strip()

    return [
        name
        for name in ("question", "choice", "choice_2")
        if text(values.get(name)) not in ("", text(getattr(claim, name)))
    ]


def read_answers(path: str, claims: ClaimSet) -> np.ndarray:
    """Answers to some of the claims, from rows with `id` and `label`: int8 `[N]`, -1 elsewhere.

    Raises:
      ClaimsError: as `read_answer_rows`; or no row has a label.
    """
    answers = labels_in(path, claims)
    if (answers == UNLABELLED).all():
        remedy = f"set `label` in the rows of {path}"
        raise ClaimsError(Fault("An answer has a label.", "no row that has one", path, remedy))
    return answers


def labels_in(path: str, claims: ClaimSet) -> np.ndarray:
    """The labels in rows of answers: int8 `[N]`, -1 elsewhere; see `read_answer_rows`."""
    answers = np.full(len(claims), UNLABELLED, np.int8)
    for index, rows in read_answer_rows(path, claims).items():
        answers[index] = max(label for _, label in rows)
    return answers


def read_answer_rows(path: str, claims: ClaimSet) -> dict[int, list[tuple[Mapping[str, Any], int]]]:
    """Rows with `id` and `label` as they stand, and their labels, -1 for none; by claim index.

    Raises:
      ClaimsError: a row is not about one of the claims, has another label than its options, or
        contradicts another row.
    """
    faults: list[Fault] = []
    index = {claim.id: number for number, claim in enumerate(claims.claims)}
    given: dict[int, list[tuple[Mapping[str, Any], int]]] = {}
    for row in read_rows(pathlib.Path(path), faults):
        id_ = str(row.values.get("id"))
        label = label_index(row.values.get("label"), claims.options)
        if row.values.get("id") in (None, ""):
            remedy = "say in `id` which claim a row is about, as the rows of `icmjax ask` do"
            faults.append(Fault("An answer names its claim.", "no `id`", row.where, remedy))
        elif id_ not in index or differing_fields(row.values, claims.claims[index[id_]]):
            is_known = id_ in index
            how = "says something else there" if is_known else "is none of the run's"
            found = f"claim {id_!r}, which {how}"
            remedy = "take the rows that `icmjax ask` wrote, and change their labels alone"
            faults.append(Fault("Answers are to claims of the run.", found, row.where, remedy))
        elif label is None:
            found, remedy = repr(row.values.get("label")), f"one of {', '.join(claims.options)}"
            faults.append(Fault("A label is one of the options.", found, row.where, remedy))
        else:
            earlier = [other for _, other in given.get(index[id_], []) if other >= 0]
            if label >= 0 and any(other != label for other in earlier):
                both = f"{claims.options[earlier[0]]} and {claims.options[label]} of claim {id_!r}"
                remedy = "keep one of the two rows"
                faults.append(Fault("A claim has one answer.", both, row.where, remedy))
            given.setdefault(index[id_], []).append((row.values, label))
    if faults:
        raise ClaimsError(faults)
    return given


def beside(answers: np.ndarray, kept: np.ndarray, rules: PairRules) -> tuple[np.ndarray, list[int]]:
    """Answers with those that were kept before, where these say nothing of a claim.

    Args:
      answers: int8 `[N]`, -1 where there is none; they win, with what they imply.
      kept: int8 `[N]`, the same.
      rules: by which answers imply others.

    Returns:
      int8 `[N]`; and the claims whose kept answer is another one, and does not count.

    Raises:
      ClaimsError: the answers contradict each other.
    """
    implied = implied_labels(answers, rules)
    both = np.where((implied < 0) & (kept >= 0), kept, answers).astype(np.int8)
    return both, np.flatnonzero((kept >= 0) & (implied >= 0) & (kept != implied)).tolist()


def hold_answers(
    claims: ClaimSet, answers: np.ndarray, earlier: np.ndarray | None = None, where: str = "answers"
) -> np.ndarray:
    """Answers, those of earlier rounds, and what both imply: int8 `[N]`, -1 where free.

    Args:
      answers: int8 `[N]`, -1 where nobody was asked, or was unsure.
      earlier: int8 `[N]`, the labels that the search before held fast.
      where: for errors.

    Raises:
      InputError: an answer is another one than before, answers contradict each other, or they leave
        nothing to search for.
    """
    earlier = np.full(len(claims), UNLABELLED, np.int8) if earlier is None else earlier
    changed = np.flatnonzero((earlier >= 0) & (answers >= 0) & (earlier != answers))
    if len(changed):
        names = ", ".join(repr(claims.claims[index].id) for index in changed)
        remedy = "leave them out, or start from the run before them"
        raise InputError(
            Fault("An answer is given once.", f"another one for {names}", where, remedy)
        )
    known = np.where(answers >= 0, answers, earlier).astype(np.int8)
    held = implied_labels(known, claims.rules)
    if (held >= 0).all():
        rule = "A search with answers needs a claim whose label is free."
        found = f"all {len(held)} labels are answers, or follow from them"
        raise InputError(Fault(rule, found, where, "leave an answer out, or take them as labels"))
    return held


def answer(
    scorer: Scorer,
    claims: ClaimSet,
    answers: Mapping[str, Any],
    algorithm: Algorithm,
    rng_key: Array,
    *,
    earlier: np.ndarray | None = None,
    progress: bool = True,
) -> SearchResult:
    """Search with a person's answers, and what they imply, held fast.

    Args:
      scorer: of the claims.
      answers: by id of a claim the name or number of its label; None where nobody knows.
      algorithm: of the search, for example `Marginals()`.
      rng_key: a typed key; that of the search before makes the two comparable.
      earlier: int8 `[N]`, labels that were held fast before, -1 where free.
      progress: whether to show a progress bar on stderr.

    Raises:
      ClaimsError: an answer is about none of the claims, or is none of their options; all found.
      InputError: see `hold_answers` and `run_search`.
    """
    known = np.full(len(claims), UNLABELLED, np.int8)
    index = {claim.id: number for number, claim in enumerate(claims.claims)}
    faults = []
    for id_, given in answers.items():
        label = label_index(given, claims.options)
        if id_ not in index:
            rule, remedy = "Answers are to claims of the search.", "leave it out"
            faults.append(Fault(rule, f"claim {id_!r}", "answers", remedy))
        elif label is None:
            rule, remedy = "A label is one of the options.", f"one of {', '.join(claims.options)}"
            faults.append(Fault(rule, repr(given), f"answers, claim {id_!r}", remedy))
        else:
            known[index[id_]] = label
    if faults:
        raise ClaimsError(faults)
    clamped = hold_answers(claims, known, earlier)
    return run_search(
        scorer,
        claims.rules,
        algorithm,
        rng_key,
        clamped=clamped,
        groups=claims.group_index,
        progress=progress,
    )
