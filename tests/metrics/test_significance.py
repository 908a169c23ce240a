"""Intervals and verdicts on data with known answers."""

import contextlib

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from distill_utils.metrics import significance
from distill_utils.metrics.significance import (
    compare,
    compare_all,
    difference,
    gain_interval,
    mean_interval,
    retention_interval,
    visible_difference,
)
from tests.helpers.properties import examples, lists


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


def test_gain_kept():
    """By hand: a student halfway between baseline and teacher on every example keeps half of the gain."""
    teacher, baseline = np.abs(scores(30)) + 5, np.abs(scores(20, seed=7))
    assert gain_interval((teacher + baseline) / 2, teacher, baseline) == pytest.approx((0.5, 0.5))
    assert gain_interval(teacher, teacher, baseline) == pytest.approx((1, 1))
    assert gain_interval(baseline, teacher, baseline) == pytest.approx((0, 0))
    student = np.abs(scores(27, seed=5))
    low, high = gain_interval(student, teacher, baseline)
    kept = (student.mean() - baseline.mean()) / (teacher.mean() - baseline.mean())
    assert low < kept < high
    narrow = retention_interval(student, teacher)
    assert high - low > narrow[1] - narrow[0], "a share of the gain is harder to know than one of the score"


def test_no_gain_to_keep_has_no_interval():
    """Undefined where the teacher is not better than the baseline beyond chance."""
    teacher = np.abs(scores(30))
    assert gain_interval(teacher, teacher, teacher) is None
    assert gain_interval(teacher, teacher, teacher + 3) is None
    assert gain_interval(teacher, teacher, np.abs(scores(30, seed=8))) is None
    few = np.array([9.0, 8, 7, 6, 0, 0, 0, 0, 0])  # some resamples hold no lead at all
    assert gain_interval(few, few, np.zeros(9)) is None and gain_interval(few / 2, few, np.zeros(9)) is None
    seeds = np.stack([teacher, teacher + 1])
    low, high = gain_interval(seeds, teacher, teacher - 10)
    assert low < 1.05 < high


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


