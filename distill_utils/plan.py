"""Which students a study trains: its settings enter, runs leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill_utils.evaluation import Part
from distill_utils.students import student_name, train_student, training_report
from distill_utils.study import METHODS, Study, is_shape


@dataclass(frozen=True)
class Run:
    """One student to train; ``study`` has the settings that it is trained with."""

    #: ``main`` (the study's own), or what ``[evidence]`` adds: ``longer``, ``shapes``, ``pairs``, ``sweep``.
    group: str
    #: What it is called in tables; the same for all seeds.
    name: str
    study: Study
    student: str
    method: str
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

    def train(self, callbacks=()) -> Path:
        return train_student(self.study, self.student, self.method, self.seed, callbacks)

    def report(self) -> dict:
        return training_report(self.study, self.student, self.method, self.seed)


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
