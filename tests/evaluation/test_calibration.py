"""Calibration by hand, and of a model against its own probabilities."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_utils.data.corpus import load_corpus
from distill_utils.evaluation.calibration import BINS, calibration, evaluate_calibration, load_calibration, named_tokens
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from tests.helpers.properties import examples, lists

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
    prepared = Prepared(study)
    teacher, tokenizer = prepared.load_teacher()
    confidence, right, log_likelihood = named_tokens(prepared, "teacher", teacher, tokenizer)
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
    assert load_calibration(prepared, "teacher", "hash") is None
    found = evaluate_calibration(prepared, "teacher", teacher, tokenizer, "hash")
    assert found["nll"] == pytest.approx(-np.mean(wanted), abs=1e-4) and found["tokens"] == len(wanted)
    assert (
        load_calibration(prepared, "teacher", "hash") == found
        and load_calibration(prepared, "teacher", "other") is None
    )
    shutil.rmtree(study.folder)


#: (confidence, right) of some tokens; the bins' edges among the confidences.
TOKENS = lists(st.tuples(st.floats(0, 1) | st.integers(0, BINS).map(lambda i: i / BINS), st.booleans()), 1, 60).map(
    lambda found: (np.array([c for c, _ in found]), np.array([r for _, r in found]))
)


@examples(100)
@given(TOKENS, st.randoms(use_true_random=False))
def test_the_error_lies_between_the_distance_of_the_means_and_1(tokens, random):
    confidence, right = tokens
    found = calibration(confidence, right)
    assert abs(found["confidence"] - found["accuracy"]) - 1e-9 <= found["ece"] <= 1
    assert found["confidence"] == pytest.approx(confidence.mean()) and found["accuracy"] == pytest.approx(right.mean())
    order = random.sample(range(len(right)), len(right))
    for other in (calibration(confidence[order], right[order]), calibration(*(np.tile(x, 3) for x in tokens))):
        assert other["ece"] == pytest.approx(found["ece"]), "neither order nor repetition counts"


@examples(100)
@given(TOKENS)
def test_every_token_is_in_one_bin_of_equal_width(tokens):
    confidence, right = tokens
    inside = (np.abs(confidence * BINS - np.round(confidence * BINS)) > 1e-9) | (confidence == 1)
    confidence, right = np.append(confidence[inside], 1.0), np.append(right[inside], True)  # 1 is in the last bin
    bins = calibration(confidence, right)["bins"]
    counts, edges = np.histogram(confidence, BINS, (0, 1))
    assert [b["tokens"] for b in bins] == counts[counts > 0].tolist()
    for b, low, high in zip(bins, edges[:-1][counts > 0], edges[1:][counts > 0], strict=True):
        own = (confidence >= low) & ((confidence < high) | (high == 1))
        assert b["confidence"] == pytest.approx(confidence[own].mean())
        assert b["accuracy"] == pytest.approx(right[own].mean())


@examples(60)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=10))
def test_who_is_right_as_often_as_sure_has_no_error_and_who_is_sure_and_wrong_has_all(groups):
    """Groups of n tokens, r of them right, all with the confidence r / n."""
    groups = [(n, min(n, r)) for n, r in groups]
    confidence = np.concatenate([np.full(n, r / n) for n, r in groups])
    right = np.concatenate([np.arange(n) < r for n, r in groups])
    assert calibration(confidence, right)["ece"] == pytest.approx(0, abs=1e-9)
    assert calibration(confidence.astype(np.float32), right)["ece"] == pytest.approx(0, abs=1e-6)
    certain = np.ones(len(right))
    assert calibration(certain, right)["ece"] == pytest.approx(1 - right.mean())
    assert calibration(certain, np.zeros(len(right), bool))["ece"] == 1
