"""Compare methods at equal optimizer steps and at equal time, the teacher's work included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distill_utils.metrics.significance import Verdict, compare_all
from distill_utils.studies.plan import Run

#: The method that the others are compared with.
PLAIN = "sft"


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


def at_equal_steps(students: Sequence[Trained], metric: str) -> list[Verdict]:
    """Compare each method with plain fine-tuning of the same shape, pairs and steps; one family."""
    plain = {_budget(s): s for s in students if s.run.method == PLAIN}
    pairs = [(s, plain[_budget(s)]) for s in students if s.run.method != PLAIN and _budget(s) in plain]
    return _verdicts([(s.name, other.name, s, other.scores[metric]) for s, other in pairs], metric)


def at_equal_time(students: Sequence[Trained], metric: str) -> list[Verdict]:
    """Compare each method with plain fine-tuning that took as long; one family.

    Between two trainings of plain fine-tuning, its scores are interpolated linearly in the logarithm of
    the time, test pair by test pair. A student that took less time than the shortest, or more than the
    longest of them, is not compared.
    """
    found = []
    for s in students:
        plain = sorted((o for o in students if o.run.method == PLAIN and o.run.student == s.run.student), key=cost)
        if s.run.method == PLAIN or not plain or not cost(plain[0]) <= cost(s) <= cost(plain[-1]):
            continue
        found.append((s.name, f"{PLAIN} in the time of {s.name}", s, _at(plain, cost(s), metric)))
    return _verdicts(found, metric)


def _budget(student: Trained) -> tuple:
    d = student.run.study.distillation
    return student.run.student, d.steps, d.max_pairs


def _at(plain: Sequence[Trained], seconds: float, metric: str) -> np.ndarray:
    times = np.log([cost(s) for s in plain])
    after = min(int(np.searchsorted(times, np.log(seconds))), len(plain) - 1)
    before = max(0, after - 1)
    apart = times[after] - times[before]
    share = (np.log(seconds) - times[before]) / apart if apart else 1.0
    return (1 - share) * plain[before].scores[metric] + share * plain[after].scores[metric]


def _verdicts(found: Sequence[tuple[str, str, Trained, np.ndarray]], metric: str) -> list[Verdict]:
    scores = {name: other for _, name, _, other in found} | {name: s.scores[metric] for name, _, s, _ in found}
    return compare_all([(a, b) for a, b, *_ in found], metric, scores) if found else []
