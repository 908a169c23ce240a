"""Assemble ``results.json`` from a study's evaluations, training reports and timings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill_utils.data.corpus import corpus_name, rouge_words
from distill_utils.data.splits import SPLITS
from distill_utils.data.tokenization import cut_counts
from distill_utils.evaluation.budgets import (
    against_the_best,
    at_equal_steps,
    at_equal_time,
    cost,
    crossings,
    with_budgets,
)
from distill_utils.evaluation.calibration import load_calibration
from distill_utils.evaluation.evaluate import Evaluation, baseline_names, load_evaluation
from distill_utils.evaluation.lookup import CLOSE, close_share, looked_up
from distill_utils.evaluation.results import TRAINED
from distill_utils.evaluation.speed import headline
from distill_utils.evaluation.teacher_check import check_teacher
from distill_utils.metrics.significance import (
    compare_all,
    gain_interval,
    mean_interval,
    retention_interval,
    visible_difference,
)
from distill_utils.metrics.text_statistics import describe_texts
from distill_utils.models.backends import lacking_hardware
from distill_utils.models.checkpoint import checkpoint_hash, depth, inner_width, load_model, parameter_count, size_bytes
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import Run, planned, timed
from distill_utils.studies.settings import METHODS, is_shape
from distill_utils.system.artefacts import write_record
from distill_utils.system.environment import environment
from distill_utils.system.hub import used_commits
from distill_utils.training.train_student import training_report

EXAMPLES = 10  # of wins and of losses


def collect(prepared: Prepared, speeds: dict[str, list[dict]], runtimes: dict[str, dict] | None = None) -> dict:
    """Assemble and write ``runs/<study>/results.json``.

    Args:
        speeds: the results of :func:`distill_utils.evaluation.speed.measure_speed`.
        runtimes: the results of :func:`distill_utils.evaluation.backends_speed.measure_served`.
    """
    study, statistics, corpus = prepared.study, prepared.statistics, prepared.corpus
    students = [_Student(prepared, runs) for runs in _by_name(planned(study))]
    named = [s for s in students if s.group != "sweep"]
    alike = [s for s in named if len(s.reports) > 1 and not METHODS[s.run.method].random]
    timed_as = {s.run.student: s.name for s in named if s.name in speeds}
    budgets = {s.name for s in with_budgets(named)}
    teacher, tokenizer = prepared.load_teacher()
    results = {
        "study": study.name,
        "title": study.title,
        "settings": study.settings(),
        "corpus": {
            "name": corpus_name(study),
            **{split: len(corpus[split]) for split in SPLITS},
            "fingerprint": statistics["fingerprint"],
            "revision": statistics["revision"],
            "words": statistics["words"],
            "steps": statistics["steps"],
            "cut": cut_counts(study, tokenizer),
        },
        "lookup": {"threshold": CLOSE, "close_share": close_share(looked_up(prepared)["similarity"])},
        "skipped_runtimes": {name: why for name in study.speed.runtimes if (why := lacking_hardware(name))},
        "hub": used_commits(study.hub_record),
        "generation": generation_settings(study, teacher),
        "teacher_check": check_teacher(prepared, teacher, tokenizer),
        "environment": environment(),
        "systems": [
            *[_baseline(prepared, name) for name in baseline_names(study)], _teacher(prepared, speeds),
            *[_student(prepared, s, speeds, timed_as.get(s.run.student), alike) | {"budget": s.name in budgets} for s in named],
        ],
        "verdicts": _verdicts(prepared, students),
        "crossings": crossings(with_budgets(students), "rougeL"),
        "visible_rougeL": _visible_difference(students),
        "sweep": [_swept(s) for s in students if s.group == "sweep"],
        "examples": _examples(prepared, named),
    }  # fmt: skip
    for name, measured in (runtimes or {}).items():
        own = next((s for s in results["systems"] if s["name"] == name), None)
        if own is None:
            original = next(s for s in results["systems"] if s["name"] == measured["served"].of)
            results["systems"].append(own := _in_runtime(prepared, original, name, measured, speeds[name]))
        own |= {"parts": measured["parts"], "footprint": measured["footprint"]}
    write_record(study.results_file, results)
    return results


class _Student:
    """All seeds of one student."""

    def __init__(self, prepared: Prepared, runs: list[Run]) -> None:
        self.run, self.group, self.name = runs[0], runs[0].group, runs[0].name
        self.reports = [training_report(prepared, run) for run in runs]
        self.evaluations = [
            load_evaluation(prepared, run.evaluation, checkpoint_hash(run.folder), run.part) for run in runs
        ]
        self.examples = self.evaluations[0].examples  # the same for all seeds
        #: Per ROUGE type ``(seeds, examples)``.
        self.scores = {
            kind: np.stack([e.scores[kind] for e in self.evaluations]) for kind in self.evaluations[0].scores
        }


def _by_name(runs: list[Run]) -> list[list[Run]]:
    named: dict[str, list[Run]] = {}
    for run in runs:
        named.setdefault(run.name, []).append(run)
    return list(named.values())


def _scored(
    prepared: Prepared, scores: dict[str, np.ndarray], examples: np.ndarray, alike: Sequence[_Student] = ()
) -> dict:
    """Return means, intervals, retention and gain kept of ``(seeds, examples)`` scores.

    Args:
        examples: indices of the test pairs.
        alike: students whose seed variance is taken to be the same.
    """
    own, teacher = scores["rougeL"], load_evaluation(prepared, "teacher").scores["rougeL"][examples]
    baselines = [load_evaluation(prepared, name).scores["rougeL"][examples] for name in baseline_names(prepared.study)]
    baseline = max(baselines, key=np.mean)
    pool = {kind: [s.scores[kind] for s in alike] for kind in scores}
    retention = retention_interval(own, teacher, alike=pool["rougeL"])
    gain = gain_interval(own, teacher, baseline, alike=pool["rougeL"])
    return {
        **{kind: float(values.mean()) for kind, values in scores.items()},
        **{f"{kind}_ci": list(mean_interval(values, alike=pool[kind])) for kind, values in scores.items()},
        "rougeL_by_seed": np.atleast_2d(own).mean(1).tolist(),
        "retention_rougeL": float(own.mean() / teacher.mean()) if teacher.any() else None,
        "retention_rougeL_ci": list(retention) if retention else None,
        # Undefined where the teacher is not better than every baseline beyond chance.
        "gain_rougeL": float((own.mean() - baseline.mean()) / (teacher.mean() - baseline.mean())) if gain else None,
        "gain_rougeL_ci": list(gain) if gain else None,
    }


def _system(name: str, method: str, group: str) -> dict:
    unknown = ("encoder_layers", "decoder_layers", "inner_width", "seed", "parameters", "size_bytes", "latency_ms", "summaries_per_s", "speedup")  # fmt: skip
    return {"name": name, "method": method, "group": group, **dict.fromkeys(unknown)}


def _described(prepared: Prepared, evaluation: Evaluation, name: str) -> dict:
    """Return statistics of the summaries."""
    predictions, teacher = evaluation.predictions, load_evaluation(prepared, "teacher").predictions
    pairs = prepared.corpus["test"].select(evaluation.examples)
    theirs = [teacher[i] for i in evaluation.examples] if name != "teacher" else None
    return {
        "identical_share": max(Counter(predictions).values()) / len(predictions),
        "examples": len(predictions),
        **({} if evaluation.same_as_pytorch is None else {"same_as_pytorch": evaluation.same_as_pytorch}),
        **describe_texts(predictions, pairs, theirs, rouge_words(prepared.study)),
    }


def _baseline(prepared: Prepared, name: str) -> dict:
    evaluation = load_evaluation(prepared, name)
    scored = _scored(prepared, evaluation.scores, evaluation.examples)
    return {**_system(name, "baseline", "baselines"), **scored, **_described(prepared, evaluation, name)}


def _teacher(prepared: Prepared, speeds: dict) -> dict:
    evaluation = load_evaluation(prepared, "teacher", prepared.teacher_hash)
    return {
        **_system("teacher", "teacher", "teacher"),
        **_scored(prepared, evaluation.scores, evaluation.examples),
        **_described(prepared, evaluation, "teacher"),
        **_model(prepared, "teacher", prepared.teacher_folder, speeds),
    }


def _student(
    prepared: Prepared, student: _Student, speeds: dict, timed_as: str | None, alike: Sequence[_Student]
) -> dict:
    """Describe a student; ``timed_as`` names the timed student of its shape."""
    run, name = student.run, student.name
    ready = run.method == "copy" and not is_shape(run.student)
    validations = [entry["eval_rougeL"] for entry in student.reports[0]["log"] if "eval_rougeL" in entry]
    teacher_seconds = student.reports[0]["teacher_seconds"]
    if timed_as not in (None, name) and run in timed([run]):
        natural = [m for m in speeds[timed_as] if m["tokens"] is None]
        model = _model(prepared, name, run.folder, {name: natural}) | {"timed_as": timed_as, "summary_tokens": None}
    else:
        model = _model(prepared, name, run.folder, speeds)
    alike = [] if METHODS[run.method].random else alike  # its seeds differ far more
    return {
        **_system(name, "ready" if ready else run.method, student.group),
        **_scored(prepared, student.scores, student.examples, alike),
        **_described(prepared, student.evaluations[0], name),
        **model,
        "seed": run.seed,
        "seeds": len(student.reports),
        "training_steps": student.reports[0]["steps"],
        "training_pairs": student.reports[0].get("pairs"),
        "cost_seconds": cost(student),
        "training_seconds": float(np.median([r["seconds"] for r in student.reports])),
        "teacher_seconds": teacher_seconds,
        "validation_rougeL": validations[-1] if validations else None,
        "soft_loss_rose": any(rose([e["soft_loss"] for e in r["log"] if e.get("soft_loss")]) for r in student.reports),
    }


def rose(losses: Sequence[float], by: float = 0.1) -> bool:
    """Return whether the last third of the losses is more than ``by`` (relative) above the middle third; needs 12 losses."""
    third = len(losses) // 3
    return third >= 4 and bool(np.mean(losses[-third:]) > (1 + by) * np.mean(losses[third : 2 * third]))


def _model(prepared: Prepared, name: str, folder: Path, speeds: dict) -> dict:
    """Return the model's size and, where measured, speed and calibration."""
    study, (model, _) = prepared.study, load_model(folder)
    found = {
        **{f"{part}_layers": layers for part, layers in depth(model.config).items()},
        "inner_width": inner_width(model.config),
        "parameters": parameter_count(model),
        "size_bytes": size_bytes(folder),
        "calibration": load_calibration(prepared, name, checkpoint_hash(folder)),
    }
    if name in speeds:
        found |= headline(speeds[name], study.speed, generation_settings(study, model)["num_beams"])
        found |= {"runtime": "pytorch-fp32", "speeds": speeds[name]}
    return found


