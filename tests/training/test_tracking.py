"""What a tracker is given, read back from TensorBoard's files."""

import shutil

import pytest

from distill_utils import run_study
from distill_utils.models.prepared import Prepared
from distill_utils.report.publish import published_results
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import single_run
from distill_utils.system.artefacts import read_json, write_record
from distill_utils.system.errors import UserError
from distill_utils.training import tracking
from distill_utils.training.tracking import check_trackers
from distill_utils.training.train_student import train_student, training_report

SETTINGS = {
    "name": "test_tracking", "teacher.path": "models/docstrings_teacher", "distillation.student": "6-3", "report_to": ["tensorboard"],
    "distillation.steps": 4, "distillation.validations": 1, "distillation.batch_size": 8, "distillation.validation_examples": 4,
}  # fmt: skip
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture
def study():
    study = load_study("smoke", SETTINGS)
    shutil.rmtree(study.folder, ignore_errors=True)
    yield study
    shutil.rmtree(study.folder, ignore_errors=True)


def read(folder):
    found = event_accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_a_training_logs_its_losses_rate_and_rouge(study):
    run = single_run(study, "6-3", "hidden")
    train_student(Prepared(study), run)
    logged = read(study.folder / tracking.FOLDER / run.folder.name)
    for entry in training_report(Prepared(study), run)["log"]:
        for name, value in entry.items():
            if name in ("step", "epoch"):
                continue
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            there = {e.step: e.value for e in logged.Scalars(tag)}
            assert there[entry["step"]] == pytest.approx(value, rel=1e-5), tag
    tags = {*logged.Tags()["scalars"]}
    wanted = {
        "train/hard_loss",
        "train/soft_loss",
        "train/hidden_loss",
        "train/learning_rate",
        "eval/loss",
        "eval/rougeL",
    }
    assert wanted <= tags

    untracked = load_study("smoke", SETTINGS | {"report_to": []})
    training_report(Prepared(untracked), single_run(untracked, "6-3", "hidden"))  # the same student, trackers or not


def test_the_results_are_logged_at_the_end(study):
    published = read_json(published_results("docstrings"))
    write_record(study.results_file, published)
    run_study._track_results(study)
    logged = read(study.folder / tracking.FOLDER / "results")
    for system in published["systems"]:
        (found,) = logged.Scalars(f"{system['name']}/rougeL")
        assert found.value == pytest.approx(system["rougeL"], rel=1e-5)
    (text,) = logged.Tensors("results/text_summary")
    assert b"| system |" in text.tensor_proto.string_val[0]


def test_a_tracker_that_is_not_installed_is_refused(study, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="'report_to' names 'tensorboard', which is not installed; pip install tensorboard"
    ):
        check_trackers(study)
