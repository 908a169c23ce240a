"""Compare methods at equal optimizer steps and at equal time, the teacher's work included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distill_utils.metrics.significance import Verdict, compare_all
from distill_utils.studies.plan import Run
from distill_utils.studies.settings import METHODS

#: The method that all others are compared with, and the one that an on-policy method is compared with as well.
PLAIN, OFF_POLICY = "sft", "kd"


#: Times that differ by less than this factor count as equal: that of one training varies as much from seed to seed.
EQUAL = 1.05


class Trained(Protocol):
    """All seeds of one student."""

    name: str
    run: Run
    #: Of each seed: ``seconds`` of training, ``teacher_seconds`` by kind of cache.
    reports: list[dict]
    #: Per ROUGE type ``(seeds, examples)``.
    scores: dict[str, np.ndarray]


def cost(student: Trained) -> float:
    """Return the seconds that a student took: training and what the teacher did beforehand, median over seeds."""
    return float(np.median([r["seconds"] + sum(r["teacher_seconds"].values()) for r in student.reports]))


def with_budgets(students: Sequence[Trained]) -> list[Trained]:
    """Return the students of several budgets of steps, and those of the main comparison that were trained on the same pairs.

    Random weights are left out: their seeds differ far more.
    """
    found = [s for s in students if s.run.group == "budgets" and not METHODS[s.run.method].random]
    known = {(s.run.student, s.run.method, _steps(s)) for s in found}
    pairs = {_max_pairs(s) for s in found}
    main = [
        s
        for s in students
        if s.run.group == "main"
        and METHODS[s.run.method].trained
        and not METHODS[s.run.method].random
        and _max_pairs(s) in pairs
        and (s.run.student, s.run.method, _steps(s)) not in known
    ]
    return [*main, *found]


def references(method: str) -> list[str]:
    """Return the methods that a method is compared with at equal steps and at equal time."""
    return [] if method == PLAIN else [PLAIN, OFF_POLICY] if METHODS[method].on_policy else [PLAIN]


def at_equal_steps(students: Sequence[Trained], metric: str) -> list[Verdict]:
    """Compare each method with its references of the same shape, pairs and steps; one family.

    Those of the main comparison are compared in its family.
    """
    pairs = [
        (s, other)
        for s in students
        for method in references(s.run.method)
        for other in _trained_alike(s, method, students)
        if _steps(other) == _steps(s) and s.run.group == other.run.group == "budgets"
    ]
    return _verdicts([(s.name, other.name, s, other.scores[metric]) for s, other in pairs], metric, students)


def at_equal_time(students: Sequence[Trained], metric: str) -> list[Verdict]:
    """Compare each method with its references trained for as long; one family.

    Between two trainings of a method, its scores are interpolated linearly in the logarithm of
    the time, test pair by test pair. A student that took less time than the shortest, or more than the
    longest of them (by more than the factor :data:`EQUAL`), is not compared.
    """
    found = []
    for s in students:
        for method in references(s.run.method):
            others = sorted(_trained_alike(s, method, students), key=cost)
            if others and cost(others[0]) / EQUAL <= cost(s) <= cost(others[-1]) * EQUAL:
                found.append((s.name, f"{method} in the time of {s.name}", s, _interpolated(others, cost(s), metric)))
    return _verdicts(found, metric, students)


def _trained_alike(student: Trained, method: str, students: Sequence[Trained]) -> list[Trained]:
    """Return the students of ``method`` with the same shape and pairs."""
    return [
        o
        for o in students
        if o.run.method == method and o.run.student == student.run.student and _max_pairs(o) == _max_pairs(student)
    ]


def _max_pairs(student: Trained) -> int:
    return student.run.study.distillation.max_pairs


def _steps(student: Trained) -> int:
    return student.run.study.distillation.steps


def _interpolated(others: Sequence[Trained], seconds: float, metric: str) -> np.ndarray:
    """Return the scores after ``seconds``; those of the shortest or longest training beyond these."""
    times = np.log([cost(s) for s in others])
    wanted = np.clip(np.log(seconds), times[0], times[-1])
    after = int(np.searchsorted(times, wanted))
    before = max(0, after - 1)
    apart = times[after] - times[before]
    share = (wanted - times[before]) / apart if apart else 1.0
    first, second = others[before].scores[metric], others[after].scores[metric]
    seeds = min(len(first), len(second))
    return (1 - share) * first[:seeds] + share * second[:seeds]


def _verdicts(
    found: Sequence[tuple[str, str, Trained, np.ndarray]], metric: str, students: Sequence[Trained]
) -> list[Verdict]:
    """Compare in one family; interpolated scores, whose seeds vary less, do not count for the seed variance."""
    scores = {name: other for _, name, _, other in found} | {name: s.scores[metric] for name, _, s, _ in found}
    pool = [s.scores[metric] for s in students]
    return compare_all([(a, b) for a, b, *_ in found], metric, scores, pool=pool) if found else []
