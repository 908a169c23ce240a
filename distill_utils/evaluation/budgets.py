"""Compare methods at equal optimizer steps and at equal time, the teacher's work included.

At equal time there are two references: fine-tuning that was trained for as long, and the fine-tuning with the lowest
validation loss of those that were not trained for longer, since too long a training overfits. :func:`crossings`
computes from when on a method leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from distill_utils.metrics.significance import Verdict, compare_all, percentile_interval
from distill_utils.studies.plan import Run
from distill_utils.studies.settings import METHODS, student_label

#: The method that all others are compared with, and the one that an on-policy method is compared with as well.
PLAIN, OFF_POLICY = "sft", "kd"


#: Times that differ by less than this factor count as equal: that of one training varies as much from seed to seed.
EQUAL = 1.05


class Trained(Protocol):
    """All seeds of one student."""

    name: str
    run: Run
    #: Of each seed: ``seconds`` of training, ``teacher_seconds`` by kind of cache, the training's ``log``.
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


def against_the_best(students: Sequence[Trained], metric: str) -> list[Verdict]:
    """Compare each method with that of its references with the lowest validation loss that took no longer; one family.

    Times within the factor :data:`EQUAL` count as equal. Trainings without validations are no references.
    """
    found = []
    for s in students:
        for method in references(s.run.method):
            alike = [o for o in _trained_alike(s, method, students) if np.isfinite(_validation_loss(o))]
            if others := [o for o in alike if cost(o) <= cost(s) * EQUAL]:
                best = min(others, key=_validation_loss)
                found.append((s.name, best.name, s, best.scores[metric]))
    return _verdicts(found, metric, students)


def crossings(students: Sequence[Trained], metric: str) -> list[dict]:
    """Return from what time on each method leads each of its references, over the times that both were trained for.

    Between two trainings, scores are interpolated as in :func:`at_equal_time`. ``seconds`` is the time after which the
    method leads up to the end, ``range[1]``; it is ``range[0]`` if it always leads, None if it does not lead at the end.
    ``ci`` is the 95 % percentile interval over resamples of the test pairs. It cannot cover the seed variance, so there are
    no crossings if a training has several seeds, whose other intervals do.
    """
    found = []
    for method, shape, pairs in dict.fromkeys((s.run.method, s.run.student, _max_pairs(s)) for s in students):
        own = [s for s in students if (s.run.method, s.run.student, _max_pairs(s)) == (method, shape, pairs)]
        for reference in references(method):
            both = [sorted(group, key=cost) for group in (own, _trained_alike(own[0], reference, students))]
            if min(map(len, both)) < 2 or any(len(s.scores[metric]) > 1 for group in both for s in group):
                continue
            times = [np.log([cost(s) for s in group]) for group in both]
            first, last = max(t[0] for t in times), min(t[-1] for t in times)
            if first >= last:
                continue
            knots = np.unique(np.clip(np.concatenate(times), first, last))
            scores = [s.scores[metric][0] for group in both for s in group]
            crossed, interval = percentile_interval(scores, last_crossing(times, knots))
            found.append(
                {
                    "a": f"{student_label(shape)} {method}",
                    "b": reference,
                    "metric": metric,
                    "seconds": _seconds(crossed, last),
                    "ci": [_seconds(bound, last) for bound in interval],
                    "range": [float(np.exp(first)), float(np.exp(last))],
                }
            )
    return found


def last_crossing(times: Sequence[np.ndarray], knots: np.ndarray) -> Callable[..., np.ndarray]:
    """Return the statistic that computes the last zero of the lead, which is linear between ``knots``.

    Its value is the first knot if there is none, and one more than the last knot if there is no lead there.
    """
    first, beyond = knots[0], knots[-1] + 1
    weights = [np.stack([np.interp(knots, t, unit) for unit in np.eye(len(t))]) for t in times]

    def statistic(*scores: np.ndarray, axis: int = -1) -> np.ndarray:
        means = np.stack([s.mean(axis=axis) for s in scores], axis=-1)
        lead = means[..., : len(times[0])] @ weights[0] - means[..., len(times[0]) :] @ weights[1]
        behind = lead <= 0
        at = len(knots) - 1 - np.argmax(behind[..., ::-1], axis=-1)  # the last knot without a lead
        after = np.minimum(at + 1, len(knots) - 1)
        here, there = (np.take_along_axis(lead, i[..., None], -1)[..., 0] for i in (at, after))
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = knots[at] + (knots[after] - knots[at]) * here / (here - there)
        return np.where(~behind.any(-1), first, np.where(behind[..., -1], beyond, zero))

    return statistic


def _seconds(logarithm: float, last: float) -> float | None:
    return float(np.exp(logarithm)) if logarithm <= last else None


def _validation_loss(student: Trained) -> float:
    """Return the last validation loss, mean over the seeds; inf without validations."""
    return float(
        np.mean([[np.inf, *(e["eval_loss"] for e in r["log"] if "eval_loss" in e)][-1] for r in student.reports])
    )


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
