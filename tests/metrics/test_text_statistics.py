"""Statistics of summaries beyond ROUGE, by hand."""

import unicodedata

import pytest
from datasets import Dataset

from distill_utils.metrics.rouge import precision_and_recall
from distill_utils.metrics.text_statistics import describe_texts, novel_ngrams, stutters


def test_a_word_three_times_in_a_row_is_a_stutter():
    texts = ["a a b a", "the The, the end", "node node node", "nodes nodes node", "an anan an", "word word wordy", ""]
    assert stutters(texts) == 2
    assert stutters(["नानाना", "t\u0301t\u0301t"]) == 0, "marks do not separate words"


@pytest.mark.parametrize("text", ["L'été à İstanbul", "हिन्दी भाषा", "ΐ x_y ❤\ufe0f"])
def test_accents_are_equal_however_they_are_written(text):
    written = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert novel_ngrams({"document": written, "summary": written[::-1]}, 1) == 0
    pairs = Dataset.from_dict({"document": written, "summary": written})
    assert describe_texts(written[::-1], pairs)["reference_share"] == 100


def test_a_vowel_sign_is_part_of_its_word():
    assert novel_ngrams({"document": ["हिन्द"], "summary": ["हिन्दी"]}, 1) == 100


def test_precision_and_recall_by_hand():
    """Two of three words written, two of four wanted; and nothing in common."""
    found = precision_and_recall(["plot a line", "x"], ["plot one dashed line", "y"])
    assert found == (pytest.approx(100 * 2 / 3 / 2), pytest.approx(25))
