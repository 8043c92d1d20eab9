"""What a search with answers changed."""

from typing import Any

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels


def changes_between(
    claims: ClaimSet,
    before: np.ndarray,
    after: np.ndarray,
    clamped: np.ndarray,
    gold: GoldLabels | None = None,
) -> dict[str, Any]:
    """Labels that turned, shares of labels and, where gold is known, accuracy; as JSON.

    Args:
      before: int8 `[N]`, the labels of the search before the answers.
      after: int8 `[N]`, those of the search with them.
      clamped: int8 `[N]`, what that search held fast, -1 where free.
      gold: for the accuracy, both times of the claims that were free with the answers.

    Returns:
      `turned`: a row for each label that is another one, with `is_given` where it is an answer, or
      follows from one; `num_claims`, `num_given`; `shares`: by option how many labels it has before
      and after; `accuracy`: before, after, and of how many claims, or None.
    """
    claim_text = [
        " / ".join(filter(None, (claim.question, claim.choice, claim.choice_2)))
        for claim in claims.claims
    ]
    turned = [
        {
            "claim": claim_text[index],
            "before": claims.options[before[index]],
            "after": claims.options[after[index]],
            "is_given": bool(clamped[index] >= 0),
        }
        for index in np.flatnonzero(before != after)
    ]
    shares = [
        {"option": option, "before": int(np.sum(before == y)), "after": int(np.sum(after == y))}
        for y, option in enumerate(claims.options)
    ]
    accuracy = None
    if gold is not None:
        is_counted = (clamped < 0) & (gold.labels != UNLABELLED)
        if is_counted.any():
            is_right = [np.mean((labels == gold.labels)[is_counted]) for labels in (before, after)]
            accuracy = {
                "before": float(is_right[0]),
                "after": float(is_right[1]),
                "num_claims": int(is_counted.sum()),
            }
    return {
        "turned": turned,
        "num_claims": len(claims),
        "num_given": int(np.sum(clamped >= 0)),
        "shares": shares,
        "accuracy": accuracy,
    }
