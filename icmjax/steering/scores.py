"""How well predictions on held-out claims agree with gold labels."""

from typing import NamedTuple

import numpy as np

from icmjax.claims import UNLABELLED, GoldLabels
from icmjax.errors import Fault, InputError


class Scores(NamedTuple):
    """How label log-probs of M held-out claims agree with their gold labels."""

    accuracy: float  # share of claims whose most probable label is gold
    balanced_accuracy: float  # mean over the gold labels that occur of the accuracy among them
    log_loss: float  # nats a claim, mean of −log P(gold)
    num_claims: int  # claims that have a gold label


class Evaluation(NamedTuple):
    """Label log-probs of M held-out claims, and their scores where gold labels are known."""

    label_log_probs: np.ndarray  # float32 [M, Y], nats
    scores: Scores | None

    @property
    def predictions(self) -> np.ndarray:
        """The most probable labels, int8 `[M]`."""
        return self.label_log_probs.argmax(-1).astype(np.int8)


def score_predictions(label_log_probs: np.ndarray, gold: GoldLabels) -> Scores:
    """Compares label log-probs, `[M, Y]` in nats, with gold labels, where a claim has one.

    Raises:
      InputError: no claim has a gold label.
    """
    is_known = gold.labels != UNLABELLED
    if not is_known.any():
        fault = Fault("Scores need gold labels.", "none", "gold", "evaluate claims that have them")
        raise InputError(fault)
    labels, logp = gold.labels[is_known].astype(int), np.asarray(label_log_probs)[is_known]
    is_right = logp.argmax(-1) == labels
    recalls = [is_right[labels == label].mean() for label in np.unique(labels)]
    log_loss = -logp[np.arange(len(labels)), labels].astype(np.float64).mean()
    return Scores(
        float(is_right.mean()), float(np.mean(recalls)), float(log_loss), int(is_known.sum())
    )
