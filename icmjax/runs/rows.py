"""The rows of a page's tables: every claim with its label, and the pairs side by side."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.errors import printable
from icmjax.runs.curves import Found
from icmjax.runs.facts import SURE
from icmjax.runs.files import read_known
from icmjax.runs.reading import ANSWERS, GOLD, RunRecord

# Of rules, for who does not know them.
KINDS = {
    "soft": "the search may break it, at a cost, where the labels fit better otherwise",
    "hard": "it is kept, whatever the model says",
}
NUM_EXTREMES = 5  # claims of either end of certainty that are shown apart


class LabelRow(NamedTuple):
    """A claim and its label."""

    number: int
    id: str  # "" where it is the number
    question: str
    choice: str
    choice_2: str
    persona: str
    persona_index: int  # of the claim set's personas
    label_index: int
    label: str
    probability: float
    log_odds: float
    is_uncertain: bool
    gold: str  # "" where it is not known
    verdict: str  # "right", "wrong", or ""
    held: str  # "answered", "held fast", or "" for a label that was found


class PairRow(NamedTuple):
    """Two claims that a rule ties."""

    first: LabelRow
    second: LabelRow
    is_violated: bool
    kind: str


def label_rows(run: RunRecord, found: Found, answered: set[str]) -> list[LabelRow]:
    """A row a claim, in the claims' order.

    Args:
      answered: ids of the claims that a human labelled.
    """
    options = [printable(option, keep="") for option in run.claims.options]
    rows = []
    for index, claim in enumerate(run.claims.claims):
        gold, label = int(found.gold[index]), int(run.labels[index])
        is_known, is_held = gold != UNLABELLED, bool(found.is_held[index])
        rows.append(
            LabelRow(
                number=index + 1,
                id="" if claim.id == str(index + 1) else printable(claim.id, keep=""),
                question=printable(claim.question),
                choice=printable(claim.choice),
                choice_2=printable(claim.choice_2 or ""),
                persona=printable(claim.persona, keep=""),
                persona_index=run.claims.personas.index(claim.persona),
                label_index=label,
                label=options[label],
                # Of the label that is shown, which need not be the most probable one.
                probability=float(found.confidence[index]),
                log_odds=float(run.log_odds[index]),
                is_uncertain=bool(found.confidence[index] < SURE),
                gold=options[gold] if is_known else "",
                verdict=("right" if gold == label else "wrong") if is_known else "",
                held=("answered" if claim.id in answered else "held fast") if is_held else "",
            )
        )
    return rows


def pair_rows(claims: ClaimSet, labels: np.ndarray, rows: list[LabelRow]) -> list[PairRow]:
    """A row for each pair that a rule ties."""
    rules = claims.rules
    penalties = np.asarray(rules.penalties)
    kinds = np.where(np.asarray(rules.is_hard), "hard", "soft").tolist()
    return [
        PairRow(rows[i], rows[j], bool(penalties[pair, labels[i], labels[j]] > 0), kinds[pair])
        for pair, (i, j) in enumerate(np.asarray(rules.pairs).reshape(-1, 2).tolist())
    ]


def extremes(rows: list[LabelRow]) -> tuple[list[LabelRow], list[LabelRow]]:
    """The surest and the least sure of the labels that were found, a few of each."""
    by_probability = sorted((row for row in rows if not row.held), key=_certainty)
    num = min(NUM_EXTREMES, len(by_probability) // 2)
    return by_probability[::-1][:num], by_probability[:num]


def _certainty(row: LabelRow) -> tuple[float, float]:
    return row.probability, abs(row.log_odds)


def gold_in(folder: pathlib.Path, run: RunRecord) -> GoldLabels | None:
    """The gold labels that a run keeps; None where it has none.

    Raises:
      RunError: their file is not as it was written.
    """
    known = run.summary["files"].get(GOLD)
    if known is None:
        return None
    labels = {row["id"]: row["label"] for row in _rows(read_known(folder / GOLD, known))}
    found = [labels.get(claim.id) for claim in run.claims.claims]
    return GoldLabels(np.array([UNLABELLED if y is None else y for y in found], np.int8))


def answered_in(folder: pathlib.Path, run: RunRecord) -> set[str]:
    """The ids of claims that a human answered before this search, rather than what they imply.

    Raises:
      RunError: the answers are not as they were written.
    """
    known = run.manifest["files"].get(ANSWERS)
    if known is None:
        return set()
    rows = _rows(read_known(folder / ANSWERS, known))
    return {row["id"] for row in rows if row.get("is_answer")}


def _rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]
