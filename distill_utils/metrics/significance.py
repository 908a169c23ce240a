"""Compute paired bootstrap intervals and Holm-corrected comparisons from per-example scores.

Scores are ``(examples,)``, or ``(seeds, examples)`` for a system trained with several seeds. All
intervals are percentile bootstrap intervals over the examples, paired: each resample is the same for
all systems (``scipy.stats.bootstrap``). With several seeds, :func:`resampled_means` adds the seed
variance.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 10_000
LEVEL = 0.05


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


def mean_interval(scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean."""
    return _percentiles(_distribution((scores,), _mean, seed), LEVEL)


def retention_interval(student: np.ndarray, teacher: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
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
    return _percentiles(finite, LEVEL) if len(finite) >= 0.99 * len(ratios) else None


def gain_interval(
    student: np.ndarray, teacher: np.ndarray, baseline: np.ndarray, seed: int = 0
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
    return _percentiles(gains[leads], LEVEL) if leads.mean() >= 0.999 else None


def compare(a: str, b: str, metric: str, scores_a: np.ndarray, scores_b: np.ndarray, seed: int = 0) -> Verdict:
    """Compare two systems: BEATS if the interval of the difference lies above 0, NO BEATS if below, else INCONCLUSIVE."""
    (verdict,) = compare_all([(a, b)], metric, {a: scores_a, b: scores_b}, seed)
    return verdict


def compare_all(
    pairs: Sequence[tuple[str, str]], metric: str, scores: Mapping[str, np.ndarray], seed: int = 0
) -> list[Verdict]:
    """Return the verdicts of a family of comparisons, in the order of ``pairs``, with Holm's correction (Holm 1979).

    The most significant of m differences is judged by its 1 − 0.05/m interval, the next by its
    1 − 0.05/(m−1) interval and so on. The first interval that contains 0 ends the procedure: the
    remaining differences are not significant and have intervals of that level.
    """
    spread = [_distribution((scores[a], scores[b]), _difference, seed) for a, b in pairs]
    half_p = [min((d <= 0).mean(), (d >= 0).mean()) for d in spread]
    order = sorted(
        range(len(pairs)), key=lambda i: (half_p[i], -abs(np.mean(spread[i]) / (np.std(spread[i]) or np.inf)))
    )
    verdicts: list[Verdict | None] = [None] * len(pairs)
    left, ended = len(pairs), False
    for i in order:
        a, b = pairs[i]
        low, high = _percentiles(spread[i], LEVEL / left)
        if ended:  # a later interval may exclude 0 by a few resamples
            low, high = min(low, 0.0), max(high, 0.0)
        word = "BEATS" if low > 0 else "NO BEATS" if high < 0 else "INCONCLUSIVE"
        delta = float(np.mean(scores[a]) - np.mean(scores[b]))
        verdicts[i] = Verdict(a, b, metric, delta, _percentiles(spread[i], LEVEL), word, (low, high), len(pairs))
        ended = ended or word == "INCONCLUSIVE"
        left -= not ended
    return verdicts


def visible_difference(scores_a: np.ndarray, scores_b: np.ndarray, seed: int = 0) -> float:
    """Return the minimum detectable difference (80 % power): 2.8 standard errors; a 95 % interval is 3.92 wide."""
    low, high = _percentiles(_distribution((scores_a, scores_b), _difference, seed), LEVEL)
    return 2.8 / 3.92 * (high - low)


def _percentiles(distribution: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(distribution, [50 * level, 100 - 50 * level])
    return float(low), float(high)


def _distribution(samples: Sequence[np.ndarray], statistic: Callable, seed: int) -> np.ndarray:
    """Return the statistic of every resample, ``(RESAMPLES,)``, or of the samples if they are constant, ``(1,)``."""
    samples = [np.asarray(s, float) for s in samples]
    if all(s.ndim == 1 or len(s) == 1 for s in samples):
        samples = tuple(s.reshape(-1) for s in samples)
        if len(samples[0]) < 2 or all(np.ptp(s) == 0 for s in samples):
            return np.array([float(statistic(*samples))])
        result = bootstrap(
            samples, statistic, n_resamples=RESAMPLES, batch=1000, paired=True, vectorized=True, method="percentile",
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        return result.bootstrap_distribution
    means = resampled_means(samples, RESAMPLES, seed)
    return statistic(*(m[:, None] for m in means), axis=-1)


def resampled_means(samples: Sequence[np.ndarray], resamples: int, seed: int = 0) -> list[np.ndarray]:
    """Return each system's mean in every resample of the examples, plus a draw of the seed variance.

    Bootstrapping a few seeds would underestimate their variance. The effect of the seeds is therefore
    drawn from a normal distribution whose variance is itself drawn: the variance between the seeds'
    means beyond that of the examples, by the generalized pivot of a variance component (Weerahandi
    1993, "Generalized confidence intervals"), pooled over the systems with several seeds.

    Args:
        samples: ``(examples,)`` or ``(seeds, examples)`` of every system.

    Returns:
        ``(resamples,)`` for every system.
    """
    rng = np.random.default_rng(seed)
    samples = [np.atleast_2d(s) for s in samples]
    averaged = np.stack([s.mean(0) for s in samples])
    examples = averaged.shape[1]
    means = np.empty((resamples, len(samples)))
    for start in range(0, resamples, 500):
        stop = min(start + 500, resamples)
        drawn = rng.integers(0, examples, (stop - start, examples)) + examples * np.arange(stop - start)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=examples * (stop - start)).reshape(stop - start, examples)
        means[start:stop] = counts @ averaged.T / examples
    several = [s for s in samples if len(s) > 1]
    if several:
        freedom = np.array([len(s) - 1 for s in several])
        between, within = (np.dot(freedom, v) for v in zip(*map(_seed_variances, several), strict=True))
        variance = np.maximum(0, between / rng.chisquare(freedom.sum(), resamples) - within / freedom.sum())
        for i, s in enumerate(samples):
            if len(s) > 1:
                means[:, i] += rng.normal(size=resamples) * np.sqrt(variance / len(s))
    return list(means.T)


def _seed_variances(scores: np.ndarray) -> tuple[float, float]:
    """Return the variance of the seeds' means, and the part of it that comes from the examples."""
    seeds, examples = scores.shape
    own = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    within = (own**2).sum() / max(1, (seeds - 1) * (examples - 1))
    return float(scores.mean(1).var(ddof=1)), float(within / examples)


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
