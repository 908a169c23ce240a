"""Measure how often each kind of 95 % interval holds the truth: `python -m benchmarks.coverage [coverage_of_crossings]`.

Scores are drawn from known distributions, for one training seed and for three whose means have standard deviations
(*sd*) of 0 to 1 point. It writes ``coverage.json`` and ``coverage_of_crossings.json`` in ``benchmarks/results``, which
`python -m benchmarks.trials_page` shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from benchmarks.report import RESULTS
from distill_utils.evaluation.budgets import last_crossing
from distill_utils.metrics import significance
from distill_utils.metrics.significance import (
    difference,
    gain_interval,
    mean_interval,
    percentile_interval,
    retention_interval,
)
from distill_utils.system.artefacts import write_json
from distill_utils.system.environment import environment
from distill_utils.system.progress import progress

#: Draws of each setting, examples of a test split, and resamples of a bootstrap (a study has 10,000, which takes too long here).
DRAWS, EXAMPLES, RESAMPLES = 2000, 300, 1000
STUDENTS, SEEDS, DEVIATIONS = 6, 3, (0.0, 0.1, 0.2, 0.5, 1.0)
#: True means of students, teacher and baseline; standard deviations of how hard examples are, and of a system's own part.
STUDENT, TEACHER, BASELINE = 30.0, 31.0, 20.0
HARD, OWN = 10.0, 4.0


class Draw:
    """Scores of systems on one drawn test split.

    Args:
        luck: what each seed of each student is above or below the mean, ``(students, seeds, 1)``; drawn by default.
    """

    def __init__(self, rng: np.random.Generator, seeds: int, sd: float, luck: np.ndarray | None = None) -> None:
        self.rng, self.seeds, self.sd = rng, seeds, sd
        self.hard = rng.normal(0, HARD, EXAMPLES)
        self.luck = sd * rng.normal(0, 1, (STUDENTS, seeds, 1)) if luck is None else luck

    def students(self) -> list[np.ndarray]:
        """Return as many students as the full study has: the seed variance is estimated from all of them."""
        own = self.rng.normal(0, OWN, (STUDENTS, self.seeds, EXAMPLES))
        return [*(STUDENT + self.hard + own + self.luck)]

    def teacher(self) -> np.ndarray:
        return TEACHER + self.hard + self.rng.normal(0, OWN, EXAMPLES)

    def baseline(self) -> np.ndarray:
        return BASELINE + self.hard + self.rng.normal(0, OWN, EXAMPLES)


def _mean(draw: Draw) -> tuple[float, float]:
    first, *alike = draw.students()
    return mean_interval(first, alike=alike)


def _retention(draw: Draw) -> tuple[float, float]:
    first, *alike = draw.students()
    return retention_interval(first, draw.teacher(), alike=alike)


def _gain(draw: Draw) -> tuple[float, float]:
    first, *alike = draw.students()
    return gain_interval(first, draw.teacher(), draw.baseline(), alike=alike)


def _difference(draw: Draw) -> tuple[float, float]:
    students = draw.students()
    return difference(students[0], students[1], students).interval(significance.LEVEL)


def _interpolated(draw: Draw) -> tuple[float, float]:
    """Compare with the mean of two budgets, as at equal time."""
    students = draw.students()
    ours, shorter, longer, *_ = students
    return difference(ours, (shorter + longer) / 2, pool=students).interval(significance.LEVEL)


def _elsewhere(draw: Draw) -> tuple[float, float]:
    """Compare what the same students keep on two test splits, as the trial `elsewhere` does."""
    kept, half = [], []
    for own in (draw, Draw(draw.rng, draw.seeds, draw.sd, draw.luck)):
        (student, *alike), teacher = own.students(), own.teacher()
        low, high = retention_interval(student, teacher, alike=alike)
        kept.append(student.mean() / teacher.mean())
        half.append((high - low) / 2)
    change = kept[0] - kept[1]
    return change - np.hypot(*half), change + np.hypot(*half)


KINDS: dict[str, tuple[float, Callable[[Draw], tuple[float, float]]]] = {
    "mean": (STUDENT, _mean),
    "retention": (STUDENT / TEACHER, _retention),
    "gain kept": ((STUDENT - BASELINE) / (TEACHER - BASELINE), _gain),
    "difference": (0.0, _difference),
    "difference from plain fine-tuning in equal time": (0.0, _interpolated),
    "change of retention on another text": (0.0, _elsewhere),
}


def _crossing(draw: Draw) -> tuple[float, float]:
    """Two budgets of a method and two of its reference, which the method overtakes half way between them."""
    scores = [s[0] + apart for s, apart in zip(draw.students(), (-1.0, 1.0, 0.0, 0.0), strict=False)]
    times = np.array([0.0, 1.0])
    return percentile_interval(scores, last_crossing([times, times], times))[1]


CROSSINGS = {"time from which a method leads": (0.5, _crossing)}
#: Per results file its kinds of intervals, and the numbers of seeds with their standard deviation.
FILES = {
    "coverage": (KINDS, [(1, 0.0), *((SEEDS, sd) for sd in DEVIATIONS)]),
    "coverage_of_crossings": (CROSSINGS, [(1, 0.0)]),
}


def held(kind: str, seeds: int, sd: float, draws: int = DRAWS) -> float:
    """Return the share of intervals that hold the truth."""
    truth, interval = (KINDS | CROSSINGS)[kind]
    rng, found = np.random.default_rng(0), 0
    for _ in range(draws):
        low, high = interval(Draw(rng, seeds, sd))
        found += low <= truth <= high
    return found / draws


def measure(file: str) -> None:
    significance.RESAMPLES = RESAMPLES  # of this process alone
    kinds, settings = FILES[file]
    rows = [
        {"kind": kind, "seeds": seeds, "sd": sd, "held": held(kind, seeds, sd)}
        for kind in kinds
        for seeds, sd in progress(settings, desc=kind, unit="setting")
    ]
    made = {"draws": DRAWS, "students": STUDENTS, "examples": EXAMPLES, "resamples": RESAMPLES}
    made |= {"level": 1 - significance.LEVEL}
    write_json(RESULTS / f"{file}.json", {**made, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    for name in sys.argv[1:] or FILES:
        measure(name)
