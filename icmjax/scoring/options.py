"""How many label options a scorer's claims have."""

from typing import Any

import jax
import numpy as np

from icmjax.claims import UNLABELLED


def num_options_of(scorer: Any) -> int:
    """Y of a scorer of N claims; a pass of one that does not say it is traced, and not computed."""
    said = getattr(scorer, "num_options", None)
    return jax.eval_shape(_pass, scorer, unlabelled(scorer)).shape[-1] if said is None else said


def unlabelled(scorer: Any) -> np.ndarray:
    """Int8 `[N]`, with which a pass reads each claim alone."""
    return np.full(scorer.num_claims, UNLABELLED, np.int8)


# One function, so that scorers of the same shapes are traced once.
def _pass(scorer: Any, labels: Any) -> Any:
    return scorer(labels)
