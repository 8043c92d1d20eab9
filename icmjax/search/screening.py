"""A cheap scorer before an exact one, for delayed acceptance."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScreenedScorer:
    """An exact scorer with a cheap stand-in; as a scorer it is the exact one.

    `InformedMoves(num_screenings=K)` makes K moves by the cheap scorer between two passes of
    the exact one, and corrects for the difference, so that the cheap one changes how fast a search
    is and not what it finds.
    """

    exact: Any
    cheap: Any  # of the same claims and options

    @property
    def num_claims(self) -> int:
        """N."""
        return self.exact.num_claims

    def __call__(self, labels: Array) -> Array:
        """Label log-probs of the exact scorer, int8 `[..., N]` → float32 `[..., N, Y]`."""
        return self.exact(labels)

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Tokens of a pass of the exact scorer."""
        return self.exact.tokens_per_pass(labels)


def screening_correction(old_cheap_utility: Array, new_cheap_utility: Array) -> Array:
    """What screening adds to ΔU in the acceptance: −ΔU~, U~ being the utility by the cheap scorer.

    The cheap moves are in detailed balance with exp(β U~), so that β (ΔU − ΔU~) decides: delayed
    acceptance (Christen and Fox 2005), for several cheap moves the surrogate transition (Liu 2001,
    section 9.4.3).
    """
    return old_cheap_utility - new_cheap_utility
