"""The whole study, small: four notebooks through the command, twice; and what a broken run says."""

import os
import random
import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from distill_utils import run_study
from distill_utils.evaluation.forecast import forecast
from distill_utils.models.prepared import Prepared
from distill_utils.report.page import page_file
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import single_run
from distill_utils.system import run_time
from distill_utils.system.artefacts import read_json, write_manifest
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.system.run_time import REST
from distill_utils.system.workers import apart
from distill_utils.training.train_student import training_report
from tests.conftest import distill

KEYS = {
    "name", "method", "encoder_layers", "decoder_layers", "inner_width", "seed", "parameters", "size_bytes", "rouge1", "rouge2", "rougeL",
    "rougeL_ci", "retention_rougeL", "latency_ms", "summaries_per_s", "speedup",
}  # fmt: skip


@pytest.fixture(scope="module")
def study(smoke):
    return smoke[0]


@pytest.fixture(scope="module")
def run(smoke):
    return smoke[1:3]


def test_prints_the_table_and_where_things_are(run, study):
    out, err = run
    assert "| 2-1 kd |" in out and "ROUGE-L (95 % interval)" in out
    assert out.strip().splitlines()[-4:] == [
        f"figures:     {study.figures_folder}",
        f"checkpoints: {study.folder / 'students'}",
        f"notebooks:   {study.notebooks_folder}",
        f"report:      {page_file(study)}",
    ]
    assert "[1/4] 01_data_exploration" in err and "[4/4] 04_speed_rouge_analysis" in err


def test_results_have_the_agreed_form(run, study):
    results = read_json(study.results_file)
    assert {"study", "corpus", "environment", "systems", "verdicts"} <= results.keys()
    assert {"name", "train", "validation", "test", "fingerprint"} <= results["corpus"].keys()
    assert all(system.keys() >= KEYS for system in results["systems"])
    methods = [system["method"] for system in results["systems"]]
    assert methods == ["baseline"] * 4 + ["teacher", "copy", "sft", "kd", "hidden"]
    for verdict in results["verdicts"]:
        assert {"a", "b", "metric", "delta", "ci", "verdict", "family", "family_ci", "comparisons"} == verdict.keys()
        assert verdict["verdict"] in ("BEATS", "NO BEATS", "INCONCLUSIVE")
    teacher = results["systems"][4]
    assert teacher["speedup"] == 1 and teacher["latency_ms"] > 0


def test_the_run_is_forecast_and_its_time_recorded_by_part(run, study):
    _, err = run
    results = read_json(study.results_file)
    parts = {p["part"]: p for p in results["time"]}
    assert {"teacher's summaries", "training", "students' summaries", "timing", REST} <= parts.keys()
    assert all(p["seconds"] > 0 for p in parts.values())
    told, taken = (sum(p[key] for p in parts.values()) for key in ("expected_s", "seconds"))
    assert 0.4 < told / taken < 2.5, "the forecast has the order of magnitude"
    assert "  in all " in err
    assert re.search(r"lower .*distillation\.steps.* with --set", err)
    assert re.search(r"part 1 of \d, teacher's summaries \(checking the teacher\): \d+\.\d of about \d+\.\d min", err)
    assert 5e8 < results["peak_memory_bytes"] < 8e9
    assert not (study.folder / "rehearsal").exists() and not (study.folder / "teacher_outputs").exists()
    assert parts["training"]["part"] in page_file(study).read_text("utf-8")


