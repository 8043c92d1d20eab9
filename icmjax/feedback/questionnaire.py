"""Questions with their answers in a file that grows, and loses nothing that a person wrote."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
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
    all their fields, stay. So does what others write meanwhile: the file is read again just before
    it is written.
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
        self._labels: dict[int, int] = {}  # as the file had them when it was last read or written
        self._added: dict[int, dict[str, Any]] = {}  # rows of this process
        self._given: dict[int, tuple[int | None, bool]] = {}  # not yet written
        if os.path.lexists(self.path):
            self._rows, self._labels = self._read()

    def _read(self) -> tuple[list[tuple[int, dict[str, Any]]], dict[int, int]]:
        rows, labels = [], {}
        for index, found in read_answer_rows(str(self.path), self.claims).items():
            rows += [(index, dict(values)) for values, _ in found]
            labels[index] = max(label for _, label in found)
        return rows, labels

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
        """Questions without an answer, but for those that are there; returns the new rows.

        They are in the file, and count, once it is written.
        """
        rows = {
            question.claim_index: _row_of(question)
            for question in questions
            if question.claim_index not in self._labels
        }
        self._added |= rows
        return list(rows.values())

    def give(self, index: int, label: int | None, is_unsure: bool = False) -> None:
        """The answer to a claim that was asked about: a label, or None; counts once written."""
        self._given[index] = label, is_unsure

    def write(self) -> None:
        """Write what was added and given into the file as it stands now, for its owner to read.

        A label that somebody wrote into the file since it was read wins over no label. Where this
        fails, what was given is forgotten.

        Raises:
          ClaimsError: somebody wrote another label than was given; or see `read_answer_rows`.
          RunError: the file cannot be written.
        """
        given, self._given = self._given, {}
        rows, labels = self._now(given)
        faults = [
            self._clash(index, label, labels[index])
            for index, (label, _) in given.items()
            if label is not None and self._is_new(index, labels) and label != labels[index]
        ]
        if faults:
            raise ClaimsError(faults)
        for index, (label, is_unsure) in given.items():
            if label is None and self._is_new(index, labels):
                continue
            for row in (row for other, row in rows if other == index):
                row["label"] = None if label is None else self.claims.options[label]
                row.pop(UNSURE, None)
                if is_unsure:
                    row[UNSURE] = True
            labels[index] = UNLABELLED if label is None else label
        form = _as_csv if self.path.suffix.lower() == ".csv" else _as_jsonl
        write_text(self.path, form([row for _, row in rows]), private=True, error=RunError)
        self._rows, self._labels = rows, labels

    def _now(self, given: Iterable[int]) -> tuple[list[tuple[int, dict[str, Any]]], dict[int, int]]:
        """Rows and labels of the file as it stands, with those that it has to have.

        Whoever took a row away meant it, but for a question that is being asked.
        """
        known = [(index, dict(row)) for index, row in self._rows]
        known += [(i, dict(row)) for i, row in self._added.items() if i not in self._labels]
        rows, labels = self._read() if os.path.lexists(self.path) else ([], {})
        is_gone = not labels
        wanted = {index for index, _ in known} if is_gone else {*self._added, *given}
        missing = wanted - labels.keys()
        rows += [(index, row) for index, row in known if index in missing]
        return rows, labels | {index: self._labels.get(index, UNLABELLED) for index in missing}

    def _is_new(self, index: int, labels: Mapping[int, int]) -> bool:
        """Whether a claim has a label that somebody wrote since the file was read."""
        return labels[index] not in (UNLABELLED, self._labels.get(index, UNLABELLED))

    def _clash(self, index: int, given: int, found: int) -> Fault:
        options, id_ = self.claims.options, self.claims.claims[index].id
        return Fault(
            "A claim has one answer.",
            f"{options[given]}, and {options[found]} that somebody wrote meanwhile, of {id_!r}",
            str(self.path),
            "take the label out of the file, or answer as it does",
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
