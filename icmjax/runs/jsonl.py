"""Labelled claims as rows: what a run, its predictions and its exports say of each claim."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from icmjax.claims import ClaimSet


def label_rows(
    claims: ClaimSet, labels: np.ndarray, log_odds: np.ndarray, marginals: np.ndarray
) -> list[dict[str, Any]]:
    """A row a claim: its fields, `label`, `log_odds` in nats, and `marginal`.

    Args:
      claims: N claims.
      labels: int8 `[N]`.
      log_odds: `[N]`, as of a `SearchResult`.
      marginals: `[N, Y]`; of two options a row has the probability of the second one alone.
    """
    is_binary = len(claims.options) == 2
    rows = []
    for index, claim in enumerate(claims.claims):
        row: dict[str, Any] = {k: v for k, v in claim._asdict().items() if v is not None}
        probabilities = marginals[index].tolist()
        row["label"] = int(labels[index])
        row["log_odds"] = float(log_odds[index])
        row["marginal"] = probabilities[1] if is_binary else probabilities
        rows.append(row)
    return rows


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSONL text."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
