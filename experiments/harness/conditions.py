"""Held-out claims scored without labels, and after label sets as demonstrations."""

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.lm import LanguageModel
from icmjax.steering import calibrate, chat_zero_shot, make_steerer, score_predictions

METRICS = ("accuracy", "balanced_accuracy", "log_loss")


def score_conditions(
    lm: LanguageModel,
    claims: ClaimSet,
    labellings: dict[str, np.ndarray],
    queries: ClaimSet,
    gold: GoldLabels,
    orders: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Metrics of zero-shot and of labellings `[draws, N]`, means over draws and orders `[S, N]`."""
    steerer = make_steerer(lm, claims, queries)
    zero_shot = steerer(np.full(len(claims), UNLABELLED, np.int8))
    predictions = {
        "zero-shot": zero_shot[None],
        "calibrated zero-shot": calibrate(zero_shot, queries.rules)[None],
    }
    chat = chat_zero_shot(lm, queries)
    if chat is not None:
        predictions["chat zero-shot"] = chat[None]
    for name, labels in labellings.items():
        draws = np.reshape(labels, (-1, 1, len(claims)))
        shape = (len(draws), *orders.shape)
        logp = steerer(np.broadcast_to(draws, shape), np.broadcast_to(orders, shape))
        predictions[name] = logp.reshape(-1, *logp.shape[2:])
    return {name: mean_scores(logp, gold) for name, logp in predictions.items()}


def mean_scores(predictions: np.ndarray, gold: GoldLabels) -> dict[str, float]:
    """Means of the metrics over predictions `[draws, M, Y]`."""
    scores = [score_predictions(logp, gold) for logp in predictions]
    return {metric: float(np.mean([getattr(one, metric) for one in scores])) for metric in METRICS}