@pytest.mark.parametrize("fails", ["killed", "out of memory"])
def test_without_a_forecast_the_run_goes_on(tmp_path, monkeypatch, capsys, fails):
    """The process that measures is killed, or PyTorch has no memory in it: one line, a record, no remains."""
    study = load_study("smoke", {"name": "test_no_forecast"})
    rehearsal = study.folder / "rehearsal"
    rehearsal.mkdir(parents=True, exist_ok=True)
    if fails == "killed":
        monkeypatch.setattr(run_study, "apart", lambda *_: apart(os._exit, 9))
    else:
        monkeypatch.setattr(run_study, "apart", lambda work, study: work(study))
        monkeypatch.setattr(run_study, "forecast", lambda _: torch.empty(1 << 60))
    run_study._begin(Prepared(study), tmp_path / "time.json", "key")
    assert re.search("no forecast: (the process that measured was ended|.*memory)", capsys.readouterr().err)
    assert read_json(tmp_path / "time.json")["expected"] == {}
    assert fails != "killed" or not rehearsal.exists()
    run_time.stop()
    shutil.rmtree(study.folder)


def test_what_is_finished_is_not_forecast(run, study):
    assert set(forecast(Prepared(study))) == {"timing", REST}


def test_figures_are_written_twice(run, study):
    names = {path.stem for path in study.figures_folder.glob("*.png")}
    assert len(names) >= 9 and names == {path.stem for path in study.figures_folder.glob("*.pdf")}


def test_students_load_with_plain_transformers(run, study):
    for method in ("copy", "sft", "kd", "hidden"):
        folder = study.student_folder("2-1", method, 0)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        assert (model.config.encoder_layers, model.config.decoder_layers) == (2, 1)
        assert read_json(folder / "config.json")["dtype"] == "float32", "as its teacher is stored"
        assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt")), "safetensors only"
    assert not list((study.folder / "students").glob("*.training")), "no checkpoints are left behind"


def test_all_methods_saw_the_same_steps(run, study):
    reports = [read_json(study.student_folder("2-1", m, 0) / "training.json") for m in ("sft", "kd", "hidden")]
    alpha, beta = study.distillation.alpha, study.distillation.beta
    assert [(r["alpha"], r["beta"]) for r in reports] == [(1.0, None), (alpha, None), (alpha, beta)]
    assert [any("hidden_loss" in entry for entry in r["log"]) for r in reports] == [False, False, True]
    assert len({r["steps"] for r in reports}) == 1


def test_captions_are_computed(run, study):
    notebook = nbformat.read(study.notebooks_folder / "04_speed_rouge_analysis.ipynb", as_version=4)
    texts = [
        o["data"]["text/markdown"]
        for c in notebook.cells
        for o in c.get("outputs", [])
        if "text/markdown" in o.get("data", {})
    ]
    teacher = read_json(study.results_file)["systems"][4]
    assert any(f"teacher's {teacher['rougeL']:.1f}" in text for text in texts)


def test_a_second_run_skips_what_is_finished_and_a_changed_setting_does_not(run, study):
    before = read_json(study.results_file)
    code, _, err = distill("run", "smoke")
    assert code == 0 and err.count("finished before, nothing changed") == 4
    assert read_json(study.results_file) == before


