"""Intervals and verdicts on data with known answers."""

import numpy as np
import pytest

from distill_utils.significance import compare, mean_interval, retention_interval


def scores(mean, n=1000, seed=0):
    return np.random.default_rng(seed).normal(mean, 10, n)


def test_interval_of_a_mean_is_the_normal_one():
    values = scores(30)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.06)
    assert high == pytest.approx(values.mean() + half, abs=0.06)


def test_pairing_sees_a_small_constant_difference():
    base, noise = scores(30), scores(0, seed=1) / 20
    verdict = compare("a", "b", "rougeL", base + 0.5 + noise, base)
    assert verdict.verdict == "BEATS" and verdict.ci[0] > 0.4
    assert compare("b", "a", "rougeL", base, base + 0.5 + noise).verdict == "NO BEATS"


def test_noise_alone_is_inconclusive():
    verdict = compare("a", "b", "rougeL", scores(30, seed=3), scores(30, seed=4))
    assert verdict.verdict == "INCONCLUSIVE" and verdict.ci[0] < 0 < verdict.ci[1]


def test_the_same_system_twice_is_no_difference():
    verdict = compare("a", "a", "rougeL", scores(30), scores(30))
    assert verdict.delta == 0 and verdict.ci == (0, 0) and verdict.verdict == "INCONCLUSIVE"


def test_retention():
    teacher = np.abs(scores(30))
    low, high = retention_interval(0.9 * teacher, teacher)
    assert low == pytest.approx(0.9) and high == pytest.approx(0.9)
    low, high = retention_interval(np.abs(scores(27, seed=5)), teacher)
    assert low < 0.9 < high and high - low < 0.1


def test_intervals_repeat():
    assert mean_interval(scores(30)) == mean_interval(scores(30))


@pytest.mark.parametrize("values", [np.zeros(5), np.array([3.0])])
def test_nothing_to_resample(values):
    assert mean_interval(values) == (values.mean(), values.mean())


def test_retention_on_a_handful_of_examples():
    """Some resamples hold only examples in which the teacher scores nothing; they have no ratio."""
    teacher = np.array([10.0, 10, 10, 0, 28.6])
    low, high = retention_interval(1.5 * teacher, teacher)
    assert (low, high) == pytest.approx((1.5, 1.5))
    assert retention_interval(np.ones(2), np.array([0.0, 1])) is None, "a quarter of the resamples has no ratio"
    assert retention_interval(np.ones(3), np.zeros(3)) is None
