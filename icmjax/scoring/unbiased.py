"""Scores of binary claims less the label that a model favours whatever the claim, in every pass.

A model that says one label of nearly all claims finds nothing as coherent as that label for all.
Demonstrations change what it favours. So the border between its two clusters of log-odds is taken
off anew for each labelling that is scored (`icmjax.scoring.bias` has the sources). A labelling of
one label alone then predicts half of the claims wrong.
"""

import dataclasses
from typing import Any

import jax

from icmjax.errors import Fault, InputError
from icmjax.scoring.bias import less_bias, share_border, without_bias
from icmjax.scoring.brief import OverScorer
from icmjax.scoring.options import num_options_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class UnbiasedScorer(OverScorer):
    """A scorer's label log-probs of binary claims, less the border of each labelling's log-odds.

    A pytree, to be called inside or outside jit; make one by `make_unbiased_scorer`.
    """

    own: Any  # a scorer of N binary claims
    balance: float | None = dataclasses.field(metadata={"static": True})

    @property
    def num_options(self) -> int:
        """Two."""
        return 2

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs without the bias, nats: int8 `[..., N]` → float32 `[..., N, 2]`."""
        logp = self.own(labels)
        if self.balance is None:
            return less_bias(logp, "clusters")
        log_odds = logp[..., 1] - logp[..., 0]
        return without_bias(logp, share_border(log_odds, self.balance))


def make_unbiased_scorer(own: Any, balance: float | None = None) -> UnbiasedScorer:
    """A scorer less what the model says of all claims alike.

    Args:
      own: a scorer of N claims with two options.
      balance: the share of claims that are known to be true; None for the border between the two
        clusters of log-odds.

    Raises:
      InputError: claims have other than two options, or the balance is not between 0 and 1.
    """
    faults = []
    num_options = num_options_of(own)
    if num_options != 2:
        rule, remedy = "A border lies between two labels.", "leave the bias in"
        faults.append(Fault(rule, f"{num_options} options", "own.num_options", remedy))
    if balance is not None and not 0 < balance < 1:
        rule, remedy = "A share of true claims is between 0 and 1.", "give another, or None"
        faults.append(Fault(rule, str(balance), "balance", remedy))
    if faults:
        raise InputError(faults)
    return UnbiasedScorer(own, balance)
