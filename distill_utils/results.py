"""Everything a study measured: artefacts of its run enter, ``results.json`` leaves."""

from __future__ import annotations

from distill_utils.artefacts import read_json, write_json
from distill_utils.corpora import corpus_name, corpus_statistics, cut_counts, load_corpus
from distill_utils.docstrings import SPLITS
from distill_utils.environment import environment
from distill_utils.errors import UserError
from distill_utils.evaluation import baselines, check_teacher, load_evaluation
from distill_utils.generation import generation_settings
from distill_utils.hub import used_commits
from distill_utils.models import (
    checkpoint_hash,
    load_model,
    load_teacher,
    parameter_count,
    size_bytes,
    teacher_folder,
)
from distill_utils.significance import compare, mean_interval, retention_interval
from distill_utils.students import student_name, training_report
from distill_utils.study import METHODS, Study, is_shape

GOAL_RETENTION = 0.95
FEW_PAIRS = 100  # fewer test pairs than this are warned of


def collect(study: Study, speeds: dict[str, dict[int, dict]]) -> dict:
    """Assemble and write ``runs/<study>/results.json``.

    Args:
        speeds: per system and number of beams what :func:`distill_utils.speed.measure_speed` gave.
    """
    statistics = corpus_statistics(study)
    corpus = load_corpus(study)
    systems = [_system(study, name, "baseline", speeds) for name in baselines(study)]
    systems.append(_system(study, "teacher", "teacher", speeds))
    student = study.distillation.student
    systems += [_system(study, student_name(student, m), m, speeds) for m in study.distillation.methods]
    teacher, tokenizer = load_teacher(study)
    results = {
        "study": study.name,
        "title": study.title,
        "settings": study.settings(),
        "corpus": {
            "name": corpus_name(study),
            **{split: len(corpus[split]) for split in SPLITS},
            "fingerprint": statistics["fingerprint"],
            "revision": statistics["revision"],
            "steps": statistics["steps"],
            "cut": cut_counts(study, tokenizer),
        },
        "hub": used_commits(study.hub_record),
        "generation": generation_settings(study, teacher),
        "teacher_check": check_teacher(study, teacher, tokenizer, checkpoint_hash(teacher_folder(study))),
        "environment": environment(),
        "systems": systems,
        "verdicts": _verdicts(study),
    }
    write_json(study.results_file, results)
    return results


def load_results(study: Study) -> dict:
    """Raises UserError where notebook 04 has not written them yet."""
    if not study.results_file.is_file():
        raise UserError(f"{study.name} has no results yet; run notebook 04_speed_rouge_analysis first")
    return read_json(study.results_file)


def warnings(results: dict) -> list[str]:
    """What a reader of the results has to know before believing them."""
    found = [results["teacher_check"]["warning"]] if results["teacher_check"]["warning"] else []
    settings, test = results["settings"]["distillation"], results["corpus"]["test"]
    if test < FEW_PAIRS:
        found.append(
            f"there are only {test} test pairs: the intervals are wide, and differences need a larger test split"
        )
    if settings["warmup_steps"] >= settings["steps"] and set(settings["methods"]) - {"copy"}:
        found.append(
            f"the learning rate rises for {settings['warmup_steps']} steps (distillation.warmup_steps) and training has only {settings['steps']}"
        )
    return found


def trained_students(results: dict) -> list[dict]:
    """Students that were trained: by the study, or before it."""
    return [s for s in results["systems"] if s["method"] in (*METHODS[1:], "ready")]


def teacher_system(results: dict) -> dict:
    return next(s for s in results["systems"] if s["method"] == "teacher")


def _system(study: Study, name: str, method: str, speeds: dict) -> dict:
    folder = None
    if method == "teacher":
        folder = teacher_folder(study)
    elif method != "baseline":
        folder = study.student_folder(study.distillation.student, method, study.seed)
    evaluation = load_evaluation(study, name, checkpoint_hash(folder) if folder else None)
    scores, teacher = evaluation.scores, load_evaluation(study, "teacher").scores
    retention = retention_interval(scores["rougeL"], teacher["rougeL"])
    ready = method == "copy" and not is_shape(study.distillation.student)
    system = {
        "name": name,
        "method": "ready" if ready else method,
        "encoder_layers": None,
        "decoder_layers": None,
        "seed": None,
        "parameters": None,
        "size_bytes": None,
        **evaluation.means(),
        **{f"{kind}_ci": list(mean_interval(values)) for kind, values in scores.items()},
        "retention_rougeL": float(scores["rougeL"].mean() / teacher["rougeL"].mean())
        if teacher["rougeL"].any()
        else None,
        "retention_rougeL_ci": list(retention) if retention else None,
        "identical_share": max(evaluation.predictions.count(p) for p in set(evaluation.predictions))
        / len(evaluation.predictions),
        **dict.fromkeys(("latency_ms", "summaries_per_s", "speedup")),
    }
    if folder is None:
        return system
    if method != "teacher":
        report = training_report(study, study.distillation.student, method)
        validations = [entry["eval_rougeL"] for entry in report["log"] if "eval_rougeL" in entry]
        system |= {
            "seed": report["seed"],
            "training_steps": report["steps"],
            "training_seconds": report["seconds"],
            "validation_rougeL": validations[-1] if validations else None,
        }
    model, _ = load_model(folder)
    system |= {
        "encoder_layers": model.config.encoder_layers,
        "decoder_layers": model.config.decoder_layers,
        "parameters": parameter_count(model),
        "size_bytes": size_bytes(folder),
    }
    if name in speeds:
        system |= speeds[name][generation_settings(study, model)["num_beams"]]
        system["speeds"] = list(speeds[name].values())
    return system


def _verdicts(study: Study) -> list[dict]:
    """Every trained student against the teacher, the untrained copy and the other students, by ROUGE-L and ROUGE-2."""
    student, methods = study.distillation.student, study.distillation.methods
    trained = [student_name(student, m) for m in methods if m != "copy" or not is_shape(student)]
    pairs = [("teacher", name) for name in baselines(study)]
    pairs += [(name, "teacher") for name in trained]
    pairs += [(a, b) for i, b in enumerate(trained) for a in trained[i + 1 :]]
    if "copy" in methods and is_shape(student):
        pairs += [(name, student_name(student, "copy")) for name in trained]
    verdicts = []
    for a, b in pairs:
        for metric in ("rougeL", "rouge2"):
            scores = (load_evaluation(study, name).scores[metric] for name in (a, b))
            verdicts.append(compare(a, b, metric, *scores).as_dict())
    return verdicts