def _in_runtime(prepared: Prepared, original: dict, name: str, measured: dict, speeds: list[dict]) -> dict:
    """Return a system in an inference backend other than pytorch-fp32."""
    scores, kept = measured["scores"], ("encoder_layers", "decoder_layers", "inner_width", "seed", "parameters")
    return {
        **_system(name, original["method"], "runtimes"),
        **{key: original[key] for key in kept},
        **_scored(prepared, scores, np.arange(len(scores["rougeL"]))),
        **headline(speeds, prepared.study.speed, original["num_beams"]),
        **{key: measured[key] for key in ("identical_to_float32", "rougeL_change", "rougeL_change_ci")},
        "of": original["name"],
        "examples": len(scores["rougeL"]),
        "runtime": measured["served"].runtime,
        "size_bytes": measured["footprint"]["disk_bytes"],
        "speeds": speeds,
    }


def _verdicts(prepared: Prepared, students: list[_Student]) -> list[dict]:
    """Compare in families per metric: main comparison, other shapes, sweep against fine-tuning (α = 1), budgets at equal steps, in equal time, in at most the time."""
    main = [s for s in students if s.group == "main"]
    copy = [s.name for s in main if s.run.method == "copy" and is_shape(s.run.student)]
    trained = [s.name for s in main if s.name not in copy]
    pairs = [("teacher", name) for name in baseline_names(prepared.study)]
    pairs += [(name, "teacher") for name in [*trained, *(s.name for s in students if s.group == "budgets")]]
    pairs += [(a, b) for i, b in enumerate(trained) for a in trained[i + 1 :]]
    pairs += [(name, c) for c in copy for name in trained]
    families = [("main", pairs), ("shapes", other_shapes(students))]
    plain = [s.name for s in students if s.group == "sweep" and s.run.study.distillation.alpha == 1]
    families += [("sweep", [(s.name, p) for p in plain for s in students if s.group == "sweep" and s.name != p])]
    scores = {name: load_evaluation(prepared, name).scores for name in ("teacher", *baseline_names(prepared.study))}
    scores |= {s.name: s.scores for s in students}
    budgets = with_budgets(students)
    unlike = {s.name for s in students if METHODS[s.run.method].random}
    return [
        {"family": family, **verdict.as_dict()}
        for metric in ("rougeL", "rouge2")
        for family, verdicts in (
            *(
                (f, compare_all(p, metric, {name: own[metric] for name, own in scores.items()}, unlike))
                for f, p in families
            ),
            ("equal steps", at_equal_steps(budgets, metric)),
            ("equal time", at_equal_time(budgets, metric)),
            ("best in time", against_the_best(budgets, metric)),
        )
        for verdict in verdicts
    ]