def coverage(seeds, luck, interval, truth, trials=1000, examples=600, one=False):
    """How often the interval of two systems with true means 31 and 30 holds the truth, in percent; ``one``: the second has one seed."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(trials):
        hard = rng.normal(0, 10, examples)
        a, b = (trained(rng, mean, np.arange(examples), seeds, hard, luck) for mean in (31.0, 30.0))
        if one:
            b = trained(rng, 30.0, np.arange(examples), 1, hard, 0.0)[0]
        low, high = interval(a, b)
        held += low <= truth <= high
    return 100 * held / trials


@pytest.mark.parametrize(
    ("seeds", "luck"), [(1, 0.0), *((3, luck) for luck in (0.0, 0.1, 0.2, 0.5, 1.0)), (5, 0.0), (5, 0.5)]
)
def test_a_difference_is_covered(seeds, luck):
    """Over the whole range of the seeds' standard deviation; the examples' is 0.2 to 0.3 here."""
    assert 93 <= coverage(seeds, luck, lambda a, b: difference(a, b).interval(0.05), 1.0) <= 97


@pytest.mark.parametrize("level", [0.05 / 40, 0.05 / 5])
def test_a_familys_wide_interval_is_covered(level):
    missed = 100 - coverage(3, 0.2, lambda a, b: difference(a, b).interval(level), 1.0, trials=4000)
    assert missed <= 2 * 100 * level + 0.1


@pytest.mark.parametrize("luck", [0.0, 0.2, 0.5, 1.0])
def test_a_mean_a_retention_and_a_gain_are_covered(luck, monkeypatch):
    monkeypatch.setattr(significance, "RESAMPLES", 600)
    settings = {"trials": 600, "examples": 300, "one": True}
    assert 92 <= coverage(3, luck, lambda a, b: mean_interval(a), 31, **settings) <= 98
    assert 92 <= coverage(3, luck, lambda a, b: retention_interval(a, b), 31 / 30, **settings) <= 98

    def gain(a, b):
        return gain_interval(a, b + 10, np.full(len(b), 20.0))

    assert 92 <= coverage(3, luck, gain, 11 / 20, **settings) <= 98


def test_an_interval_by_scipy_is_covered(monkeypatch):
    monkeypatch.setattr(significance, "RESAMPLES", 1000)
    rng, held = np.random.default_rng(2), 0
    for _ in range(1000):
        low, high = mean_interval(rng.exponential(10, 200))
        held += low <= 10 <= high
    assert 930 <= held <= 970


def test_no_draw_moves_a_bound():
    """40 comparisons need the last 0.06 % of each tail, where a bootstrap has six of 10,000 resamples."""
    a, b = np.abs(scores(30)), np.abs(scores(29, seed=1))
    pairs = [(f"a{i}", "b") for i in range(40)]
    table = {"b": b} | {f"a{i}": a + i / 100 for i in range(40)}
    assert compare_all(pairs, "rougeL", table) == compare_all(pairs, "rougeL", table)
    bounds = np.array([mean_interval(a, seed) for seed in range(8)])
    assert np.ptp(bounds, axis=0).max() < 0.05, "nor of a mean, by much"


def test_a_difference_by_hand():
    """Differences 1, 2 and 6: mean 3, standard error √(7 / 3), t of 4.303 with two degrees of freedom."""
    found = difference(np.array([11.0, 22, 36]), np.array([10.0, 20, 30]))
    assert (found.delta, found.spread.error) == pytest.approx((3, (7 / 3) ** 0.5))
    assert found.interval(0.05) == pytest.approx((3 - 4.3027 * (7 / 3) ** 0.5, 3 + 4.3027 * (7 / 3) ** 0.5), rel=1e-4)
    assert found.p == pytest.approx(0.1881, abs=1e-3)


def test_the_variance_of_the_seeds_by_hand():
    """Two seeds 2 apart on every example: their variance is 2, none of it from the examples; half of it for a mean of two."""
    base = np.array([10.0, 20, 60])
    found = difference(np.stack([base, base + 2]), base)
    assert found.delta == pytest.approx(1) and found.spread.error == pytest.approx(1)
    assert found.interval(0.05)[1] == pytest.approx(1 + 12.706, rel=1e-3), "Student's t with one degree of freedom"
    low, high = mean_interval(np.stack([base, base + 2]))
    assert high - low > 2 * 12.7
    alike = [np.stack([base, base + 2])] * 1 + [np.stack([base, base - 2, base]), np.stack([base, base + 2])]
    pooled = difference(np.stack([base, base + 2]), base, alike)  # four seeds' and three's variances: 2, 2, 2 and 4 / 3
    assert pooled.spread.seeds == pytest.approx((2 + 2 + 2 + 2 * 4 / 3) / 5 / 2) and pooled.spread.seeds_freedom == 5


@pytest.mark.parametrize("errors", [0.5, 3, 10, 20, 1e3, 1e9])
def test_any_difference_has_a_probability(errors):
    base, noise = scores(0), scores(0, seed=1)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    found = difference(base + noise + errors / np.sqrt(1000), base)
    wanted = 2 * scipy.stats.t.sf(errors, 999)
    assert found.p == pytest.approx(max(wanted, significance.SMALLEST), rel=1e-3)


def test_a_system_whose_seeds_differ_far_more_does_not_blur_the_others():
    base = scores(30)
    calm = {name: base + ahead + np.array([[-0.1], [0.0], [0.1]]) for name, ahead in (("a", 1.0), ("b", 0.0))}
    table = calm | {"moody": base + np.array([[-4.0], [0.0], [4.0]])}
    pairs = [("a", "b"), ("a", "moody")]
    assert [v.verdict for v in compare_all(pairs, "m", table)] == ["INCONCLUSIVE"] * 2
    alone, moody = compare_all(pairs, "m", table, unlike={"moody"})
    assert alone.verdict == "BEATS" and moody.verdict == "INCONCLUSIVE"
    assert alone.ci == compare("a", "b", "m", table["a"], table["b"]).ci


def test_one_example_decides_nothing():
    verdict = compare("a", "b", "m", np.array([9.0]), np.array([1.0]))
    assert verdict.verdict == "INCONCLUSIVE" and verdict.ci == (0, 8)


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
    for verdict in compare_all([("little", "base"), ("none", "base")], "rougeL", table):  # two at the same level
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
        found += difference(*draw(seen)).interval(0.05)[0] > 0
    assert 0.72 < found / 300 < 0.88


# -- properties, of scores of any kind ---------------------------------------------------------------------

SCORE = st.sampled_from([0.0, 28.6, 100 / 3, 100.0]) | st.floats(0, 100).map(lambda score: round(score, 3))


def systems(count, least=2, score=SCORE):
    """Scores ``(examples,)`` of so many systems on the same examples."""
    return lists(st.tuples(*[score] * count), least, 30).map(lambda found: list(np.array(found).T))


@st.composite
def with_seeds(draw):
    """Two systems, ``(examples,)`` or ``(seeds, examples)``, of seeds that differ or do not."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    count, luck = draw(st.integers(2, 30)), draw(st.sampled_from([0.0, 3.0]))
    base = rng.uniform(0, 100, count)
    return [
        base + rng.normal(0, 5, count) + luck * rng.normal(size=(draw(st.integers(1, 4)), 1)) * np.ones(count)
        for _ in range(2)
    ]


