"""Questions with their answers in a file that grows, and loses nothing that a person wrote."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.errors import ClaimsError, Fault, RunError
from icmjax.feedback.answers import read_answer_rows
from icmjax.feedback.asking import Question
from icmjax.files import write_text

UNSURE = "is_unsure"  # true where a person was asked and does not know: nobody asks again


class Questionnaire:
    """A file of questions, JSONL or CSV by its suffix: a row each, its label null until answered.

    What a person does not know has no label either, and `is_unsure` true. Rows that are there, with
    all their fields, stay.
    """

    def __init__(self, path: str | os.PathLike[str], claims: ClaimSet):
        """Read what is there.

        Raises:
          ClaimsError: the suffix is another one; or see `read_answer_rows`.
        """
        self.path, self.claims = pathlib.Path(path), claims
        if self.path.suffix.lower() not in (".jsonl", ".csv"):
            rule, remedy = (
                "Questions are written as JSONL or CSV.",
                "end its name in .jsonl or .csv",
            )
            raise ClaimsError(Fault(rule, self.path.name, str(path), remedy))
        self._rows: list[tuple[int, dict[str, Any]]] = []  # with the index of their claim
        self._labels: dict[int, int] = {}
        if os.path.lexists(self.path):
            for index, rows in read_answer_rows(str(self.path), claims).items():
                self._rows += [(index, dict(values)) for values, _ in rows]
                self._labels[index] = max(label for _, label in rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def answered(self) -> list[int]:
        """The claims that have a label."""
        return [index for index, label in self._labels.items() if label != UNLABELLED]

    @property
    def open(self) -> list[int]:
        """The claims that have none, and may be asked about again."""
        unsure = {index for index, row in self._rows if is_yes(row.get(UNSURE))}
        return [
            index
            for index, label in self._labels.items()
            if label == UNLABELLED and index not in unsure
        ]

    @property
    def closed(self) -> list[int]:
        """The claims that are not asked about again, answered or not known."""
        return sorted(self._labels.keys() - set(self.open))

    def add(self, questions: Iterable[Question]) -> list[dict[str, Any]]:
        """Questions without an answer, but for those that are there; returns the new rows."""
        rows = {
            question.claim_index: _row_of(question)
            for question in questions
            if question.claim_index not in self._labels
        }
        self._rows += rows.items()
        self._labels |= dict.fromkeys(rows, UNLABELLED)
        return list(rows.values())

    def give(self, index: int, label: int | None, is_unsure: bool = False) -> None:
        """The answer to a claim that was asked about: a label, or None; in memory alone."""
        for other, row in self._rows:
            if other == index:
                row["label"] = None if label is None else self.claims.options[label]
                row.pop(UNSURE, None)
                if is_unsure:
                    row[UNSURE] = True
        self._labels[index] = UNLABELLED if label is None else label

    def write(self) -> None:
        """Write the file whole, for its owner alone to read.

        Raises:
          RunError: it cannot be written.
        """
        rows = [row for _, row in self._rows]
        is_csv = self.path.suffix.lower() == ".csv"
        write_text(
            self.path, (_as_csv if is_csv else _as_jsonl)(rows), private=True, error=RunError
        )


def is_yes(value: Any) -> bool:
    """Whether a cell says yes, as JSON and CSV write it."""
    return value is True or str(value).strip().lower() in ("true", "1", "yes")


def _row_of(question: Question) -> dict[str, Any]:
    claim = question.claim
    return {
        "id": claim.id,
        "persona": claim.persona,
        "consistency_id": claim.consistency_id,
        "question": claim.question,
        "choice": claim.choice,
        **({} if claim.choice_2 is None else {"choice_2": claim.choice_2}),
        "label": None,
        "uncertainty": round(question.uncertainty, 6),
    }


def _as_jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
