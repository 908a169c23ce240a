"""Statistics of summaries beyond ROUGE, by hand."""

import pytest

from distill_utils.metrics.rouge import precision_and_recall
from distill_utils.metrics.text_statistics import stutters


def test_a_word_three_times_in_a_row_is_a_stutter():
    texts = ["a a b a", "the The, the end", "node node node", "nodes nodes node", "an anan an", "word word wordy", ""]
    assert stutters(texts) == 2


def test_precision_and_recall_by_hand():
    """Two of three words written, two of four wanted; and nothing in common."""
    found = precision_and_recall(["plot a line", "x"], ["plot one dashed line", "y"])
    assert found == (pytest.approx(100 * 2 / 3 / 2), pytest.approx(25))
