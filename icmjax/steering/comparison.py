"""Ways to steer a model, side by side on the same held-out claims."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.lm import LanguageModel
from icmjax.prompts import Template
from icmjax.scoring import MEMORY_BUDGET, checked_scores
from icmjax.statistics import share_interval
from icmjax.steering.calibration import calibrate
from icmjax.steering.in_context import make_steerer
from icmjax.steering.scores import Scores, score_predictions

ZERO_SHOT, CALIBRATED = "zero-shot", "calibrated zero-shot"


class Condition(NamedTuple):
    """One way to steer: the scores of each of its draws."""

    name: str
    draws: tuple[Scores, ...]
    num_groups: int  # consistency groups of the claims that have a gold label

    @property
    def num_claims(self) -> int:
        """Claims that have a gold label."""
        return self.draws[0].num_claims

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy, each consistency group counted once.

        Opposite claims are right or wrong together, so that the claims of a group say little more
        than one of them. The interval says how far other claims would change the accuracy; it does
        not tell two conditions apart, which are measured on the same claims.
        """
        return share_interval(self.mean("accuracy"), self.num_groups)

    def mean(self, metric: str) -> float:
        """The mean over the draws of a field of `Scores`."""
        return float(np.mean([getattr(scores, metric) for scores in self.draws]))

    def spread(self, metric: str) -> float | None:
        """The standard deviation over the draws; None for a single draw."""
        values = [getattr(scores, metric) for scores in self.draws]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def random_labels(seed: int, num_draws: int, claims: ClaimSet) -> np.ndarray:
    """Labels drawn uniformly and independently: int8 `[num_draws, N]`."""
    rng = np.random.default_rng(seed)
    return rng.integers(len(claims.options), size=(num_draws, len(claims))).astype(np.int8)


def compare(
    lm: LanguageModel,
    demonstrations: ClaimSet,
    labellings: Mapping[str, np.ndarray],
    queries: ClaimSet,
    gold: GoldLabels,
    template: str | Template | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> list[Condition]:
    """Zero-shot, calibrated zero-shot, and every labelling of the demonstrations.

    Queries that the demonstrations answer are scored like all others: `held_out` finds the rest.

    Args:
      labellings: by the condition's name, int8 `[N]` or draws of it `[B, N]`.
      gold: gold labels of the queries.
      memory_budget: bytes that reading may take beside the weights.

    Raises:
      InputError: the claim sets do not go together, or nothing fits the memory budget.
      PromptError: a prompt does not fit the model.
      ScoreError: a label log-prob is not a finite number.
    """
    steerer = make_steerer(lm, demonstrations, queries, template, memory_budget)
    num_groups = len(np.unique(queries.group_index[gold.labels != UNLABELLED]))

    def condition(name: str, draws: np.ndarray) -> Condition:
        each = checked_scores(draws, queries)
        scores = tuple(score_predictions(label_log_probs, gold) for label_log_probs in each)
        return Condition(name, scores, num_groups)

    zero_shot = steerer(np.full((1, len(demonstrations)), UNLABELLED, np.int8))
    conditions = [condition(ZERO_SHOT, zero_shot)]
    if len(queries.options) == 2:
        calibrated = calibrate(zero_shot[0], queries.rules)
        conditions.append(condition(CALIBRATED, calibrated[None]))
    for name, labels in labellings.items():
        draws = np.reshape(labels, (-1, len(demonstrations)))
        conditions.append(condition(name, steerer(draws)))
    return conditions
