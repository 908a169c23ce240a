"""Is it luck? Per-example scores enter; intervals and verdicts leave.

All intervals are percentile bootstrap intervals over the examples (``scipy.stats.bootstrap``); two
systems are resampled together, since they summarized the same examples.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 10_000


@dataclass(frozen=True)
class Verdict:
    """Whether system ``a`` beats system ``b``: ``delta`` = mean(a) − mean(b) with its interval."""

    a: str
    b: str
    metric: str
    delta: float
    ci: tuple[float, float]
    verdict: str

    def as_dict(self) -> dict:
        return {**asdict(self), "ci": list(self.ci)}


def mean_interval(scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of ``(examples,)`` scores."""
    return _interval((scores,), _mean, seed)


def retention_interval(student: np.ndarray, teacher: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of mean(student) ÷ mean(teacher), paired.

    None where it has no meaning: the teacher scores nothing, in all examples or in more than one resample
    of a hundred, as happens with a handful of examples.
    """
    student, teacher = np.asarray(student, float), np.asarray(teacher, float)
    if not teacher.any():
        return None
    if len(teacher) < 2 or (np.ptp(student) == 0 and np.ptp(teacher) == 0):
        return _interval((student, teacher), _ratio, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # resamples in which the teacher scores nothing are counted below
        ratios = _bootstrap((student, teacher), _ratio, seed).bootstrap_distribution
    finite = ratios[np.isfinite(ratios)]
    if len(finite) < 0.99 * len(ratios):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def compare(a: str, b: str, metric: str, scores_a: np.ndarray, scores_b: np.ndarray, seed: int = 0) -> Verdict:
    """BEATS when the whole interval of the difference lies above 0, NO BEATS when below, else INCONCLUSIVE."""
    low, high = _interval((scores_a, scores_b), _difference, seed)
    verdict = "BEATS" if low > 0 else "NO BEATS" if high < 0 else "INCONCLUSIVE"
    return Verdict(a, b, metric, float(np.mean(scores_a) - np.mean(scores_b)), (low, high), verdict)


def _interval(samples: tuple[np.ndarray, ...], statistic, seed: int) -> tuple[float, float]:
    samples = tuple(np.asarray(s, float) for s in samples)
    point = float(statistic(*samples))
    if len(samples[0]) < 2 or all(np.ptp(s) == 0 for s in samples):
        return point, point  # nothing varies, so resampling cannot either
    interval = _bootstrap(samples, statistic, seed).confidence_interval
    return float(interval.low), float(interval.high)


def _bootstrap(samples: tuple[np.ndarray, ...], statistic, seed: int):
    return bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=1000, paired=True, vectorized=True, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip


def _mean(scores, axis=-1):
    return np.mean(scores, axis=axis)


def _difference(a, b, axis=-1):
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


def _ratio(a, b, axis=-1):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(a, axis=axis) / np.mean(b, axis=axis)
