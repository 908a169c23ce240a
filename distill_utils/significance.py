"""Is it luck? Per-example scores enter; intervals and verdicts leave.

All intervals are percentile bootstrap intervals over the examples (``scipy.stats.bootstrap``); two
systems are resampled together, since they summarized the same examples.
"""

from __future__ import annotations

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
    """95 % interval of mean(student) ÷ mean(teacher), paired; None where the teacher scores nothing."""
    interval = _interval((student, teacher), _ratio, seed)
    return interval if np.isfinite(interval).all() else None


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
    result = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=1000, paired=True, vectorized=True, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _mean(scores, axis=-1):
    return np.mean(scores, axis=axis)


def _difference(a, b, axis=-1):
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


def _ratio(a, b, axis=-1):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(a, axis=axis) / np.mean(b, axis=axis)
