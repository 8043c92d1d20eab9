"""Intervals, paired tests and calibration over independent units such as personas."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from icmjax.errors import Fault, InputError

NUM_RESAMPLES = 9_999
MAX_UNITS = 10**6  # beyond it a power analysis says no more than "very many"
MIN_UNITS = 6  # of an interval of the mean; see `summarise`
HUGE_EFFECT = 20.0  # standard deviations, beyond which the noncentral t has no digits left


class Summary(NamedTuple):
    """A sample's mean, its spread, and an interval of the mean."""

    num: int
    mean: float
    spread: float  # standard deviation of the sample, ddof = 1; NaN for a sample of one
    low: float  # 95 % bootstrap interval of the mean; NaN for fewer than MIN_UNITS values
    high: float


class PairedComparison(NamedTuple):
    """Paired differences, first minus second, and the test that their mean is zero."""

    difference: Summary
    p_value: float  # two-sided sign-flip permutation test


def summarise(values: np.ndarray, seed: int = 0, level: float = 0.95) -> Summary:
    """Mean, standard deviation and bias-corrected bootstrap interval of the mean.

    Fewer than six values have no interval. A bootstrap's interval lies between the least and the
    largest value. For n values from a symmetric law that range holds the mean with a probability of
    1 − 2^(1 − n) only: 50 % for 2, 75 % for 3, 93.75 % for 5. Six are the first to pass 95 %. Six
    are also the fewest of which a sign-flip test can have p < .05.

    Args:
      values: float `[n]`.
      seed: of the resamples.
      level: confidence level.

    Raises:
      InputError: no values, or some are not finite.
    """
    values = _checked(values, "values")
    num, mean = len(values), float(values.mean())
    # Equal values, rounding apart, have no spread, and their resamples are all equal.
    are_equal = bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
    spread = 0.0 if are_equal else float(values.std(ddof=1))
    if num < MIN_UNITS:
        return Summary(num, mean, spread if num > 1 else float("nan"), float("nan"), float("nan"))
    if are_equal:
        return Summary(num, mean, spread, float(values[0]), float(values[0]))
    interval = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=NUM_RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Summary(num, mean, spread, float(interval.low), float(interval.high))


class ReliabilityBin(NamedTuple):
    """Predictions of like confidence, and how often they are right."""

    num: int
    confidence: float  # mean probability that was given to them
    share: float  # of them that are right
    interval: tuple[float, float]  # of the share, 95 %, each cluster counted once


