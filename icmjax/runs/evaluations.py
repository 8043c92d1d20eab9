"""The evaluations that lie in a run's folder, read back."""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from icmjax.runs.files import damage, read_file
from icmjax.steering import Condition, Scores

NAME = re.compile(r"evaluation(-(\d+))?\.json")
WITHOUT_IT = "take it away; the page is made without it"


class EvaluationRecord(NamedTuple):
    """What `icmjax evaluate` measured."""

    name: str
    model: str
    claims: str
    conditions: list[Condition]


def read_evaluations(folder: pathlib.Path) -> list[EvaluationRecord]:
    """All evaluations of a folder, the first one first.

    Raises:
      RunError: a file is not one that `icmjax evaluate` writes.
    """
    names = [found for path in folder.iterdir() if (found := NAME.fullmatch(path.name))]
    ordered = sorted(names, key=lambda found: int(found[2] or 1))
    return [_read(folder / found[0]) for found in ordered]


def _read(path: pathlib.Path) -> EvaluationRecord:
    content = read_file(path)
    try:
        found = json.loads(content)
        conditions = [_condition(row) for row in found["conditions"]]
        model, claims = str(found["model"]), str(found["claims"])
    # No JSON, or JSON of another shape.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        kind = f"no evaluation: {type(error).__name__} {error}"
        raise damage(path, kind, WITHOUT_IT) from None
    if not conditions:
        raise damage(path, "no conditions", WITHOUT_IT)
    return EvaluationRecord(path.name, model, claims, conditions)


def _condition(row: Mapping[str, Any]) -> Condition:
    """A condition from its row; ValueError, KeyError or TypeError where it is none."""
    draws = tuple(Scores(**scores) for scores in row["draws"])
    for scores in draws:
        if not (0 <= scores.accuracy <= 1 and 0 <= scores.balanced_accuracy <= 1):
            raise ValueError(f"an accuracy of {scores.accuracy}, {scores.balanced_accuracy}")
        if not math.isfinite(scores.log_loss) or scores.num_claims < 1:
            raise ValueError(f"a log-loss of {scores.log_loss}, {scores.num_claims} claims")
    if not draws or row["num_groups"] < 1:
        raise ValueError(f"{len(draws)} draws, {row['num_groups']} groups")
    return Condition(str(row["condition"]), draws, row["num_groups"])
