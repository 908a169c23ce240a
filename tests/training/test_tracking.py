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


class Broken:
    """A tracker whose server is down."""

    name = "wandb"

    def __init__(self, *_, **__):
        self.finished = 0

    def start(self):
        pass

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None):
        raise ConnectionError("no\nserver")

    def finish(self):
        self.finished += 1


def test_a_tracker_that_fails_is_left_out_with_a_warning(study, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "WandBTracker", Broken)
    both = study.model_copy(update={"report_to": ("wandb", "tensorboard")})
    trackers = tracking.Trackers(both, "one", {})
    for step in (1, 2):
        trackers.log({"a, b/c": step}, step)
    trackers.end()
    assert capsys.readouterr().err == "WARNING: the tracker wandb fails and is left out: no server\n"
    assert [e.value for e in read(study.folder / tracking.FOLDER / "one").Scalars("a b/c")] == [1, 2]
    monkeypatch.setattr(Broken, "start", lambda _: 1 / 0)
    tracking.Trackers(both, "two", {}).end()
    assert "wandb fails" in capsys.readouterr().err


def test_a_training_that_goes_on_logs_no_step_twice(study):
    for begin, last in ((0, 3), (2, 4)):  # killed after step 3, resumed from the checkpoint of step 2
        trackers = tracking.Trackers(study, "one", {}, begin)
        for step in range(begin + 1, last + 1):
            trackers.log({"loss": step + 10 * begin}, step)
        trackers.end()
    found = {e.step: e.value for e in read(study.folder / tracking.FOLDER / "one").Scalars("loss")}
    assert found == {1: 1, 2: 2, 3: 23, 4: 24}
    tracking.Trackers(study, "one", {}).end()  # another training
    assert not read(study.folder / tracking.FOLDER / "one").Tags()["scalars"]
