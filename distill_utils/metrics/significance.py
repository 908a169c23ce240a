"""Compute paired intervals and Holm-corrected comparisons from per-example scores.

Scores are ``(examples,)``, or ``(seeds, examples)`` for a system trained with several seeds. Intervals of a
mean, a retention and a gain are percentile bootstrap intervals over the examples (``scipy.stats.bootstrap``).
Intervals of a difference are Student's t intervals of the paired differences, so that no verdict depends on
a draw.

With several seeds, both cover the seed variance. It is assumed to be normal, and equal in the systems that
are named as alike, so its estimate is pooled over them. The variance between the seeds' means replaces that
part of the examples' variance that differs between seeds, which it contains. Each of the two variances has
its own quantile of Student's t (Banerjee 1961): the level of the interval is at least the nominal one. With
one seed per system, an interval covers the choice of test pairs alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import bootstrap, norm
from scipy.stats import t as student_t

RESAMPLES = 10_000
LEVEL = 0.05
#: Smaller probabilities are not told apart.
SMALLEST = 1e-100
#: Smaller differences of two scores, in points, are rounding errors.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """Whether system ``a`` is better than system ``b``: ``delta`` = mean(a) − mean(b).

    ``ci`` is the 95 % interval of this comparison alone. ``family_ci`` is the family-wise 95 % interval
    (Holm), which decides the verdict. ``comparisons`` is the family's size.
    """

    a: str
    b: str
    metric: str
    delta: float
    ci: tuple[float, float]
    verdict: str
    family_ci: tuple[float, float]
    comparisons: int = 1

    def as_dict(self) -> dict:
        return {**asdict(self), "ci": list(self.ci), "family_ci": list(self.family_ci)}


def mean_interval(scores: np.ndarray, seed: int = 0, alike: Sequence[np.ndarray] = ()) -> tuple[float, float]:
    """Return the 95 % interval of the mean; ``alike``: more systems with the same seed variance."""
    return _interval((scores,), _mean, _distribution((scores,), _mean, seed), alike)


def retention_interval(
    student: np.ndarray, teacher: np.ndarray, seed: int = 0, alike: Sequence[np.ndarray] = ()
) -> tuple[float, float] | None:
    """Return the paired 95 % interval of mean(student) ÷ mean(teacher).

    It is None if the teacher's mean is 0 over all examples or in more than 1 % of the resamples, as
    happens with few examples.
    """
    if not np.any(teacher):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # resamples in which the teacher scores 0 are counted below
        ratios = _distribution((student, teacher), _ratio, seed)
    finite = ratios[np.isfinite(ratios)]
    if len(finite) < 0.99 * len(ratios):
        return None
    low, high = _interval((student, teacher), _ratio, finite, alike)
    return max(0.0, low), high  # a share of ROUGE is not negative


def gain_interval(
    student: np.ndarray, teacher: np.ndarray, baseline: np.ndarray, seed: int = 0, alike: Sequence[np.ndarray] = ()
) -> tuple[float, float] | None:
    """Return the paired 95 % interval of (student − baseline) ÷ (teacher − baseline), of the means.

    It is None unless the teacher's lead is positive in all but 0.1 % of the resamples: a quotient whose denominator
    may be 0 has no bounded interval (Fieller 1954).
    """
    if np.mean(teacher) <= np.mean(baseline):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # resamples without a lead are counted below
        inverse, gains = (
            _distribution((student, teacher, baseline), statistic, seed) for statistic in (_inverse_lead, _gain)
        )
    leads = np.isfinite(inverse) & (inverse > 0)
    return _interval((student, teacher, baseline), _gain, gains[leads], alike) if leads.mean() >= 0.999 else None


def percentile_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Return a statistic of paired samples, each ``(examples,)``, and its 95 % percentile bootstrap interval.

    The bounds are values of the statistic, not interpolated.

    Args:
        statistic: takes the samples and ``axis``, the examples' axis.
    """
    low, high = np.percentile(
        _distribution(samples, statistic, seed), [50 * LEVEL, 100 - 50 * LEVEL], method="inverted_cdf"
    )
    return float(statistic(*samples)), (float(low), float(high))


