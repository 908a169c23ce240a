"""Is it luck? Per-example scores enter; intervals and verdicts leave.

Scores are ``(examples,)``, or ``(seeds, examples)`` where a system was trained several times. All intervals are percentile
bootstrap intervals: the examples are resampled, for all systems together, since they summarized the same ones, which
``scipy.stats.bootstrap`` does; with several seeds their luck is a second level (:func:`resampled_means`).
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
    """Whether system ``a`` beats system ``b``: ``delta`` = mean(a) − mean(b).

    ``ci`` is its 95 % interval by itself, ``family_ci`` the one that the verdict follows, with Holm's correction: none of a family's
    claims is false in 95 of 100 families. ``comparisons`` is the family's size.
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
    """95 % interval of the mean."""
    return _percentiles(_distribution((scores,), _mean, seed), LEVEL)


def retention_interval(student: np.ndarray, teacher: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of mean(student) ÷ mean(teacher), paired.

    None where it has no meaning: the teacher scores nothing, in all examples or in more than one resample
    of a hundred, as happens with a handful of examples.
    """
    if not np.any(teacher):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # resamples in which the teacher scores nothing are counted below
        ratios = _distribution((student, teacher), _ratio, seed)
    finite = ratios[np.isfinite(ratios)]
    return _percentiles(finite, LEVEL) if len(finite) >= 0.99 * len(ratios) else None


def compare(a: str, b: str, metric: str, scores_a: np.ndarray, scores_b: np.ndarray, seed: int = 0) -> Verdict:
    """One comparison by itself: BEATS when the whole interval of the difference lies above 0, NO BEATS when below, else INCONCLUSIVE."""
    (verdict,) = compare_all([(a, b)], metric, {a: scores_a, b: scores_b}, seed)
    return verdict


def compare_all(
    pairs: Sequence[tuple[str, str]], metric: str, scores: Mapping[str, np.ndarray], seed: int = 0
) -> list[Verdict]:
    """The comparisons of one table, with Holm's correction (Holm 1979): a family of verdicts in the order of ``pairs``.

    The clearest of m differences is judged by its 1 − 0.05/m interval, the next by its 1 − 0.05/(m−1) interval and so on;
    the first interval that has 0 in it ends the claims, and all that are left are judged at that level.
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
        if ended:  # by a hair of the resamples an interval after the first with 0 in it may be without
            low, high = min(low, 0.0), max(high, 0.0)
        word = "BEATS" if low > 0 else "NO BEATS" if high < 0 else "INCONCLUSIVE"
        delta = float(np.mean(scores[a]) - np.mean(scores[b]))
        verdicts[i] = Verdict(a, b, metric, delta, _percentiles(spread[i], LEVEL), word, (low, high), len(pairs))
        ended = ended or word == "INCONCLUSIVE"
        left -= not ended
    return verdicts


def visible_difference(scores_a: np.ndarray, scores_b: np.ndarray, seed: int = 0) -> float:
    """The smallest true difference that such a comparison finds four times in five: 2.8 standard errors, of which an interval has 3.92."""
    low, high = _percentiles(_distribution((scores_a, scores_b), _difference, seed), LEVEL)
    return 2.8 / 3.92 * (high - low)


# -- resampling --------------------------------------------------------------------------------------------


def _percentiles(distribution: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(distribution, [50 * level, 100 - 50 * level])
    return float(low), float(high)


def _distribution(samples: Sequence[np.ndarray], statistic: Callable, seed: int) -> np.ndarray:
    """The statistic of every resample, ``(RESAMPLES,)``; of the samples themselves where nothing varies."""
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
    """Each system's mean in every resample of the examples, the same ones for all, moved by the luck of as many other seeds.

    Bootstrapping a handful of seeds would make intervals that are too short: three of them cannot show how far a fourth may fall. So
    the seeds' luck is drawn from a normal distribution whose variance is itself uncertain: what the seeds' means vary, beyond what
    the examples make them vary, by the generalized pivot of a variance component (Weerahandi 1993, "Generalized confidence
    intervals"); systems that were trained several times share it.

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
    """The variance of the seeds' means, and how much of it the choice of examples makes."""
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
