"""ROUGE against rouge_score itself, offline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from distill_utils import rouge
from distill_utils.rouge import TYPES, Rouge, rouge_scores

PREDICTIONS = ["Returns the number of nodes.", "plot a line", "", "the cats were running"]
REFERENCES = ["Return the node count of the graph.", "plot a line", "something", "a cat runs"]


def direct(prediction, reference, kind):
    return 100 * RougeScorer([kind], use_stemmer=True).score(reference, prediction)[kind].fmeasure


def test_equals_rouge_score_pair_by_pair():
    scores = rouge_scores(PREDICTIONS, REFERENCES)
    for kind in TYPES:
        assert scores[kind].tolist() == [direct(p, r, kind) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_any_text_can_be_scored(pairs):
    scores = rouge_scores(*zip(*pairs, strict=True))
    for kind in TYPES:
        assert scores[kind].shape == (len(pairs),) and ((scores[kind] >= 0) & (scores[kind] <= 100)).all()


def test_known_value():
    # 3 of 3 predicted words and 3 of 6 reference words match: F1 = 2·1·½ / 1½ = ⅔. Stemming joins cat and cats.
    scores = rouge_scores(["the cat sat"], ["the cats sat on the mat"])
    assert scores["rouge1"][0] == pytest.approx(200 / 3)


def test_processes_give_the_same_in_the_same_order(monkeypatch):
    here = rouge_scores(PREDICTIONS * 6, REFERENCES * 6)
    monkeypatch.setattr(rouge, "CHUNK", 5)
    spread = rouge_scores(PREDICTIONS * 6, REFERENCES * 6)
    for kind in TYPES:
        np.testing.assert_array_equal(here[kind], spread[kind])


def test_metric_gives_means_and_intervals():
    result = Rouge().compute(predictions=PREDICTIONS, references=REFERENCES)
    scores = rouge_scores(PREDICTIONS, REFERENCES)
    for kind in TYPES:
        low, high = result[f"{kind}_ci"]
        assert result[kind] == pytest.approx(scores[kind].mean())
        assert 0 <= low <= result[kind] <= high <= 100


def test_metric_gives_per_example_scores_on_request():
    result = Rouge().compute(predictions=PREDICTIONS, references=REFERENCES, per_example=True)
    assert result["rougeL_scores"] == rouge_scores(PREDICTIONS, REFERENCES)["rougeL"].tolist()


def test_metric_takes_batches():
    metric = Rouge()
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add_batch(predictions=PREDICTIONS[2:], references=REFERENCES[2:])
    assert metric.compute()["rougeL"] == pytest.approx(rouge_scores(PREDICTIONS, REFERENCES)["rougeL"].mean())


def test_uneven_or_empty_input_is_refused():
    with pytest.raises(ValueError, match="as many"):
        rouge_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="as many"):
        rouge_scores([], [])
