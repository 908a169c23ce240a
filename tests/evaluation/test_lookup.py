"""Looking up: who is found, how similar it is, and that a test which measures memory is told."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from distill_utils.evaluation.evaluate import evaluate_baselines
from distill_utils.evaluation.lookup import CLOSE, WORDS, _words, close_share, looked_up, nearest
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study

TRAINING = ["the cat sat on the mat", "the dog ran, and ran", "a bird sang in a tree", "the cat and the dog"]


def by_hand(training, document):
    """Cosines by the formula: (1 + ln tf) · (ln((1 + n) / (1 + df)) + 1), of unit length."""

    def words(text):
        return Counter("".join(c if c.isalnum() else " " for c in text.lower()).split())

    df = Counter(word for text in training for word in words(text))
    idf = {word: math.log((1 + len(training)) / (1 + count)) + 1 for word, count in df.items()}

    def vector(text):
        weights = {word: (1 + math.log(tf)) * idf[word] for word, tf in words(text).items() if word in idf}
        length = math.sqrt(sum(w * w for w in weights.values())) or 1
        return {word: w / length for word, w in weights.items()}

    own = vector(document)
    return [sum(w * own.get(word, 0) for word, w in vector(text).items()) for text in training]


@pytest.mark.parametrize(
    "document", ["The DOG ran.", "a cat in a tree", "and and and the cat", "nothing known", *TRAINING]
)
def test_the_nearest_by_hand(document):
    (found,), (similarity,) = nearest(TRAINING, [document])
    expected = by_hand(TRAINING, document)
    assert similarity == pytest.approx(max(expected), abs=1e-6) and expected[found] == pytest.approx(
        max(expected), abs=1e-6
    )


def test_a_document_that_was_trained_on_is_found_whatever_its_end():
    beginning = " ".join(f"word{i}" for i in range(WORDS))
    found, similarity = nearest([*TRAINING, f"{beginning} and an end"], [f"{beginning} with another", TRAINING[2]])
    assert found.tolist() == [4, 2] and similarity == pytest.approx([1, 1], abs=1e-5)


def test_texts_without_spaces_and_without_words():
    found, similarity = nearest(["天気は晴れです", "北京今天下雨,气温下降到十度。"], ["上海今天下雨,气温下降到九度。"])
    assert found.tolist() == [1] and 0.5 < similarity[0] < 1
    found, similarity = nearest(["!!! ???", "--"], ["!!!", "a word", ""])
    assert found.tolist() == [0, 0, 0] and similarity.tolist() == [0, 0, 0]
    assert nearest(TRAINING, ["", "..."])[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("L'e\u0301te\u0301 à İstanbul", ["l", "été", "à", "istanbul"]),
        ("snake_case(x²)", ["snake_case", "x²"]),
        ("ภา", ["ภ", "า"]),
        ("ខ្មែរ", list("ខ្មែរ")),
        ("❤\ufe0f a", ["a"]),
    ],
)
def test_words_of_other_alphabets(text, words):
    assert _words(text) == words


def test_batches_change_nothing(monkeypatch):
    documents = [f"{a} {b}" for a in TRAINING for b in TRAINING]
    whole = nearest(TRAINING, documents)
    monkeypatch.setattr("distill_utils.evaluation.lookup.BATCH", 3)
    for one, other in zip(whole, nearest(TRAINING, documents), strict=True):
        assert np.array_equal(one, other)


def test_how_many_are_close():
    assert close_share([0.2, CLOSE, 1.0, 0.79]) == 0.5


@pytest.fixture
def patterned(tmp_path, monkeypatch):
    """Pairs of which each test document has its pattern in the training split, with almost the same summary."""
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    for split, verb in (("train", "Returns"), ("validation", "Gives"), ("test", "Return")):
        rows = [
            {
                "document": f"{verb} thing{i} of place{i} for friend{i} once",
                "summary": f"{verb} thing{i} of place{i} in {split}",
            }
            for i in range(30)
        ]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Prepared(
        load_study("smoke", {"corpus.path": str(tmp_path / "data"), "name": "patterned", "corpus.packages": []})
    )


def test_the_lookup_is_scored_beside_the_other_baselines(patterned):
    scored = evaluate_baselines(patterned)
    assert [*scored][-1] == "lookup" and len(scored) == 4
    test, found = patterned.corpus["test"], looked_up(patterned)
    train = patterned.corpus["train"]
    assert found["summaries"] == [train[i]["summary"] for i in found["nearest"]] == scored["lookup"].predictions
    assert all(t.split()[1] == s.split()[1] for t, s in zip(test["summary"], found["summaries"], strict=True))
    assert close_share(found["similarity"]) == 1.0
    expected = rouge_scores(found["summaries"], test["summary"])["rougeL"]
    assert np.array_equal(scored["lookup"].scores["rougeL"], expected) and expected.mean() > 50


def test_a_lookup_is_made_once(patterned, monkeypatch):
    first = looked_up(patterned)
    monkeypatch.setattr("distill_utils.evaluation.lookup.nearest", lambda *_: pytest.fail("looked up again"))
    assert looked_up(patterned) == first
