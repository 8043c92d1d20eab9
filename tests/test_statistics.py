"""Intervals and paired tests."""

import numpy as np
import pytest
from scipy import stats

from icmjax.errors import InputError
from icmjax.statistics import (
    MAX_UNITS,
    MIN_UNITS,
    cluster_means,
    compare_paired,
    holm,
    share_interval,
    summarise,
    units_needed,
)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    # 200 samples of 20 normals: coverage is Binomial(200, ~0.93) for a bootstrap of this size; a
    # false alarm below 0.86 has probability under 1e-3.
    rng = np.random.default_rng(0)
    summaries = [summarise(rng.normal(1.0, 2.0, 20)) for _ in range(200)]
    coverage = np.mean([summary.low <= 1.0 <= summary.high for summary in summaries])
    assert 0.86 <= coverage < 1.0


def test_the_paired_test_is_the_exact_sign_flip_test_for_few_units():
    first, second = np.array([0.9, 0.8, 0.7, 0.95]), np.array([0.5, 0.7, 0.6, 0.9])
    differences = first - second
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    means = (signs * differences).mean(1)
    expected = 2 * min(np.mean(means >= differences.mean() - 1e-12), 1)
    comparison = compare_paired(first, second)
    assert comparison.p_value == pytest.approx(expected)
    assert comparison.difference.mean == pytest.approx(differences.mean())


def test_equal_conditions_are_rarely_told_apart():
    # Under the null p is at least uniform: P(p <= 0.05) <= 0.05, and 60 tests give more than 9
    # rejections with probability under 1e-3.
    rng = np.random.default_rng(1)
    p_values = [compare_paired(*rng.normal(size=(2, 12))).p_value for _ in range(60)]
    assert sum(p <= 0.05 for p in p_values) <= stats.binom.isf(1e-3, 60, 0.05) + 1


def test_rounding_is_no_difference():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 1.0, 20)
    comparison = compare_paired(np.nextafter(first, 2.0), first)
    assert comparison.p_value == 1.0
    assert comparison.difference.mean == 0.0


def test_equal_values_have_no_spread_and_a_single_value_has_none():
    assert summarise(np.full(6, 0.3))[1:] == (pytest.approx(0.3), 0.0, 0.3, 0.3)
    assert np.isnan(summarise(np.array([0.3])).low)
    rounded = np.nextafter(np.full(30, 100.0), 101.0 * (np.arange(30) % 2))
    assert summarise(rounded).low == pytest.approx(100.0)  # and no warning of degenerate data


@pytest.mark.parametrize("num", [2, 3, 4, 5])
def test_a_few_units_have_a_mean_and_no_interval(num):
    values = np.arange(num, dtype=float)
    found = summarise(values)
    assert found[:3] == (num, values.mean(), pytest.approx(values.std(ddof=1)))
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(summarise(np.ones(num)).low)
    assert np.isnan(compare_paired(values, values + 1).difference.low)


def test_the_fewest_units_of_an_interval_are_those_that_the_sign_flips_can_tell_apart():
    """Of n differences of one sign p is 2 / 2^n, and their range misses 0 as often."""
    zeros = np.zeros(MIN_UNITS)
    differences = np.arange(1.0, MIN_UNITS + 1)
    assert compare_paired(differences, zeros).p_value < 0.05
    assert compare_paired(differences[:-1], zeros[:-1]).p_value > 0.05
    assert np.isfinite(summarise(differences).low)
    assert np.isnan(summarise(differences[:-1]).low)


@pytest.mark.parametrize(("num_right", "num"), [(0, 1), (0, 20), (7, 20), (64, 64), (3, 1000)])
def test_the_interval_of_a_share_is_wilson_s(num_right, num):
    expected = stats.binomtest(num_right, num).proportion_ci(0.95, "wilson")
    found = share_interval(num_right / num, num)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found[0] < found[1] <= 1


@pytest.mark.parametrize(("share", "num"), [(1.1, 5), (-0.1, 5), (float("nan"), 5), (0.5, 0)])
def test_a_share_is_checked(share, num):
    with pytest.raises(InputError, match="A share is from 0 to 1"):
        share_interval(share, num)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_samples_are_checked(values):
    with pytest.raises(InputError, match="finite numbers"):
        summarise(np.array(values))


def test_pairs_must_match():
    with pytest.raises(InputError, match="same units"):
        compare_paired(np.ones(3), np.ones(4))


def test_holm_steps_down():
    # By hand: 0.01 * 4, then max(0.04, 0.02 * 3), then max(0.06, 0.03 * 2), then 0.5 * 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4]) == [0.4]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(InputError):
        holm([0.1, float("nan")])


def test_units_needed_reach_the_power():
    needed = units_needed(0.05, 0.1)
    assert needed == 34
    rng = np.random.default_rng(0)
    samples = rng.normal(0.05, 0.1, (4000, int(needed)))
    power = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean()
    assert 0.77 < power < 0.83  # 4.7 standard errors of 4000 trials on either side
    assert units_needed(-0.05, 0.1) == needed
    assert units_needed(0.05, 0.1, power=0.95) > needed
    assert units_needed(0.05, 0.1, level=0.01) > needed
    assert units_needed(0.0, 0.1) == float("inf")
    assert units_needed(0.1, 0.0) == 2


@pytest.mark.parametrize(
    ("mean", "spread", "expected"),
    [
        (1e-12, 0.1, float("inf")),
        (0.05, 1e-17, 2),
        (0.05, 5e-324, 2),
        (1e-300, 1e300, float("inf")),
        (0.0, 0.0, float("inf")),
    ],
)
def test_units_needed_of_extreme_differences(mean, spread, expected):
    assert units_needed(mean, spread) == expected


def test_units_needed_rise_with_the_spread_up_to_the_cap():
    needed = [units_needed(1.0, spread) for spread in np.geomspace(1e-3, 400, 60)]
    assert needed == sorted(needed)
    assert needed[0] == 2
    assert units_needed(1.0, 1.01 * MAX_UNITS**0.5) == float("inf")
    # Against the definition, one step below and at what it says.
    for num, spread in ((units_needed(1.0, 3.0), 3.0), (units_needed(1.0, 0.3), 0.3)):
        powers = []
        for size in (num - 1, num):
            critical, shift = stats.t.ppf(0.975, size - 1), size**0.5 / spread
            powers.append(stats.nct.sf(critical, size - 1, shift))
        assert powers[0] < 0.8 <= powers[1] + 1e-6


@pytest.mark.parametrize(("mean", "spread"), [(0.1, -1.0), (float("nan"), 1.0)])
def test_units_needed_checks_its_numbers(mean, spread):
    with pytest.raises(InputError):
        units_needed(mean, spread)


def test_the_seeds_of_a_group_are_no_units():
    values, clusters = [1.0, 3.0, 10.0, 20.0], ["b", "a", "b", "a"]
    assert cluster_means(values, clusters).tolist() == [5.5, 11.5]
    # Ten equal seeds a group say no more than one: the interval must not shrink.
    rng = np.random.default_rng(0)
    groups = rng.normal(size=12)
    once = summarise(groups)
    tenfold = summarise(cluster_means(np.repeat(groups, 10), np.repeat(np.arange(12), 10).tolist()))
    assert tenfold.num == 12
    assert tenfold == pytest.approx(once)
    with pytest.raises(InputError, match="one cluster"):
        cluster_means(values, clusters[:3])
