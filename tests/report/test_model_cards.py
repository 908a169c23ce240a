"""A student's model card: its numbers are those that were measured, and its code runs."""

import re
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from distill_utils.evaluation.evaluate import evaluate_baselines, evaluate_model
from distill_utils.models.checkpoint import checkpoint_hash, load_model
from distill_utils.models.prepared import Prepared
from distill_utils.report.model_cards import student_card, write_card
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import Run
from distill_utils.system.errors import UserError
from distill_utils.training.train_student import train_student


@pytest.fixture(scope="module")
def study():
    study = load_study("smoke", {"name": "test_cards", "distillation.steps": 2})
    shutil.rmtree(study.folder, ignore_errors=True)
    yield study
    shutil.rmtree(study.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def run(study):
    run = Run("main", "2-1 kd", study, "2-1", "kd", study.seed)
    train_student(Prepared(run.study), run)
    return run


def test_a_card_has_no_number_before_there_is_one(study, run):
    card = student_card(Prepared(study), run)
    assert "Not evaluated on the test split." in card and "model-index" not in card
    assert "2 encoder and 1 decoder layers with 128 feed-forward units" in card
    assert "α = 0.5, T = 2" in card and "2 steps of" in card and f"{load_model(run.folder)[0].num_parameters() / 1e6:.1f} M" in card  # fmt: skip


def test_a_card_has_the_evaluation_of_these_weights(study, run):
    model, tokenizer = load_model(run.folder)
    evaluation = evaluate_model(
        Prepared(study), run.evaluation, model, tokenizer, checkpoint_hash(run.folder), run.part
    )
    write_card(Prepared(study), run)
    data = ModelCard.load(run.folder / "README.md").data
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found["ROUGE-L"] == round(evaluation.means()["rougeL"], 2) and set(found) == {
        "ROUGE-1",
        "ROUGE-2",
        "ROUGE-L",
    }
    baselines = {name: e.means()["rougeL"] for name, e in evaluate_baselines(Prepared(study)).items()}
    card, best = (run.folder / "README.md").read_text("utf-8"), max(baselines, key=baselines.get)
    assert f"baseline without a model, `{best}`, reaches {baselines[best]:.1f} ROUGE-L" in card
    assert f"{baselines['lookup']:.1f}" in card
    assert {result.dataset_split for result in data.eval_results} == {"test"} and data.model_name == "2-1 kd"
    settings = (run.folder / "generation_config.json").read_text()
    (run.folder / "generation_config.json").write_text(settings + "\n")  # not as it was written
    with pytest.raises(UserError, match="no student"):
        student_card(Prepared(study), run)
    (run.folder / "generation_config.json").write_text(settings)
    assert "Not evaluated" not in student_card(Prepared(study), run)


def test_a_card_claims_nothing_of_a_test_that_was_a_validation(study, run):
    swept = Run("sweep", run.name, study, run.student, run.method, run.seed)
    model, tokenizer = load_model(run.folder)
    evaluate_model(Prepared(study), swept.evaluation, model, tokenizer, checkpoint_hash(run.folder), swept.part)
    assert "Not evaluated on the test split." in student_card(Prepared(study), swept)


def test_the_cards_code_runs_with_plain_transformers(study, run):
    write_card(Prepared(study), run)
    (code,) = re.findall(r"```python\n(.*?)```", (run.folder / "README.md").read_text(), re.DOTALL)
    assert "distill_utils" not in code
    done = subprocess.run([sys.executable, "-c", code], cwd=run.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr
