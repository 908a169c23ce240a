"""Describe summaries beyond ROUGE: length, novel and repeated n-grams, exact matches."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import regex
from datasets import Dataset

from distill_utils.metrics.rouge import rouge_scores
from distill_utils.metrics.words import CHARACTERS, ENGLISH, UNICODE, lowered

#: A word, which may begin with an underscore but not with a mark.
WORD = rf"(?!\p{{M}})[{CHARACTERS[UNICODE]}_]+"


def describe_texts(
    predictions: Sequence[str], pairs: Dataset, teacher_predictions: Sequence[str] | None = None, words: str = ENGLISH
) -> dict[str, float]:
    """Return statistics of summaries that ROUGE does not cover.

    Returns:
        ``length_ratio``: words of the predictions ÷ words of the references; percentages of
        ``novel_bigrams`` (absent from the document), ``repeated_bigrams`` (occurred earlier in the
        summary) and ``reference_share`` (exact matches, by words); ``teacher_agreement``: ROUGE-L
        against the teacher's summaries, of such ``words``.
    """
    written, wanted = (sum(len(text.split()) for text in texts) for texts in (predictions, pairs["summary"]))
    bigrams = [_ngrams(text, 2) for text in predictions]
    total = sum(b.total() for b in bigrams)
    exact = sum(_composed(p) == _composed(r) for p, r in zip(predictions, pairs["summary"], strict=True))
    found = {
        "length_ratio": written / wanted if wanted else 0.0,
        "novel_bigrams": novel_ngrams({"document": pairs["document"], "summary": predictions}, 2),
        "repeated_bigrams": 100 * sum(b.total() - len(b) for b in bigrams) / total if total else 0.0,
        "reference_share": 100 * exact / len(predictions),
    }
    if teacher_predictions is not None:
        found["teacher_agreement"] = float(rouge_scores(predictions, teacher_predictions, words)["rougeL"].mean())
    return found


def novel_ngrams(pairs: Mapping[str, Sequence[str]], n: int) -> float:
    """Return the percentage of the summaries' n-grams that their document lacks (Narayan et al. 2018)."""
    novel = total = 0
    for document, summary in zip(pairs["document"], pairs["summary"], strict=True):
        inside, wanted = _ngrams(document, n), _ngrams(summary, n)
        total += wanted.total()
        novel += sum(count for gram, count in wanted.items() if gram not in inside)
    return 100 * novel / total if total else 0.0


def stutters(texts: Sequence[str]) -> int:
    """Count the texts in which a word occurs three times in a row."""
    found = (regex.findall(WORD, lowered(text)) for text in texts)
    return sum(any(a == b == c for a, b, c in zip(w, w[1:], w[2:], strict=False)) for w in found)


def _composed(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()


def _ngrams(text: str, n: int) -> Counter:
    words = regex.findall(rf"{WORD}|\S", lowered(text))
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))
