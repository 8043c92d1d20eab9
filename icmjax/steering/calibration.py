"""Zero-shot predictions less the model's bias towards one label."""

import numpy as np

from icmjax.claims import PairRules


def calibrate(label_log_probs: np.ndarray, rules: PairRules) -> np.ndarray:
    """Takes the model's bias towards one label out of zero-shot predictions.

    A claim is judged by its log-odds less those of its opposites (the claims that a pair rule keeps
    from being true together with it), halved, so that of two opposite claims the one that the model
    rather believes is true; a claim without an opposite by its log-odds less their mean over all
    claims (batch calibration, Zhou et al., arXiv:2309.17249). Two label options only.

    Args:
      label_log_probs: `[M, 2]`, nats.
      rules: the pair rules of the same claims.

    Returns:
      float32 `[M, 2]`, nats.
    """
    log_odds = np.asarray(label_log_probs, np.float64) @ np.array([-1.0, 1.0])
    pairs = np.asarray(rules.pairs)[np.asarray(rules.penalties)[:, 1, 1] > 0]
    total, count = np.zeros_like(log_odds), np.zeros_like(log_odds)
    for first, second in (pairs.T, pairs.T[::-1]):
        np.add.at(total, first, log_odds[second])
        np.add.at(count, first, 1)
    opposite = total / np.maximum(count, 1)
    calibrated = np.where(count > 0, (log_odds - opposite) / 2, log_odds - log_odds.mean())
    return np.stack([-np.logaddexp(0, calibrated), -np.logaddexp(0, -calibrated)], -1).astype(
        np.float32
    )