@contextlib.contextmanager
def few_resamples(count=400):
    """What holds for any number of resamples is shown with few."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(significance, "RESAMPLES", count)
        yield


def close(wanted):
    return pytest.approx(wanted, rel=1e-9, abs=1e-9)


def mirrored(interval):
    return (-interval[1], -interval[0])


@examples(60)
@given(systems(2), st.integers(0, 9))
def test_an_interval_holds_what_it_is_of_and_lies_within_the_scores(found, seed):
    with few_resamples():
        a, b = found
        low, high = mean_interval(a, seed)
        assert a.min() - 1e-9 <= low <= a.mean() + 1e-9 and a.mean() - 1e-9 <= high <= a.max() + 1e-9
        verdict = compare("a", "b", "m", a, b)
        assert verdict.ci[0] - 1e-9 <= verdict.delta <= verdict.ci[1] + 1e-9
        assert verdict.delta == close((a - b).mean())


@examples(60)
@given(systems(2) | with_seeds(), st.integers(0, 9))
def test_the_same_seed_gives_the_same_and_another_one_other_resamples(found, seed):
    with few_resamples():
        assert compare("a", "b", "m", *found) == compare("a", "b", "m", *found)
        assert mean_interval(found[0], seed) == mean_interval(found[0], seed)
        if all(np.unique(scores).size > 10 for scores in found):
            assert mean_interval(found[0], seed) != mean_interval(found[0], seed + 1)


@examples(60)
@given(systems(2) | with_seeds())
def test_exchanging_the_systems_mirrors_difference_interval_and_verdict(found):
    with few_resamples():
        there, back = compare("a", "b", "m", *found), compare("b", "a", "m", *found[::-1])
        assert back.delta == close(-there.delta) and back.ci == close(mirrored(there.ci))
        opposite = {"BEATS": "NO BEATS", "NO BEATS": "BEATS", "INCONCLUSIVE": "INCONCLUSIVE"}
        assert back.verdict == opposite[there.verdict]
        assert visible_difference(*found) == close(visible_difference(*found[::-1]))


@examples(60)
@given(systems(2), st.floats(-50, 50), st.floats(0.1, 10))
def test_shifted_and_scaled_scores_have_shifted_and_scaled_intervals(found, shift, scale):
    with few_resamples():
        a, b = found
        assert mean_interval(scale * a + shift) == close([scale * end + shift for end in mean_interval(a)])
        plain = compare("a", "b", "m", a, b)
        both = compare("a", "b", "m", scale * a + shift, scale * b + shift)
        one = compare("a", "b", "m", a + shift, b)
        assert both.delta == close(scale * plain.delta) and both.ci == close([scale * end for end in plain.ci])
        assert one.delta == close(plain.delta + shift) and one.ci == close([end + shift for end in plain.ci])
        assert visible_difference(scale * a + shift, scale * b) == close(scale * visible_difference(a, b))


@examples(60)
@given(systems(2), st.integers(1, 4), st.integers(1, 4))
def test_equal_scores_are_never_told_apart(found, seeds, other_seeds):
    with few_resamples():
        a, _ = found
        for one, other in ((a, a), (np.stack([a] * seeds), np.stack([a] * other_seeds))):
            verdict = compare("a", "b", "m", one, other)
            assert verdict.verdict == "INCONCLUSIVE" and verdict.delta == close(0)
            assert verdict.ci == close((0, 0)) and verdict.family_ci == close((0, 0))


@examples(60)
@given(systems(2), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_changes_no_estimate(found, random):
    with few_resamples():
        a, b = found
        order = random.sample(range(len(a)), len(a))
        plain, moved = compare("a", "b", "m", a, b), compare("a", "b", "m", a[order], b[order])
        assert moved.delta == close(plain.delta)
        assert moved.ci == close(plain.ci)


NAMES = "abcd"
COMPARED = st.lists(st.sampled_from([(a, b) for a in NAMES for b in NAMES if a < b]), unique=True, min_size=1)
FAMILIES = systems(len(NAMES)) | st.tuples(systems(len(NAMES)), st.lists(st.floats(-9, 9), min_size=4, max_size=4)).map(
    lambda found: [found[0][0] + 0.1 * scores + ahead for scores, ahead in zip(*found, strict=True)]
)  # the second kind lies close together, so that some beat others


@examples(50)
@given(FAMILIES, COMPARED, COMPARED)
def test_more_comparisons_never_narrow_an_interval_or_turn_a_verdict_round(found, pairs, more):
    with few_resamples():
        table = dict(zip(NAMES, found, strict=True))
        few = {(v.a, v.b): v for v in compare_all(pairs, "m", table)}
        many = {(v.a, v.b): v for v in compare_all(list(dict.fromkeys(pairs + more)), "m", table)}
        for pair, verdict in few.items():
            (low, high), (wide_low, wide_high) = verdict.family_ci, many[pair].family_ci
            assert wide_low <= low and high <= wide_high
            assert many[pair].ci == verdict.ci and many[pair].delta == verdict.delta
            assert many[pair].verdict in (verdict.verdict, "INCONCLUSIVE")


@examples(50)
@given(FAMILIES, COMPARED, st.randoms(use_true_random=False))
def test_a_verdict_follows_its_interval_and_not_its_place_in_the_table(found, pairs, random):
    with few_resamples():
        table = dict(zip(NAMES, found, strict=True))
        verdicts = compare_all(pairs, "m", table)
        for verdict, pair in zip(verdicts, pairs, strict=True):
            (low, high), (own_low, own_high) = verdict.family_ci, verdict.ci
            assert (verdict.a, verdict.b, verdict.comparisons) == (*pair, len(pairs))
            assert low <= own_low <= own_high <= high
            assert verdict.verdict == ("BEATS" if low > 0 else "NO BEATS" if high < 0 else "INCONCLUSIVE")
        moved = {(v.a, v.b): v.verdict for v in compare_all(random.sample(pairs, len(pairs)), "m", table)}
        assert moved == {(v.a, v.b): v.verdict for v in verdicts}


@examples(50)
@given(FAMILIES, COMPARED)
def test_claims_are_made_one_after_the_other_each_at_the_level_of_as_many_as_are_left(found, pairs):
    """Holm's procedure as it is told: claim what is clear of 0 at 0.05 / left, until nothing is."""
    with few_resamples():
        table = dict(zip(NAMES, found, strict=True))

        def interval(pair, left):
            return difference(*(table[name] for name in pair)).interval(0.05 / left)

        left = set(pairs)
        while clear := [pair for pair in left if interval(pair, len(left))[0] > 0 or interval(pair, len(left))[1] < 0]:
            left.remove(clear[0])
        for verdict in compare_all(pairs, "m", table):
            pair = (verdict.a, verdict.b)
            assert (verdict.verdict == "INCONCLUSIVE") == (pair in left)
            low, high = verdict.family_ci
            own_low, own_high = interval(pair, max(1, len(left)))
            assert low <= own_low + 1e-9 and own_high - 1e-9 <= high, "no narrower than at the last level"
            assert verdict.ci == close(tuple(interval(pair, 1)))


