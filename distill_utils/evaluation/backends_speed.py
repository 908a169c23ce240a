"""Evaluate and time the teacher and the best student in every inference backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoConfig

from distill_utils.evaluation import footprint, roofline
from distill_utils.evaluation.evaluate import evaluate_backend, load_evaluation
from distill_utils.evaluation.speed import Load, find, parts
from distill_utils.metrics.significance import compare
from distill_utils.models.backends import PRECISIONS, Backend, load_backend, usable_backends
from distill_utils.models.checkpoint import checkpoint_hash
from distill_utils.models.export import export, export_key
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import Run, planned, timed
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current
from distill_utils.system.progress import progress
from distill_utils.system.run_time import spending
from distill_utils.training.train_student import training_report

FLOAT32 = "pytorch-fp32"


@dataclass(frozen=True)
class Served:
    """A checkpoint in an inference backend.

    Attributes:
        name, of: its name in tables, and the name of the same checkpoint in pytorch-fp32.
        folder: the checkpoint, or its export.
    """

    name: str
    of: str
    runtime: str
    checkpoint: Path
    folder: Path

    def load(self, study: Study) -> Backend:
        return load_backend(self.folder, self.runtime, study.corpus.max_source_tokens)


def best_student(prepared: Prepared) -> Run | None:
    """Return the first seed's trained student of the main comparison with the best last validation ROUGE-L."""
    runs = [run for run in timed(planned(prepared.study)) if run.group == "main"]
    return max(runs, key=lambda run: _validated(prepared, run), default=None)


def timed_students(prepared: Prepared) -> list[Run]:
    """Return one student of each shape to time, the study's own shape first: its best student.

    Raises UserError if a student was not trained.
    """
    by_shape: dict[str, list[Run]] = {}
    for run in timed(planned(prepared.study)):
        training_report(prepared, run)
        by_shape.setdefault(run.student, []).append(run)
    best = best_student(prepared)
    return [best if best in runs else runs[0] for runs in by_shape.values()]


def _validated(prepared: Prepared, run: Run) -> float:
    """Return the last validation ROUGE-L, or 0."""
    log = training_report(prepared, run)["log"]
    return next((entry["eval_rougeL"] for entry in reversed(log) if "eval_rougeL" in entry), 0.0)


def served(prepared: Prepared) -> list[Served]:
    """Return teacher and best student in pytorch-fp32 and in each of the study's backends; none if it has no backends.

    Creates missing exports. Skips backends that this hardware does not support, with a message.

    Raises UserError if a backend is not installed.
    """
    runtimes = usable_backends(prepared.study.speed.runtimes)
    if not runtimes:
        return []
    checkpoints = {"teacher": prepared.teacher_folder}
    if run := best_student(prepared):
        checkpoints[run.name] = run.folder
    return [
        Served(
            name if runtime == FLOAT32 else f"{name} {runtime}",
            name,
            runtime,
            folder,
            _folder(prepared.study, name, folder, runtime),
        )
        for name, folder in checkpoints.items()
        for runtime in dict.fromkeys((FLOAT32, *runtimes))
    ]


def _folder(study: Study, name: str, checkpoint: Path, runtime: str) -> Path:
    if runtime in PRECISIONS:
        return checkpoint
    quantization = runtime.partition("-")[2]
    target = study.folder / "exports" / f"{name.replace(' ', '-')}-{quantization}"
    if not is_current(target, export_key(checkpoint, quantization)):
        export(checkpoint, target, quantization)
    return target


@spending("timing", "inference backends")
def measure_served(
    prepared: Prepared,
    systems: Sequence[Served],
    speeds: Mapping[str, Sequence[Mapping]],
    sources: Sequence[Sequence[int]],
) -> dict[str, dict]:
    """Measure each system's quality, time breakdown and footprint.

    Args:
        speeds: per system, the results of ``measure_speed`` for ``forced_loads`` (:mod:`distill_utils.evaluation.speed`).
        sources: token ids of the timed documents.

    Returns:
        Per system ``served`` (itself), the results of :func:`compared`, ``parts`` (:func:`time_and_limit`) and ``footprint``.
    """
    study, (teacher, _) = prepared.study, prepared.load_teacher()
    settings, tokens = generation_settings(study, teacher), float(np.mean([len(ids) for ids in sources]))
    kinds = dict.fromkeys(roofline.WEIGHTS[system.runtime][1] for system in systems)
    matrices = {kind: roofline.measure_matrices(kind) for kind in kinds}
    length = study.speed.tokens
    load = {
        "documents": study.speed.batch_size, "source_tokens": round(tokens), "num_beams": settings["num_beams"], "tokens": length
    }  # fmt: skip
    return {
        system.name: {
            "served": system,
            **compared(prepared, system, settings),
            "parts": [
                time_and_limit(
                    system, speeds[system.name], Load(size, settings["num_beams"], size, length), tokens, matrices
                )
                for size in dict.fromkeys((1, study.speed.batch_size))
            ],
            "footprint": footprint.measure(system.folder, system.runtime, load),
        }
        for system in progress(systems, desc="backends", unit="system")
    }


