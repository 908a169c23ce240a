"""Calibration by hand, and of a model against its own probabilities."""

import shutil

import numpy as np
import pytest
import torch

from distill_utils.calibration import calibration, evaluate_calibration, load_calibration, named_tokens
from distill_utils.corpora import load_corpus
from distill_utils.models import load_teacher
from distill_utils.study import load_study

SETTINGS = {"name": "test_calibration", "teacher.path": "models/docstrings_teacher", "corpus.max_test": 5}


def test_calibration_error_by_hand():
    # Bins are fifteenths. Two tokens at 0.5 (one right), one at 0.9 (wrong), one at 1 (right).
    found = calibration(np.array([0.5, 0.5, 0.9, 1.0]), np.array([True, False, False, True]))
    assert [b["tokens"] for b in found["bins"]] == [2, 1, 1]
    assert found["ece"] == pytest.approx((2 * 0 + 0.9 + 0) / 4)
    assert found["accuracy"] == 0.5 and found["confidence"] == pytest.approx(0.725)


def test_a_model_that_draws_its_tokens_is_calibrated():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 50_000)
    assert calibration(confidence, rng.uniform(size=50_000) < confidence)["ece"] < 0.01
    assert calibration(confidence, rng.uniform(size=50_000) < confidence**3)["ece"] > 0.1


def test_tokens_are_those_of_the_references():
    study = load_study("smoke", SETTINGS)
    shutil.rmtree(study.folder, ignore_errors=True)
    teacher, tokenizer = load_teacher(study)
    confidence, right, log_likelihood = named_tokens(study, "teacher", teacher, tokenizer)
    wanted, hits, best = [], [], []
    for row in load_corpus(study)["test"]:
        source = tokenizer(row["document"], max_length=48, truncation=True, return_tensors="pt")
        labels = tokenizer(text_target=row["summary"], max_length=16, truncation=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            probabilities = teacher(**source, labels=labels).logits[0].softmax(-1)
        wanted += probabilities.gather(1, labels[0][:, None])[1:, 0].log().tolist()  # the first is <s>, always
        hits += (probabilities.argmax(-1) == labels[0])[1:].tolist()
        best += probabilities.max(-1).values[1:].tolist()
    assert sorted(log_likelihood) == pytest.approx(sorted(wanted), abs=1e-4)
    assert sorted(confidence) == pytest.approx(sorted(best), abs=1e-4) and right.sum() == sum(hits)
    assert load_calibration(study, "teacher", "hash") is None
    found = evaluate_calibration(study, "teacher", teacher, tokenizer, "hash")
    assert found["nll"] == pytest.approx(-np.mean(wanted), abs=1e-4) and found["tokens"] == len(wanted)
    assert load_calibration(study, "teacher", "hash") == found and load_calibration(study, "teacher", "other") is None
    shutil.rmtree(study.folder)
