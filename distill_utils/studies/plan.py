"""List the students that a study trains, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill_utils.studies.settings import METHODS, Study, is_shape, student_label
from distill_utils.system.errors import UserError


@dataclass(frozen=True)
class Part:
    """The part of a split that a system summarizes: ``count`` pairs (0: all), drawn by a hash."""

    split: str = "test"
    count: int = 0
    greedy: bool = False


@dataclass(frozen=True)
class Run:
    """One student to train with the settings of ``study``."""

    #: ``main``, or the ablations of ``[evidence]``: ``budgets``, ``shapes``, ``pairs``, ``sweep``.
    group: str
    #: The name in tables; the same for all seeds.
    name: str
    study: Study
    student: str
    #: A name in :data:`distill_utils.studies.settings.METHODS`.
    method: str
    #: Seed of the data order and of random weights.
    seed: int

    @property
    def folder(self) -> Path:
        return self.study.student_folder(self.student, self.method, self.seed)

    @property
    def evaluation(self) -> str:
        """The name of the evaluation's folder."""
        return self.name if self.seed == self.study.seed else f"{self.name} seed {self.seed}"

    @property
    def part(self) -> Part:
        """The part of the corpus that the student summarizes."""
        if self.group in ("main", "budgets"):
            return Part()
        sweep = self.group == "sweep"
        return Part("validation" if sweep else "test", self.study.evidence.examples, greedy=sweep)


def single_run(study: Study, student: str, method: str, seed: int | None = None) -> Run:
    """Return a run with the study's own settings; ``seed`` defaults to the study's.

    Raises UserError if there is no such method.
    """
    if method not in METHODS:
        raise UserError(f"there is no method {method!r}; the methods are: {', '.join(METHODS)}")
    return Run("main", student_name(student, method), study, student, method, study.seed if seed is None else seed)


def planned(study: Study) -> list[Run]:
    """Return the runs of all students, the main comparison's first, the seeds of one student in sequence."""
    d, e = study.distillation, study.evidence
    runs = []

    def add(group: str, method: str, student: str = d.student, seeds: int = 1, label: str = "", **settings) -> None:
        variant = label.replace(", ", "-").replace(" ", "_")
        changed = study.model_copy(update={"distillation": d.model_copy(update=settings), "variant": variant})
        name = student_name(student, method) + (f", {label}" if label else "")
        runs.extend(Run(group, name, changed, student, method, study.seed + i) for i in range(seeds))

    for method in d.methods:
        add("main", method, seeds=e.seeds if METHODS[method].trained else 1)
    for method, budgets in e.budgets.items():
        for steps in budgets:
            add("budgets", method, d.student, e.budget_seeds, f"{steps} steps", steps=steps, max_pairs=0)
    for shape in e.shapes:
        add("shapes", e.shapes_method, shape, validations=0)
    for method in e.pairs_methods:
        for pairs in e.pairs:
            add("pairs", method, label=f"{pairs} pairs", max_pairs=pairs, validations=0)
    for alpha in e.alphas:
        for temperature in e.temperatures if alpha < 1 else e.temperatures[:1]:  # at α = 1 there is no soft loss
            add(
                "sweep", "kd", label=f"alpha {alpha:g}, T {temperature:g}", alpha=alpha,
                temperature=temperature, steps=e.sweep_steps, validations=0,
            )  # fmt: skip
    return runs


def timed(runs: list[Run]) -> list[Run]:
    """Return the runs whose speed is known: trained and pretrained students of every shape, one seed each.

    Students of one shape do the same work, so :func:`distill_utils.evaluation.backends_speed.timed_students` selects
    one of each shape.
    """
    return [
        run
        for run in runs
        if run.group in ("main", "shapes", "budgets")
        and run.seed == run.study.seed
        and (METHODS[run.method].trained or not is_shape(run.student))
    ]


def student_name(student: str, method: str) -> str:
    """Return a student's name in tables: ``12-6 kd``, or an untrained pretrained checkpoint's own name."""
    label = student_label(student)
    return label if method == "copy" and not is_shape(student) else f"{label} {method}"