def compared(prepared: Prepared, system: Served, settings: Mapping) -> dict:
    """Evaluate the system on the test split and compare it with the same checkpoint's scored summaries.

    Float32 weights wrote those: in PyTorch, or in CTranslate2 (``evidence.runtime``).

    Returns:
        ``scores`` per ROUGE type, ``(examples,)``; in other backends also ``identical_to_float32`` (% of summaries),
        ``rougeL_change`` and its paired 95 % interval ``rougeL_change_ci``. For the backend that wrote the scored
        summaries, the change is None, and ``identical_to_float32`` is the % of the first :data:`~distill_utils.evaluation.evaluate.CHECKED_ROWS` that equal PyTorch's.
    """
    checkpoint = checkpoint_hash(system.checkpoint)
    exact = load_evaluation(prepared, system.of, checkpoint)
    if system.runtime == FLOAT32:
        return {"scores": exact.scores}
    if system.runtime == prepared.study.evidence.runtime:
        same = 100 * exact.same_as_pytorch
        return {
            "scores": exact.scores,
            "identical_to_float32": same,
            "rougeL_change": None,
            "rougeL_change_ci": None,
        }
    own = evaluate_backend(prepared, system.name, system.load(prepared.study), checkpoint, **settings)
    change = compare(system.name, system.of, "rougeL", own.scores["rougeL"], exact.scores["rougeL"])
    same = np.mean([a == b for a, b in zip(own.predictions, exact.predictions, strict=True)])
    return {
        "scores": own.scores,
        "identical_to_float32": 100 * float(same),
        "rougeL_change": change.delta,
        "rougeL_change_ci": list(change.ci),
    }


def time_and_limit(
    system: Served, measured: Sequence[Mapping], load: Load, source_tokens: float, matrices: Mapping[str, float | None]
) -> dict:
    """Break down a batch's time and relate it to the roofline.

    Args:
        measured: the system's speeds.
        load: a batch with a forced length.
        source_tokens: mean length of the timed documents.
        matrices: operations per second of matrix products by precision; None: unknown.

    Returns:
        ``batch_size``; ``encoder_ms``, ``step_ms`` and ``encoder_share`` (:func:`distill_utils.evaluation.speed.parts`); and,
        if the roofline is known, ``limit_ms`` per summary, ``bound`` (``memory`` or ``matrices``), ``share_of_limit``
        (fraction of the roofline), ``bytes_per_step``, ``bandwidth`` measured at that size, and ``matrices_per_s``.
    """
    size, num_beams, tokens = load.batch_size, load.num_beams, load.tokens
    weight_bytes, kind = roofline.WEIGHTS[system.runtime]
    found = {"batch_size": size, **(parts(measured, size, num_beams, tokens) or {})}
    config = AutoConfig.from_pretrained(system.checkpoint, trust_remote_code=False)
    if not matrices[kind] or not hasattr(config, "decoder_ffn_dim"):  # the roofline counts BART's layers
        return found
    needed = roofline.work(config, size, source_tokens, num_beams, tokens, weight_bytes)
    read = {"encoder": needed.encoder_bytes, "step": needed.step_bytes}
    bandwidth = {part: roofline.measure_bandwidth(count) for part, count in read.items()}
    least = roofline.limit(needed, tokens, matrices[kind], bandwidth)
    per_second = find(measured, size, num_beams, tokens)["summaries_per_s"]
    return found | {
        "limit_ms": 1000 * least["seconds"] / size,
        "bound": least["bound"],
        "share_of_limit": least["seconds"] / size * per_second,
        "bytes_per_step": needed.step_bytes,
        "bandwidth": bandwidth["step"],
        "matrices_per_s": matrices[kind],
    }
