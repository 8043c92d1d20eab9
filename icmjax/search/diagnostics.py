"""How well a sampler mixed: effective sample size, R-hat, round trips; numpy, on the host."""

from typing import Any

import numpy as np


def effective_sample_size(samples: np.ndarray) -> float:
    """How many independent draws the mean of correlated ones is worth.

    Geyer's initial monotone sequence over autocorrelations pooled from all chains, as in Vehtari et
    al. (arXiv:1903.08008, section 3.2), without their rank normalisation.

    Args:
      samples: `[C, T]`, T ≥ 4.

    Returns:
      At most C T log10(C T), their bound; NaN where the samples are all one value.
    """
    samples = np.asarray(samples, np.float64)
    if _is_constant(samples):  # rounded means would leave them some variance
        return float("nan")
    num_chains, num_samples = samples.shape
    centred = samples - samples.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * num_samples, axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :num_samples] / num_samples
    within = covariance[:, 0].mean() * num_samples / (num_samples - 1)
    variance = within * (num_samples - 1) / num_samples
    if num_chains > 1:
        variance += samples.mean(axis=1).var(ddof=1)
    correlation = 1 - (within - covariance.mean(axis=0)) / variance
    correlation[0] = 1.0
    pairs = correlation[: num_samples // 2 * 2].reshape(-1, 2).sum(axis=1)
    is_negative = pairs <= 0
    pairs = pairs[: int(np.argmax(is_negative))] if is_negative.any() else pairs
    time = -1 + 2 * np.minimum.accumulate(pairs).sum()
    total = num_chains * num_samples
    return float(total / max(time, 1 / np.log10(total)))


def split_r_hat(samples: np.ndarray) -> float:
    """How much chains, each split in halves, differ: near 1 where they agree.

    Gelman et al., Bayesian Data Analysis (2013), section 11.4.

    Args:
      samples: `[C, T]`, T ≥ 4.

    Returns:
      NaN where the samples are all one value; infinity where each half is, and they differ.
    """
    samples = np.asarray(samples, np.float64)
    half = samples.shape[1] // 2
    halves = np.concatenate([samples[:, :half], samples[:, -half:]])
    if all(map(_is_constant, halves)):
        return float("nan") if _is_constant(halves) else float("inf")
    within, between = halves.var(axis=1, ddof=1).mean(), halves.mean(axis=1).var(ddof=1)
    return float(np.sqrt((half - 1) / half + between / within))


def _is_constant(samples: np.ndarray) -> bool:
    return bool(samples.min() == samples.max())


def count_round_trips(replica_of_rung: np.ndarray) -> int:
    """How often a replica came to the coldest rung from the hottest.

    Args:
      replica_of_rung: `[T, C, R]`.
    """
    num_replicas = replica_of_rung.shape[-1]
    if num_replicas < 2:
        return 0
    rungs = np.argsort(replica_of_rung, axis=-1).reshape(len(replica_of_rung), -1).T
    count = 0
    for path in rungs:
        ends = path[(path == 0) | (path == num_replicas - 1)]
        count += int(((ends[1:] == 0) & (ends[:-1] > 0)).sum())
    return count


def mixing(samples: np.ndarray) -> dict[str, float | None]:
    """ESS and R-hat of a scalar's samples `[T, C]`; None where they are not defined."""
    if len(samples) < 4:
        return {"ess": None, "r_hat": None}
    values = {"ess": effective_sample_size(samples.T), "r_hat": split_r_hat(samples.T)}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def tempering_diagnostics(trace: Any, num_burn_in: int) -> dict[str, Any]:
    """Diagnostics of a `TemperingInfo`: plain numbers and lists, by rung from the coldest on.

    ESS and R-hat are of U at the cold rung, and the worst of all claims' labels. Claims of whose
    label every chain is sure, but not of the same one, have no R-hat: they are counted apart.
    """
    kept = type(trace)(*(field[num_burn_in:] for field in trace))
    per_claim = [
        mixing(kept.cold_labels[..., claim]) for claim in range(kept.cold_labels.shape[-1])
    ]
    by_name = {name: [row[name] for row in per_claim] for name in ("ess", "r_hat")}
    num_disagreeing = sum(
        len(samples := kept.cold_labels[..., claim]) >= 4 and np.isinf(split_r_hat(samples.T))
        for claim in range(kept.cold_labels.shape[-1])
    )
    known = {name: [x for x in column if x is not None] for name, column in by_name.items()}
    is_move = kept.is_move
    num_moves = np.maximum(is_move.sum(axis=(0, 1)), 1)
    of_utility = mixing(kept.utility[..., 0])
    return {
        "acceptance_rates": ((is_move & kept.is_accepted).sum(axis=(0, 1)) / num_moves).tolist(),
        "swap_rates": kept.swap_probability.mean(axis=(0, 1)).tolist() if len(kept[0]) else [],
        "inverse_temperatures": trace.inverse_temperature[-1].tolist(),
        "num_round_trips": count_round_trips(kept.replica) if len(kept[0]) else 0,
        "ess_utility": of_utility["ess"],
        "r_hat_utility": of_utility["r_hat"],
        "min_ess_labels": min(known["ess"], default=None),
        "max_r_hat_labels": max(known["r_hat"], default=None),
        "num_frozen_claims": int(sum(x is None for x in by_name["ess"])),
        "num_disagreeing_claims": int(num_disagreeing),
    }
