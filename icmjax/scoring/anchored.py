"""Cross-validated coherence: labels that predict claims which are no part of the search.

Labels that a search is free to choose can predict one another whatever the claims say. In k-fold
cross-validation (Stone 1974), with two folds half-split, one part is fitted and another one judges.
Here the claims that the model is sure of without any demonstration are the anchors, which judge.
The labels of all the others are chosen so that they predict the anchors. Anchors never see one
another, or they would be explained by each other instead.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import UNLABELLED
from icmjax.errors import Fault, InputError
from icmjax.scoring.brief import describe_scorer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AnchoredScorer:
    """Label log-probs of the anchors given all labelled claims that are none; even ones elsewhere.

    A search with the anchors clamped, `run_search(..., clamped=anchors)`, then has U that depends
    on the anchors' scores alone, as every free claim counts −log Y whatever its label. A free
    claim's own scores say nothing of it: use an algorithm that tries labels and decides by U, such
    as `ParallelTempering` or `Greedy`, and not one that relabels claims by their own scores.
    """

    scorer: Any  # of N claims
    anchors: jax.Array | np.ndarray  # int8 [N], labels of the anchors, -1 elsewhere

    def __repr__(self) -> str:
        return describe_scorer(self)

    @property
    def num_claims(self) -> int:
        """N."""
        return self.scorer.num_claims

    @property
    def num_options(self) -> int:
        """Y."""
        return self.scorer.num_options

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs, nats: int8 `[..., N]` → float32 `[..., N, Y]`."""
        is_anchor = jnp.asarray(self.anchors) >= 0
        logp = self.scorer(jnp.where(is_anchor, UNLABELLED, labels))
        return jnp.where(is_anchor[:, None], logp, -math.log(logp.shape[-1]))

    def is_read(self, *labels: np.ndarray) -> np.ndarray:
        """Whether query i may read claim j: bool `[..., N, N]`; arguments as of the scorer's own.

        Raises:
          AttributeError: the scorer does not say.
        """
        return self.scorer.is_read(*map(self._shown, labels)) & (np.asarray(self.anchors) < 0)

    def demonstration_orders(self) -> np.ndarray:
        """What query i reads: int32 `[..., N, N - 1]`, without anchors, -1 after the last.

        Raises:
          AttributeError: the scorer does not say.
        """
        orders = self.scorer.demonstration_orders()
        is_hidden = (orders < 0) | (np.asarray(self.anchors)[orders] >= 0)
        closed_up = np.argsort(is_hidden, axis=-1, kind="stable")
        return np.take_along_axis(np.where(is_hidden, -1, orders), closed_up, axis=-1)

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Tokens that one scoring of int8 `[..., N]` reads, the anchors not shown."""
        return self.scorer.tokens_per_pass(self._shown(labels))

    def _shown(self, labels: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(self.anchors) >= 0, UNLABELLED, labels).astype(np.int8)


def confident_labels(
    label_log_probs: np.ndarray, share: float = 0.5, groups: np.ndarray | None = None
) -> np.ndarray:
    """The most probable labels of the claims that a model is surest of: anchors; on the host.

    A claim's certainty is the log-prob of its most probable label, and a group's their mean. The
    surest groups are taken in turn while they hold no more than the share, and at least one. No
    pair rule is looked at.

    Args:
      label_log_probs: float32 `[N, Y]`, nats, such as zero-shot ones.
      share: of all claims, above 0 and below 1.
      groups: int `[N]`, the consistency groups, which are taken whole, so that no anchor is read
        off its opposite; by default each claim is its own.

    Returns:
      int8 `[N]`, -1 for claims that are no anchors.

    Raises:
      InputError: the share is out of its range, or the shapes do not fit; all faults found.
    """
    scores = np.asarray(label_log_probs)
    if faults := _faults(scores, share, groups):
        raise InputError(faults)
    own_groups = np.arange(len(scores)) if groups is None else groups
    _, group_of, sizes = np.unique(own_groups, return_inverse=True, return_counts=True)
    certainty = np.bincount(group_of, scores.max(axis=1)) / sizes
    by_certainty = np.argsort(-certainty, kind="stable")
    # 0.29 of 100 claims is 28.999999999999996 of them.
    wanted = round(share * len(scores))
    num_taken = np.searchsorted(np.cumsum(sizes[by_certainty]), wanted, side="right")
    taken = by_certainty[: max(1, num_taken)]
    return np.where(np.isin(group_of, taken), scores.argmax(axis=1), UNLABELLED).astype(np.int8)


def _faults(scores: np.ndarray, share: float, groups: np.ndarray | None) -> list[Fault]:
    faults = []
    if scores.ndim != 2 or not scores.size:
        rule, remedy = "Label log-probs are of N claims and Y options.", "hand over one labelling's"
        faults.append(Fault(rule, f"shape {scores.shape}", "label_log_probs", remedy))
    if groups is not None and np.shape(groups) != scores.shape[:1]:
        rule, found = "Every claim has a group.", f"{np.shape(groups)} for {scores.shape[:1]}"
        faults.append(Fault(rule, found, "groups", "give claims.group_index of the same claims"))
    if not 0 < share < 1:
        rule, remedy = "The share of anchors is above 0 and below 1.", "take 0.5, or another one"
        faults.append(Fault(rule, str(share), "share", remedy))
    return faults
