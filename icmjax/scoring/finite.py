"""Scores that left the device, refused where they are no numbers."""

import jax
import numpy as np

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, ScoreError


def checked_scores(logp: jax.Array | np.ndarray, claims: ClaimSet) -> np.ndarray:
    """Label log-probs on the host, float32 `[..., N, Y]`, all of them finite.

    Whoever calls a scorer outside of a search calls this on what it gave: a weight that overflowed
    makes NaN of every score, and NaN makes numbers of an accuracy and no JSON of a utility.

    Args:
      logp: float32 `[..., N, Y]`, in nats.
      claims: the N claims, which the error names.

    Raises:
      ScoreError: some score is NaN or infinite; a fault for each claim.
    """
    host = np.asarray(logp)
    assert host.shape[-2] == len(claims), "scores of other claims"
    is_broken = ~np.isfinite(host).reshape(-1, *host.shape[-2:]).all(axis=(0, 2))
    if is_broken.any():
        rule, found = "Scores of a model are finite numbers.", "NaN or infinity"
        remedy = "load the model in a wider dtype, or look at the claim's text"
        names = [claims.claims[index].id for index in np.flatnonzero(is_broken)]
        raise ScoreError([Fault(rule, found, f"claim {name!r}", remedy) for name in names])
    return host