def other_shapes(students: Sequence[_Student]) -> list[tuple[str, str]]:
    """Pair the main comparison's student with those of other shapes, of the same method and scored on the same test pairs."""
    shapes = [s for s in students if s.group == "shapes"]
    return [
        (m.name, s.name)
        for m in students
        for s in shapes
        if m.group == "main" and m.run.method == s.run.method and np.array_equal(m.examples, s.examples)
    ]


def _visible_difference(students: list[_Student]) -> float | None:
    """Return the minimum detectable ROUGE-L difference (80 % power) between two trained students of the main comparison."""
    trained = [s.scores["rougeL"] for s in students if s.group == "main" and s.run.method in TRAINED]
    apart = [visible_difference(a, b) for i, b in enumerate(trained) for a in trained[i + 1 :]]
    return float(np.median(apart)) if apart else None


def _swept(student: _Student) -> dict:
    d = student.run.study.distillation
    return {
        "name": student.name,
        "alpha": d.alpha,
        "temperature": d.temperature,
        "examples": len(student.examples),
        "rougeL": float(student.scores["rougeL"].mean()),
        "rougeL_ci": list(mean_interval(student.scores["rougeL"])),
    }


def _examples(prepared: Prepared, students: list[_Student]) -> dict | None:
    """Return the best trained student's largest ROUGE-L wins and losses against the teacher (first seed)."""
    trained = [s for s in students if s.group in ("main", "budgets") and (s.run.method in TRAINED or not is_shape(s.run.student))]  # fmt: skip
    if not trained:
        return None
    best = max(trained, key=lambda s: s.scores["rougeL"].mean())
    ours, teacher, test = best.evaluations[0], load_evaluation(prepared, "teacher"), prepared.corpus["test"]
    ahead = ours.scores["rougeL"] - teacher.scores["rougeL"]
    order = np.argsort(-ahead, kind="stable")

    def row(i: int) -> dict:
        return {
            "id": test[i]["id"], "document": test[i]["document"], "reference": test[i]["summary"],
            "teacher": teacher.predictions[i], "student": ours.predictions[i], "delta": float(ahead[i]),
        }  # fmt: skip

    wins, losses = order[:EXAMPLES], order[::-1][:EXAMPLES]
    return {
        "student": best.name,
        "wins": [row(int(i)) for i in wins if ahead[i] > 0],
        "losses": [row(int(i)) for i in losses if ahead[i] < 0],
        "ahead": ahead[order].round(3).tolist(),
    }