def compare(a: str, b: str, metric: str, scores_a: np.ndarray, scores_b: np.ndarray) -> Verdict:
    """Compare two systems: BEATS if the interval of the difference lies above 0, NO BEATS if below, else INCONCLUSIVE.

    One pair of examples decides nothing.
    """
    return _holm([(a, b)], metric, [difference(scores_a, scores_b)])[0]


def compare_all(
    pairs: Sequence[tuple[str, str]],
    metric: str,
    scores: Mapping[str, np.ndarray],
    unlike: Collection[str] = (),
    pool: Sequence[np.ndarray] | None = None,
) -> list[Verdict]:
    """Return the verdicts of a family of comparisons, in the order of ``pairs``, with Holm's correction (Holm 1979).

    The most significant of m differences is judged by its 1 − 0.05/m interval, the next by its
    1 − 0.05/(m−1) interval and so on. The first interval that contains 0 ends the procedure: the
    remaining differences are not significant and have intervals of that level.

    The seed variance is pooled over the family, but for the systems ``unlike`` the others; a comparison with one of
    those has the variance of its two systems. With ``pool``, it is that of these scores alone.
    """
    names = dict.fromkeys(name for pair in pairs for name in pair)
    alike = [scores[name] for name in names if name not in unlike]
    found = [difference(scores[a], scores[b], () if {a, b} & {*unlike} else alike, pool=pool) for a, b in pairs]
    return _holm(pairs, metric, found)


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate in two parts, each with its degrees of freedom: of the examples and of the seeds."""

    examples: float
    examples_freedom: int
    seeds: float = 0.0
    seeds_freedom: int = 1

    @property
    def error(self) -> float:
        return (self.examples + self.seeds) ** 0.5

    def half(self, level: float) -> float:
        """Return half the width of the 1 − ``level`` interval."""
        parts = ((self.examples, self.examples_freedom), (self.seeds, self.seeds_freedom))
        return math.hypot(*(v**0.5 * float(student_t.isf(level / 2, freedom)) for v, freedom in parts if v))


@dataclass(frozen=True)
class Difference:
    """A difference of two means; ``spread`` is None if there is one example, which decides nothing."""

    delta: float
    spread: Spread | None

    @property
    def p(self) -> float:
        """The probability of a difference as large, in either direction, if there is none."""
        if self.spread is None or not self.delta:
            return 1.0
        if self.spread.half(SMALLEST) <= abs(self.delta):
            return SMALLEST
        power = brentq(lambda power: self.spread.half(10**power) - abs(self.delta), math.log10(SMALLEST), 0)
        return float(10**power)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the 1 − ``level`` interval."""
        if self.spread is None:
            return min(self.delta, 0.0), max(self.delta, 0.0)
        half = self.spread.half(level)
        return self.delta - half, self.delta + half


def difference(
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    alike: Sequence[np.ndarray] = (),
    pool: Sequence[np.ndarray] | None = None,
) -> Difference:
    """Return the paired difference mean(a) − mean(b).

    Args:
        alike: more systems with the same seed variance.
        pool: the systems that the seed variance is estimated from, in place of the two and ``alike``.
    """
    a, b = (np.atleast_2d(np.asarray(s, float)) for s in (scores_a, scores_b))
    apart = a.mean(0) - b.mean(0)
    apart[np.abs(apart) < ROUNDING] = 0
    examples = len(apart)
    if examples < 2:
        return Difference(float(apart.mean()), None)
    shares = [1 / len(s) if len(s) > 1 else 0.0 for s in (a, b)]
    own = float(apart.var(ddof=1)) / examples
    pool = [*alike, a, b] if pool is None else pool
    return Difference(float(apart.mean()), _with_seeds(own, examples, sum(shares), pool))


def _holm(pairs: Sequence[tuple[str, str]], metric: str, found: Sequence[Difference]) -> list[Verdict]:
    order = sorted(range(len(pairs)), key=lambda i: (found[i].p, -abs(found[i].delta)))
    verdicts: list[Verdict | None] = [None] * len(pairs)
    left, ended = len(pairs), False
    for i in order:
        low, high = found[i].interval(LEVEL / left)
        if ended:
            low, high = min(low, 0.0), max(high, 0.0)
        word = "BEATS" if low > 0 else "NO BEATS" if high < 0 else "INCONCLUSIVE"
        verdicts[i] = Verdict(
            *pairs[i], metric, found[i].delta, found[i].interval(LEVEL), word, (low, high), len(pairs)
        )
        ended = ended or word == "INCONCLUSIVE"
        left -= not ended
    return verdicts


