"""How well predictions on held-out claims agree with gold labels."""

from typing import NamedTuple

import numpy as np
import scipy

from icmjax.claims import UNLABELLED, GoldLabels
from icmjax.errors import Fault, InputError, ScoreError
from icmjax.notebooks import facts_html


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

    def __repr__(self) -> str:
        return f"Evaluation(M = {len(self.label_log_probs)}, {self.scores})"

    def _repr_html_(self) -> str:
        facts = {} if self.scores is None else self.scores._asdict()
        return facts_html(f"{len(self.label_log_probs)} held-out claims", facts)

    @property
    def predictions(self) -> np.ndarray:
        """The most probable labels, int8 `[M]`."""
        return self.label_log_probs.argmax(-1).astype(np.int8)


def score_predictions(label_log_probs: np.ndarray, gold: GoldLabels) -> Scores:
    """Compares label log-probs, `[M, Y]` in nats, with gold labels, where a claim has one.

    Raises:
      InputError: no claim has a gold label.
      ScoreError: a label log-prob is not a finite number.
    """
    _check(label_log_probs)
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


def auc(label_log_probs: np.ndarray, gold: GoldLabels) -> float:
    """Chance that a claim that is true has higher log-odds than one that is false.

    It is the area under the ROC curve: how well a model ranks claims, whatever label it favours.
    Equal log-odds count half (Hanley & McNeil 1982). Claims without a gold label do not count.

    Args:
      label_log_probs: `[M, 2]`, nats.
      gold: labels of the M claims.

    Raises:
      InputError: there are more than two labels, or no claim of one of them.
      ScoreError: a label log-prob is not a finite number.
    """
    _check(label_log_probs)
    if np.shape(label_log_probs)[-1] != 2:
        found = f"{np.shape(label_log_probs)[-1]}"
        remedy = "compare accuracies"
        raise InputError(Fault("Claims are ranked by two labels.", found, "label options", remedy))
    log_odds = np.asarray(label_log_probs, np.float64) @ np.array([-1.0, 1.0])
    is_true = gold.labels == 1
    num_true, num_false = int(is_true.sum()), int((gold.labels == 0).sum())
    if not num_true or not num_false:
        found = f"{num_true} true and {num_false} false ones"
        remedy = "evaluate on claims of both labels"
        raise InputError(Fault("Ranking wants claims of both labels.", found, "gold", remedy))
    is_known = gold.labels != UNLABELLED
    ranks = scipy.stats.rankdata(log_odds[is_known])
    above = ranks[is_true[is_known]].sum() - num_true * (num_true + 1) / 2
    return float(above / (num_true * num_false))


def _check(label_log_probs: np.ndarray) -> None:
    """Of NaN every label would be the best; claims have no names here, but positions."""
    broken = np.flatnonzero(~np.isfinite(np.asarray(label_log_probs)).all(-1)).tolist()
    if broken:
        rule, found = "Predictions to be scored are finite numbers.", "NaN or infinity"
        remedy = "load the model in a wider dtype, or look at this claim's text"
        raise ScoreError([Fault(rule, found, f"claim {index}", remedy) for index in broken])
