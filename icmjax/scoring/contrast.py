"""What labels add to a claim beyond what another prompt says of it without any labels.

A claim that everybody holds is likely under any persona's name, and a label that is likely after
any text tells nothing. So the log-probs of another prompt are taken off: of the claim after a text
without content (contextual calibration, Zhao et al. 2021, arXiv:2102.09690), which is the pointwise
mutual information of label and prompt within a domain (PMI_DC, Holtzman et al. 2021,
arXiv:2104.08315), or of the claim under another persona's name.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.errors import Fault, InputError, ScoreError
from icmjax.scoring.brief import OverScorer
from icmjax.scoring.options import num_options_of, unlabelled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ContrastScorer(OverScorer):
    """A scorer's label log-probs less constant ones of the same claims, normalised over Y.

    A pytree, to be called inside or outside jit; make one by `make_contrast_scorer`.
    """

    own: Any  # a scorer of N claims
    other: jax.Array  # float32 [N, Y], what is taken off, times its weight, nats

    @property
    def num_options(self) -> int:
        """Y."""
        return self.other.shape[-1]

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs of the contrast, nats: int8 `[..., N]` → float32 `[..., N, Y]`."""
        return jax.nn.log_softmax(self.own(labels) - self.other)


def make_contrast_scorer(own: Any, other: Any, weight: float = 1.0) -> ContrastScorer:
    """A scorer less what another one says of the same claims without any demonstration.

    Args:
      own: a scorer of N claims with Y options.
      other: a scorer of the same claims under another name, under none, or after a text without
        content; it is asked once, here.
      weight: of what is taken off; 0 leaves the own scorer as it is, but for normalising.

    Raises:
      InputError: the two have different numbers of claims or of options.
      ScoreError: what is to be taken off is not finite.
    """
    own_shape, other_shape = ((s.num_claims, num_options_of(s)) for s in (own, other))
    if own_shape != other_shape:
        raise InputError(
            [
                Fault(
                    f"The two scorers of a contrast have the same number of {name}.",
                    f"{size} and {other_size}",
                    f"own.num_{name}, other.num_{name}",
                    "make both of the same claims, with other preambles alone",
                )
                for name, size, other_size in zip(
                    ("claims", "options"), own_shape, other_shape, strict=True
                )
                if size != other_size
            ]
        )
    taken_off = weight * jnp.asarray(other(unlabelled(other)))
    is_broken = ~np.isfinite(taken_off).all(axis=-1)
    if is_broken.any():
        rule, found = "What a contrast takes off is finite.", f"NaN or infinity, weight {weight}"
        remedy = "give a finite weight, and a scorer that rules no label out"
        where = [f"other, claim number {index}" for index in np.flatnonzero(is_broken)]
        raise ScoreError([Fault(rule, found, place, remedy) for place in where])
    return ContrastScorer(own, taken_off)