def visible_difference(scores_a: np.ndarray, scores_b: np.ndarray) -> float:
    """Return the minimum detectable difference (80 % power): 2.8 standard errors."""
    spread = difference(scores_a, scores_b).spread
    return 2.8 * spread.error if spread else 0.0


def _with_seeds(own: float, examples: int, share: float, pool: Sequence[np.ndarray]) -> Spread:
    """Add the seed variance to the variance ``own`` of ``examples``.

    Args:
        share: sum over the systems with several seeds of squared slope ÷ seeds.
        pool: the systems that the seed variance is estimated from; one that is there twice counts once.
    """
    each = {id(s): np.asarray(s, float) for s in pool}
    several = [s for s in each.values() if s.ndim > 1 and len(s) > 1]
    if not share or not several:
        return Spread(own, examples - 1)
    freedom = np.array([len(s) - 1 for s in several])
    between, within = (float(np.average(v, weights=freedom)) for v in zip(*map(_variances, several), strict=True))
    return Spread(max(0.0, own - share * within), examples - 1, share * between, int(freedom.sum()))


def _variances(scores: np.ndarray) -> tuple[float, float]:
    """Return the variance of the seeds' means, and the part of it that comes from the examples."""
    seeds, examples = scores.shape
    own = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    within = (own**2).sum() / max(1, (seeds - 1) * (examples - 1))
    return float(scores.mean(1).var(ddof=1)), float(within / examples)


def _interval(
    samples: Sequence[np.ndarray], statistic: Callable, distribution: np.ndarray, alike: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Return the 95 % percentile interval; several seeds stretch it about the estimate.

    The factor is the ratio of the normal intervals with and without seed variance (by the delta method).
    """
    low, high = _percentiles(distribution, LEVEL)
    systems = [np.atleast_2d(np.asarray(s, float)) for s in samples]
    if all(len(s) == 1 for s in systems):
        return low, high
    means, own = [s.mean() for s in systems], float(np.var(distribution))
    estimate = float(statistic(*(np.array([m]) for m in means)))
    share = sum(_slope(statistic, means, i) ** 2 / len(s) for i, s in enumerate(systems) if len(s) > 1)
    half = _with_seeds(own, systems[0].shape[1], share, [*alike, *systems]).half(LEVEL)
    if not own:  # no example differs from another
        return estimate - half, estimate + half
    factor = half / (float(norm.isf(LEVEL / 2)) * own**0.5)
    return estimate + factor * (low - estimate), estimate + factor * (high - estimate)


def _slope(statistic: Callable, means: Sequence[float], i: int) -> float:
    """Return the derivative of the statistic with respect to one system's mean."""
    step = 1e-4 * max(1.0, abs(means[i]))
    up, down = ([np.array([m + sign * step * (j == i)]) for j, m in enumerate(means)] for sign in (1, -1))
    return float((statistic(*up) - statistic(*down)) / (2 * step))


def _percentiles(distribution: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(distribution, [50 * level, 100 - 50 * level])
    return float(low), float(high)


def _distribution(samples: Sequence[np.ndarray], statistic: Callable, seed: int) -> np.ndarray:
    """Return the statistic of every resample, ``(RESAMPLES,)``, or of the samples if they are constant, ``(1,)``."""
    samples = tuple(np.atleast_2d(np.asarray(s, float)).mean(0) for s in samples)
    if len(samples[0]) < 2 or all(np.ptp(s) == 0 for s in samples):
        return np.array([float(statistic(*samples))])
    result = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=1000, paired=True, vectorized=True, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return result.bootstrap_distribution


def _mean(scores, axis=-1):
    return np.mean(scores, axis=axis)


def _difference(a, b, axis=-1):
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


def _ratio(a, b, axis=-1):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(a, axis=axis) / np.mean(b, axis=axis)


def _gain(student, teacher, baseline, axis=-1):
    with np.errstate(divide="ignore", invalid="ignore"):
        return _difference(student, baseline, axis) / _difference(teacher, baseline, axis)


def _inverse_lead(student, teacher, baseline, axis=-1):
    with np.errstate(divide="ignore"):
        return 1 / _difference(teacher, baseline, axis)
