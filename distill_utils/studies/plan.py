"""List the students that a study trains, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill_utils.studies.settings import METHODS, Study, is_shape, student_label
from distill_utils.system.errors import UserError


@dataclass(frozen=True)
class Part:
    """What a system is asked to summarize: ``count`` pairs of a split, drawn by a hash (0: all), and whether greedily."""

    split: str = "test"
    count: int = 0
    greedy: bool = False


@dataclass(frozen=True)
class Run:
    """One student to train, as plain data; ``study`` has the settings that it is trained with."""

    #: ``main`` (the study's own), or what ``[evidence]`` adds: ``longer``, ``shapes``, ``pairs``, ``sweep``.
    group: str
    #: What it is called in tables; the same for all seeds.
    name: str
    study: Study
    student: str
    #: A name in :data:`distill_utils.studies.settings.METHODS`.
    method: str
    #: Of the data order, and of random weights.
    seed: int

    @property
    def folder(self) -> Path:
        return self.study.student_folder(self.student, self.method, self.seed)

    @property
    def evaluation(self) -> str:
        """The name of its evaluation's folder."""
        return self.name if self.seed == self.study.seed else f"{self.name} seed {self.seed}"

    @property
    def part(self) -> Part:
        """What it is asked to summarize."""
        if self.group in ("main", "longer"):
            return Part()
        return Part(
            "validation" if self.group == "sweep" else "test", self.study.evidence.examples, self.group == "sweep"
        )


def single_run(study: Study, student: str, method: str, seed: int | None = None) -> Run:
    """One student with the study's own settings; ``seed`` is the study's where None.

    Raises UserError if there is no such method.
    """
    if method not in METHODS:
        raise UserError(f"there is no method {method!r}; the methods are: {', '.join(METHODS)}")
    return Run("main", student_name(student, method), study, student, method, study.seed if seed is None else seed)


def planned(study: Study) -> list[Run]:
    """Every student of the study, the main comparison's first, each of its seeds after the other."""
    d, e = study.distillation, study.evidence
    runs = []

    def add(group: str, method: str, student: str = d.student, seeds: int = 1, label: str = "", **settings) -> None:
        variant = label.replace(", ", "-").replace(" ", "_")
        changed = study.model_copy(update={"distillation": d.model_copy(update=settings), "variant": variant})
        name = student_name(student, method) + (f", {label}" if label else "")
        runs.extend(Run(group, name, changed, student, method, study.seed + i) for i in range(seeds))

    for method in d.methods:
        add("main", method, seeds=e.seeds if METHODS[method].trained else 1)
    for method in e.longer_methods if e.longer_steps else ():
        for student in (d.student, *e.longer_shapes):
            add("longer", method, student, 1, f"{e.longer_steps} steps", steps=e.longer_steps, max_pairs=0)
    for shape in e.shapes:
        add("shapes", e.shapes_method, shape, validations=0)
    for method in e.pairs_methods:
        for pairs in e.pairs:
            add("pairs", method, label=f"{pairs} pairs", max_pairs=pairs, validations=0)
    for alpha in e.alphas:
        for temperature in e.temperatures if alpha < 1 else e.temperatures[:1]:  # at α = 1 nothing is softened
            add(
                "sweep", "kd", label=f"alpha {alpha:g}, T {temperature:g}", alpha=alpha,
                temperature=temperature, steps=e.sweep_steps, validations=0,
            )  # fmt: skip
    return runs


def timed(runs: list[Run]) -> list[Run]:
    """Those whose speed is measured: trained ones of every shape, one seed each, and ready students."""
    return [
        run
        for run in runs
        if run.group in ("main", "shapes", "longer")
        and run.seed == run.study.seed
        and (METHODS[run.method].trained or not is_shape(run.student))
    ]


def student_name(student: str, method: str) -> str:
    """What a student is called in tables: ``12-6 kd``; a ready one that is not trained further by its own name."""
    label = student_label(student)
    return label if method == "copy" and not is_shape(student) else f"{label} {method}"
