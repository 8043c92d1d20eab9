"""Ways to steer a model, side by side on the same held-out claims."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.lm import LanguageModel
from icmjax.scoring import MEMORY_BUDGET
from icmjax.steering.calibration import calibrate
from icmjax.steering.in_context import make_steerer
from icmjax.steering.scores import Scores, score_predictions

ZERO_SHOT, CALIBRATED = "zero-shot", "calibrated zero-shot"


class Condition(NamedTuple):
    """One way to steer: the scores of each of its draws."""

    name: str
    draws: tuple[Scores, ...]

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
    template: str | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> list[Condition]:
    """Zero-shot, calibrated zero-shot, and every labelling of the demonstrations.

    Args:
      labellings: by the condition's name, int8 `[N]` or draws of it `[B, N]`.
      gold: gold labels of the queries.
      memory_budget: bytes that reading may take beside the weights.

    Raises:
      InputError: the claim sets do not go together, or nothing fits the memory budget.
      PromptError: a prompt does not fit the model.
    """
    steerer = make_steerer(lm, demonstrations, queries, template, memory_budget)
    unlabelled = np.full((1, len(demonstrations)), UNLABELLED, np.int8)
    (zero_shot,) = steerer(unlabelled)
    conditions = [Condition(ZERO_SHOT, (score_predictions(zero_shot, gold),))]
    if len(queries.options) == 2:
        calibrated = calibrate(zero_shot, queries.rules)
        conditions.append(Condition(CALIBRATED, (score_predictions(calibrated, gold),)))
    for name, labels in labellings.items():
        draws = np.reshape(labels, (-1, len(demonstrations)))
        scores = tuple(score_predictions(logp, gold) for logp in steerer(draws))
        conditions.append(Condition(name, scores))
    return conditions
