"""A study with everything that [evidence] and [speed] can ask for, small."""

import json
import shutil

import pytest

from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
from tests.conftest import distill

EVIDENCE = {
    "name": "smoke_evidence", "distillation.methods": ["copy", "scratch", "sft", "kd", "pl", "kd-pl", "hidden", "jsd"], "distillation.steps": 2,
    "distillation.cache_teacher": "states", "distillation.cache_encoder": True, "distillation.validations": 1,
    "evidence.seeds": 2, "evidence.shapes": ["1-2", "2-2"], "evidence.alphas": [0.5, 1.0], "evidence.temperatures": [1.0, 2.0],
    "evidence.sweep_steps": 1, "evidence.pairs": [16], "evidence.pairs_methods": ["sft"], "evidence.budgets.sft": [2, 3], "evidence.budgets.kd": [2, 3],
    "evidence.examples": 4, "speed.repeats": 1,
    "evidence.runtime": "ctranslate2-float32", "speed.runtimes": ["ctranslate2-float32", "ctranslate2-int8"], "speed.beams": [1, 2], "speed.batch_size": 2, "speed.batch_sizes": [3], "speed.tokens": 4,
}  # fmt: skip


def test_a_study_with_all_evidence():
    pytest.importorskip("ctranslate2")
    settings = [x for k, v in EVIDENCE.items() for x in ("--set", f"{k}={json.dumps(v)}")]
    code, out, err = distill("run", "smoke", "--fresh", *settings)
    assert code == 0, err
    study = load_study("smoke", EVIDENCE)
    results = read_json(study.results_file)
    students = {s["name"]: s for s in results["systems"] if s["group"] not in ("baselines", "teacher", "runtimes")}
    assert len(students) == 8 + 4 + 2 + 1 and len(results["sweep"]) == 3
    assert len(students["2-1 jsd"]["rougeL_by_seed"]) == 2 and len(students["2-1 copy"]["rougeL_by_seed"]) == 1
    assert students["2-1 pl"]["teacher_seconds"]["pseudo-labels"] > 0
    assert students["2-1 sft, 16 pairs"]["training_pairs"] == 16 and students["2-1 sft, 16 pairs"]["examples"] == 4
    assert students["2-1 kd, 3 steps"]["calibration"] and not students["1-2 kd"]["calibration"]
    assert students["1-2 kd"]["speedup"] > 0
    served = {s["name"]: s for s in results["systems"] if s.get("parts")}
    best = next(name for name in served if "teacher" not in name and "ctranslate2" not in name)
    precisions = "float32", "int8"
    assert set(served) == {"teacher", best} | {f"{s} ctranslate2-{p}" for s in ("teacher", best) for p in precisions}
    writer = served["teacher ctranslate2-float32"]  # it wrote the scored summaries
    assert writer["rougeL"] == served["teacher"]["rougeL"] and writer["rougeL_change_ci"] is None
    assert writer["identical_to_float32"] == 100 * served["teacher"]["same_as_pytorch"]
    of_its_shape = [s for s in students.values() if s["name"].startswith("2-1 ") and s["group"] in ("main", "budgets")]
    assert {s.get("timed_as") for s in of_its_shape if s["method"] not in ("copy",)} == {None, best}
    assert {s["speedup"] for s in of_its_shape} == {None, students[best]["speedup"]}, "copies are not timed"
    for name, s in served.items():
        assert s["footprint"]["disk_bytes"] > 0 and s["footprint"]["load_seconds"] > 0
        asked = {(m["batch_size"], m["num_beams"], m["tokens"]) for m in s["speeds"]}
        assert {(1, 2, None), (2, 1, None), (1, 2, 4), (3, 2, 4), (2, 2, 4), (2, 1, 4), (1, 2, 1)} <= asked, name
        assert {m["summary_tokens"] for m in s["speeds"] if m["tokens"] == 4} == {4}
    assert (
        served["teacher"]["runtime"] == "pytorch-fp32" and "identical_to_float32" in served["teacher ctranslate2-int8"]
    )
    assert served["teacher ctranslate2-int8"]["size_bytes"] < served["teacher"]["size_bytes"]
    budgets = {v["a"]: v["b"] for v in results["verdicts"] if (v["family"], v["metric"]) == ("equal steps", "rougeL")}
    assert budgets == {f"2-1 kd, {n} steps": f"2-1 sft, {n} steps" for n in (2, 3)}
    for found in results["crossings"]:  # a clock decides whether there is any
        assert (found["a"], found["b"]) == ("2-1 kd", "sft") and found["range"][0] < found["range"][1]
    kd = students["2-1 kd, 3 steps"]
    assert kd["cost_seconds"] >= kd["training_seconds"] + sum(kd["teacher_seconds"].values()) - 1
    families = {v["family"]: v["comparisons"] for v in results["verdicts"]}
    for family in ("equal time", "best in time"):
        families.pop(family, None)  # a clock decides whether there is any
    assert families == {"main": 4 + 7 + 4 + 21 + 7, "sweep": 2, "equal steps": 2}
    names = {path.stem for path in study.figures_folder.glob("*.png")}
    assert {
        "04_runtimes",
        "04_batches_and_beams",
        "04_budgets",
        "04_sweep",
        "04_learning_curve",
        "04_reliability",
        "04_wins_and_losses",
    } <= names
    assert "2-1 kd, 3 steps" in out
    assert "16 pairs" not in out, "these are for the learning curve"
    code, _, err = distill("run", "smoke", *settings)
    assert code == 0 and err.count("nothing changed") == 4
    for folder in (study.folder, study.figures_folder):
        shutil.rmtree(folder)
