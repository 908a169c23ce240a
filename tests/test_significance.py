"""Intervals and verdicts on data with known answers."""

import numpy as np
import pytest

from distill_utils import significance
from distill_utils.significance import (
    compare,
    compare_all,
    mean_interval,
    resampled_means,
    retention_interval,
    visible_difference,
)


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


# -- coverage: on synthetic data whose truth is known, a 95 % interval holds it in 95 of 100 cases ------------


def trained(rng, mean, examples, seeds, hard, luck):
    """Scores ``(seeds, examples)`` of a system: examples differ in how hard they are, seeds in their luck."""
    own = rng.normal(0, 4, (seeds, len(hard)))
    return mean + hard[examples] + own[:, examples] + luck * rng.normal(0, 1, (seeds, 1))


def coverage(seeds, luck, statistic, truth, trials=1000, examples=600):
    """How often the interval of ``statistic`` holds the truth, in percent."""
    rng, held = np.random.default_rng(1), 0
    for trial in range(trials):
        hard = rng.normal(0, 10, examples)
        systems = [trained(rng, mean, np.arange(examples), seeds, hard, luck) for mean in (31.0, 30.0)]
        means = resampled_means(systems, 1000, seed=trial)
        low, high = np.percentile(statistic(*means), [2.5, 97.5])
        held += low <= truth <= high
    return 100 * held / trials


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (3, 0.2), (3, 0.5), (5, 0.5)])
def test_a_difference_is_covered(seeds, luck):
    assert 93 <= coverage(seeds, luck, lambda a, b: a - b, 1.0) <= 97


def test_where_seeds_do_not_differ_intervals_are_a_little_wide():
    assert 95 <= coverage(3, 0.0, lambda a, b: a - b, 1.0) <= 99


def test_a_retention_is_covered():
    assert 93 <= coverage(3, 0.5, lambda a, b: a / b, 31 / 30) <= 97


def test_an_interval_by_scipy_is_covered(monkeypatch):
    monkeypatch.setattr(significance, "RESAMPLES", 1000)
    rng, held = np.random.default_rng(2), 0
    for _ in range(1000):
        low, high = mean_interval(rng.exponential(10, 200))
        held += low <= 10 <= high
    assert 930 <= held <= 970


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    base = rng.normal(30, 10, 1000)
    calm = np.stack([base + rng.normal(0, 0.1, 1000) for _ in range(3)])
    moody = calm + np.array([[-2.0], [0.0], [2.0]])
    assert compare("a", "b", "rougeL", calm + 0.5, base).verdict == "BEATS"
    assert compare("a", "b", "rougeL", moody + 0.5, base).verdict == "INCONCLUSIVE"
    assert visible_difference(moody, base) > 10 * visible_difference(calm, base)


def test_one_seed_in_a_list_is_one_seed():
    assert mean_interval(scores(30)[None]) == mean_interval(scores(30))


def test_examples_are_resampled_together_and_seeds_apart():
    base = scores(30)
    a, b = resampled_means([base + 1, base], 200)
    assert a - b == pytest.approx(np.ones(200))
    a, b = resampled_means([np.stack([base, base + 1, base + 2])] * 2, 2000)
    # Seeds 1 apart in standard deviation, four degrees of freedom: t times the standard error of two means of three.
    assert np.percentile(a - b, 97.5) == pytest.approx(2.776 * np.sqrt(2 / 3), rel=0.1)
    a, b = resampled_means([np.stack([base, base + 1, base + 2]), base], 2000)
    assert np.percentile(a - b, 97.5) == pytest.approx(1 + 4.303 * np.sqrt(1 / 3), rel=0.15), "two degrees"


def test_holms_correction_by_hand():
    """Three comparisons: 1 − 0.05/3, then 1 − 0.05/2, then the whole 95 %, as long as each is clear of 0."""
    rng = np.random.default_rng(0)
    n, base = 400, scores(30, 400)

    def ahead(errors):  # a difference so many standard errors above 0
        noise = rng.normal(0, 1, n)
        noise = (noise - noise.mean()) / noise.std()
        return base + noise + errors / np.sqrt(n)

    table = {"base": base, "clear": ahead(6), "some": ahead(2.3), "little": ahead(2.05), "none": ahead(0.1)}

    def words(*names):
        pairs = [(name, "base") for name in names]
        return [v.verdict for v in compare_all(pairs, "rougeL", table)]

    assert words("little") == words("some") == ["BEATS"], "z of 1.96 is enough for one"
    assert words("some", "clear", "little") == ["BEATS"] * 3, "6 > 2.39, 2.3 > 2.24 and 2.05 > 1.96"
    assert words("little", "clear", "none") == ["INCONCLUSIVE", "BEATS", "INCONCLUSIVE"], "2.05 < 2.24"
    assert words("some", "little") == ["BEATS", "BEATS"]
    assert words("little", "none") == ["INCONCLUSIVE"] * 2
    for verdict in compare_all([("little", "base"), ("none", "base")], "rougeL", table):
        assert verdict.family_ci[0] < verdict.ci[0] < verdict.ci[1] < verdict.family_ci[1] and verdict.comparisons == 2


def test_no_comparisons_are_no_verdicts():
    assert compare_all([], "rougeL", {}) == []


def test_a_difference_that_is_visible_is_found_four_times_in_five():
    rng = np.random.default_rng(3)

    def draw(ahead):
        base = rng.normal(30, 10, 300)
        return base + ahead + rng.normal(0, 5, 300), base

    seen = visible_difference(*draw(0.0))
    found = 0
    for _ in range(300):
        (a,), (b,) = ([m] for m in resampled_means(draw(seen), 500, seed=int(rng.integers(1 << 30))))
        found += np.percentile(a - b, 2.5) > 0
    assert 0.72 < found / 300 < 0.88