def reliability(
    confidence: np.ndarray,
    is_right: np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    num_bins: int = 10,
) -> list[ReliabilityBin]:
    """Predictions in bins of equal width by their confidence; bins that hold none are left out.

    Args:
      confidence: `[n]`, the probability that each prediction was given, from 0 to 1.
      is_right: bool `[n]`.
      clusters: n names of what is right or wrong together, such as a claim and its opposite; None
        where every prediction is one of its own.

    Raises:
      InputError: no predictions, or probabilities that are none.
    """
    confidence = _checked(confidence, "confidence")
    if confidence.min() < 0 or confidence.max() > 1 + 1e-5:
        found = f"{confidence.min()} to {confidence.max()}"
        rule, remedy = "A confidence is from 0 to 1.", "give probabilities"
        raise InputError(Fault(rule, found, "confidence", remedy))
    index = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    names = range(len(confidence)) if clusters is None else clusters
    bins = []
    for number in np.unique(index):
        members = np.flatnonzero(index == number)
        share = float(np.mean(np.asarray(is_right, bool)[members]))
        num_clusters = len({names[member] for member in members.tolist()})
        mean = float(confidence[members].mean())
        bins.append(ReliabilityBin(len(members), mean, share, share_interval(share, num_clusters)))
    return bins


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: the mean of |share right − confidence| over all predictions.

    Of equal bins, weighed by what they hold (Guo et al., arXiv:1706.04599).
    """
    total = sum(each.num for each in bins)
    return sum(each.num * abs(each.share - each.confidence) for each in bins) / total


def share_interval(share: float, num: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson interval of a probability, from the share of n independent units that have it.

    It keeps within 0 and 1, and has a length where all units agree (Wilson 1927).

    Args:
      share: from 0 to 1; not only multiples of 1/n, so that units may count in part.
      num: n, 1 or more.
      level: confidence level.

    Raises:
      InputError: a share outside of 0 and 1, or fewer than one unit.
    """
    if not 0 <= share <= 1 or num < 1:
        rule, remedy = "A share is from 0 to 1, of one unit or more.", "count again"
        raise InputError(Fault(rule, f"{share} of {num} units", "share, num", remedy))
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    reach = z / (1 + z**2 / num) * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def compare_paired(first: np.ndarray, second: np.ndarray, seed: int = 0) -> PairedComparison:
    """Compares two conditions measured on the same units.

    Args:
      first, second: float `[n]`, entry k of both from the same unit, units independent of one
        another: personas, rather than the seeds of one (see `cluster_means`).
      seed: of the resamples.

    Returns:
      The differences first − second with their interval, and the two-sided p-value of a
      permutation test that flips their signs (exact where 2^n is at most the resamples).

    Raises:
      InputError: samples of different sizes, of fewer than two units, or not finite.
    """
    first, second = _checked(first, "first"), _checked(second, "second")
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            Fault(
                "A paired comparison has two values for each of at least two units.",
                f"{len(first)} and {len(second)} values",
                "first, second",
                "measure both conditions on the same units",
            )
        )
    # Rounding of means must not pass for a difference, whose sign alone the test may go by.
    first = np.where(np.isclose(first, second, rtol=1e-12, atol=1e-15), second, first)
    differences = first - second
    test = scipy.stats.permutation_test(
        (first, second),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=NUM_RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return PairedComparison(summarise(differences, seed), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for all comparisons of a table (Holm 1979): float `[n]` → `[n]`.

    Rejecting where the adjusted value is at most α keeps the chance of any false rejection at α.
    """
    values = _checked(np.asarray(p_values, np.float64), "p_values")
    order = np.argsort(values)
    stepped = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def units_needed(mean: float, spread: float, power: float = 0.8, level: float = 0.05) -> float:
    """How many units a paired two-sided t-test needs to see such a difference.

    Args:
      mean, spread: of the paired differences; the spread is their standard deviation.
      power: chance of a p-value below `level` with so many units.

    Returns:
      A whole number as float, from 2 to `MAX_UNITS`; inf where more are needed.

    Raises:
      InputError: a number that is not finite, or a spread below 0.
    """
    _checked(np.array([mean, spread]), "mean, spread")
    if spread < 0:
        fault = Fault("A spread is at least 0.", f"{spread}", "spread", "give its absolute value")
        raise InputError(fault)
    quantiles = scipy.stats.norm.ppf(1 - level / 2) + scipy.stats.norm.ppf(power)
    # Compared without a quotient, which overflows for a tiny spread.
    if abs(mean) * MAX_UNITS**0.5 <= quantiles * spread:
        return float("inf")
    is_huge = abs(mean) >= HUGE_EFFECT * spread
    effect = HUGE_EFFECT if is_huge else abs(mean) / spread

    def reaches(num: int) -> bool:
        critical = scipy.stats.t.ppf(1 - level / 2, num - 1)
        shift = effect * num**0.5
        # The far tail, on the other side of zero, comes as NaN where it underflows.
        far_tail = np.nan_to_num(scipy.stats.nct.cdf(-critical, num - 1, shift))
        return bool(scipy.stats.nct.sf(critical, num - 1, shift) + far_tail >= power)

    # The power rises with n, and the normal approximation is a little too small.
    low, high = 1, 2 * math.ceil((quantiles / effect) ** 2) + 8
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle > 1 and reaches(middle) else (middle, high)
    return float(high)


def cluster_means(values: Sequence[float], clusters: Sequence[Hashable]) -> np.ndarray:
    """The mean over each cluster's values: float64 `[clusters]`, in order of first appearance.

    Values of one cluster (a group's seeds) are alike; taken for independent units they would make
    intervals too narrow. So the cluster is the unit: it is averaged before anything is tested.

    Args:
      values: `[n]`.
      clusters: n names, equal within a cluster.

    Raises:
      InputError: no values, some are not finite, or not every value has its cluster.
    """
    checked = _checked(np.asarray(values, np.float64), "values")
    if len(clusters) != len(checked):
        found = f"{len(checked)} values, {len(clusters)} clusters"
        rule, remedy = "Every value is of one cluster.", "give as many names as values"
        raise InputError(Fault(rule, found, "clusters", remedy))
    names = list(dict.fromkeys(clusters))
    index = np.array([names.index(name) for name in clusters])
    return np.array([checked[index == position].mean() for position in range(len(names))])


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        found = f"shape {values.shape}, {int((~np.isfinite(values)).sum())} not finite"
        raise InputError(Fault("A sample is a list of finite numbers.", found, name, "mend it"))
    return values
