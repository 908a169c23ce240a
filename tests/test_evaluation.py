"""Baselines and the description of texts."""

import pytest
from datasets import Dataset

from distill_utils.evaluation import first_words, lead_sentence, name_words, novel_ngrams

DOCUMENT = "scipy.linalg.LinAlgError2D.raise_it(a, b=2)\nRaised by functions. See e.g. `inv`. " + "word " * 20


@pytest.mark.parametrize(
    ("baseline", "document", "summary"),
    [
        (lead_sentence, DOCUMENT, "Raised by functions."),
        (lead_sentence, "No line break here. Second.", "No line break here."),
        (first_words, DOCUMENT, "Raised by functions. See e.g. `inv`. word word word word word word"),
        (name_words, DOCUMENT, "raise it"),
        (name_words, "scipy.linalg.LinAlgError2D()\nx", "lin alg error 2 d"),
        (name_words, "torch.nn.functional.cross_entropy(x)\ny", "cross entropy"),
        (name_words, "", ""),
    ],
)
def test_baselines(baseline, document, summary):
    assert baseline(document) == summary


def test_novel_ngrams_by_hand():
    pairs = Dataset.from_dict({"document": ["the cat sat on the mat"], "summary": ["A cat sat down"]})
    assert novel_ngrams(pairs, 1) == 50.0  # a, down
    assert novel_ngrams(pairs, 2) == pytest.approx(200 / 3)  # of a cat, cat sat, sat down only one is there
    assert novel_ngrams(pairs, 4) == 100.0
    assert novel_ngrams(pairs, 9) == 0.0