def test_overrides_reach_every_notebook(run, study):
    code, _, err = distill("run", "smoke", "--set", "distillation.temperature=4", "--set", "distillation.steps=2")
    assert code == 0 and "nothing changed" not in err
    for path in sorted(study.notebooks_folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        injected = [c.source for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
        assert len(injected) == 1 and '"distillation.temperature": 4' in injected[0]
    assert read_json(study.student_folder("2-1", "kd", 0) / "training.json")["temperature"] == 4.0


def test_students_of_other_settings_are_not_believed(run, study):
    """Training a student by hand with other settings takes the notebook's place; the next run puts it right."""
    settings = ["--set", "distillation.temperature=4", "--set", "distillation.steps=2"]
    assert distill("train", "smoke", "--method", "kd", "--set", "distillation.steps=1")[0] == 0
    changed = load_study("smoke", {"distillation.temperature": 4, "distillation.steps": 2})
    with pytest.raises(UserError, match="with these settings"):
        training_report(Prepared(changed), single_run(changed, "2-1", "kd"))
    code, _, err = distill("run", "smoke", *settings)
    assert code == 0 and err.count("nothing changed") == 2
    assert read_json(study.student_folder("2-1", "kd", 0) / "training.json")["temperature"] == 4.0


def test_a_failing_cell_is_named(run, study, tmp_path):
    """An evaluation that was written wrong makes a cell fail; one that was damaged since is reported and regenerated."""
    folder, settings = (
        study.evaluations_folder / "teacher",
        ["--set", "distillation.temperature=4", "--set", "distillation.steps=2"],
    )
    (folder / "evaluation.json").write_text("{")
    code, _, err = distill("run", "smoke", *settings)
    assert code == 0, err[-3000:]
    assert f"{folder} is damaged (evaluation.json does not match its checksum)" in err
    assert len(read_json(folder / "evaluation.json")["predictions"]) == 8
    (folder / "evaluation.json").write_text("{")
    write_manifest(folder, read_json(folder / "made_from.json")["key"])
    code, _, err = distill("run", "smoke", *settings)
    assert code == 1
    assert err.strip().splitlines()[-1].startswith("distill: 02_teacher_evaluation.ipynb, cell [")
    assert "JSONDecodeError" in err.strip().splitlines()[-1] and "Traceback" not in err


@pytest.mark.parametrize(
    ("notebook", "message"),
    [
        ("03_distillation", "run notebook 02_teacher_evaluation first"),
        ("04_speed_rouge_analysis", "run notebook 03_distillation first"),
    ],
)
def test_a_notebook_opened_alone_says_what_to_run_first(run, study, tmp_path, notebook, message):
    import papermill

    shutil.rmtree(study.folder / "evaluations", ignore_errors=True)
    if notebook.startswith("04"):
        shutil.rmtree(study.folder / "students", ignore_errors=True)
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{notebook}.ipynb", tmp_path / "out.ipynb", parameters={"STUDY": "smoke"},
            kernel_name="python3", progress_bar=False,
        )  # fmt: skip


#: Figures that show what a clock said.
TIMED = {"04_speed_quality"}
#: Of a system's results: what no clock said.
UNTIMED = ("name", "parameters", "rouge", "retention", "novel", "identical", "tokens")


def content(folder):
    """What a run of ``smoke`` is to give again, bit by bit."""
    files = [
        *folder.glob("students/*/model.safetensors"),
        *folder.glob("evaluations/*/evaluation.json"),
        *folder.glob("corpus/*.json"),
    ]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    results = read_json(folder / "results.json")
    systems = [{k: v for k, v in s.items() if k.startswith(UNTIMED)} for s in results["systems"]]
    return found | {
        "systems": systems,
        **{k: results[k] for k in ("corpus", "verdicts", "sweep", "examples", "settings")},
    }


def test_a_run_killed_in_every_notebook_gives_what_another_gave(smoke):
    """The same commit, machine and seed: texts, weights, scores and figures are the same to the last bit, whatever was killed meanwhile."""
    study, _, _, copy = smoke
    moments, command = random.Random(0), [sys.executable, "-m", "distill_utils", "run", "smoke"]
    for number in (1, 2, 3, 3, 4):
        fresh = ["--fresh"] if number == 1 else []
        with subprocess.Popen(
            [*command, *fresh], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as run:
            assert any(line.startswith(f"[{number}/4]") and "finished before" not in line for line in run.stderr), (
                "it came so far"
            )
            time.sleep(moments.uniform(2, 6))  # a kernel takes two seconds or more to start
            run.kill()
    code, _, err = distill("run", "smoke")
    assert code == 0, err
    again, before = content(study.folder), content(copy)
    assert len(again) > 20 and again.keys() == before.keys()
    assert [name for name in again if again[name] != before[name]] == []
    drawn = {path.name: path.read_bytes() for path in (copy.parent / "figures").iterdir()}
    differ = {name for name, image in drawn.items() if (study.figures_folder / name).read_bytes() != image}
    assert {name.partition(".")[0] for name in differ} <= TIMED and len(drawn) >= 18