@examples(60)
@given(systems(2, score=st.floats(1, 100)), st.floats(0.1, 10))
def test_retention_is_a_ratio(found, scale):
    with few_resamples():
        student, teacher = found
        assert retention_interval(teacher, teacher) == (1, 1)
        assert retention_interval(scale * teacher, teacher) == close((scale, scale))
        low, high = retention_interval(student, teacher)
        ratios = student / teacher
        assert ratios.min() - 1e-9 <= low <= student.mean() / teacher.mean() + 1e-9
        assert student.mean() / teacher.mean() - 1e-9 <= high <= ratios.max() + 1e-9
        assert retention_interval(scale * student, scale * teacher) == close((low, high))
        assert retention_interval(scale * student, teacher) == close((scale * low, scale * high))


@examples(60)
@given(systems(2), st.integers(0, 99))
def test_where_retention_has_an_interval_it_is_finite_and_not_below_0(found, seed):
    with few_resamples():
        interval = retention_interval(*found, seed)
        assert interval is None or 0 <= interval[0] <= interval[1] < np.inf
        assert interval is not None or (found[1] == 0).mean() > 0.1, "rarely does a teacher score nothing"


@examples(40)
@given(with_seeds(), st.floats(-50, 50))
def test_with_several_seeds_too_a_constant_moves_the_interval(found, shift):
    with few_resamples():
        a, b = found
        plain, moved = compare("a", "b", "m", a, b), compare("a", "b", "m", a + shift, b)
        assert moved.delta == close(plain.delta + shift)
        assert moved.ci == pytest.approx([end + shift for end in plain.ci], abs=1e-6)
        assert plain.ci[0] <= plain.delta <= plain.ci[1]
        assert visible_difference(a, b) >= 0
