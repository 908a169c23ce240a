"""Compute ROUGE F1 in points (0 to 100) as an ``evaluate.Metric`` over ``rouge_score``.

``evaluate.load("rouge")`` downloads its script from the Hub; this class computes the same offline.
rougeLsum compares sentence by sentence, as ``rouge_score`` does for texts with a sentence a line, such as CNN/DailyMail's
references. A text of one line is split into sentences first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from distill_utils.metrics.significance import mean_interval
from distill_utils.metrics.words import ENGLISH, sentences, word_tokenizer
from distill_utils.system.progress import progress
from distill_utils.system.workers import worker_pool

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
CHUNK = 250  # pairs per task of a worker process; up to two chunks are scored in this process


class Rouge(evaluate.Metric):
    """``Rouge().compute(predictions=…, references=…)`` returns each type's mean F1 and its 95 % interval.

    With ``per_example=True`` it also returns the F1 of every pair, as ``rouge1_scores`` and so on.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F1 in points, of English words with Porter stemming.",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description="predictions and references: two lists of texts of equal length.",
            features=datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("string"))),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str], per_example: bool = False) -> dict:
        scores = rouge_scores(predictions, references)
        return {
            **({f"{kind}_scores": scores[kind].tolist() for kind in TYPES} if per_example else {}),
            **{kind: float(scores[kind].mean()) for kind in TYPES},
            **{f"{kind}_ci": list(mean_interval(scores[kind])) for kind in TYPES},
        }


def rouge_scores(predictions: Sequence[str], references: Sequence[str], words: str = ENGLISH) -> dict[str, np.ndarray]:
    """Return the F1 of every pair, in points: an array ``(pairs,)`` for each of :data:`TYPES`.

    Args:
        words: what a word is; see :mod:`distill_utils.metrics.words`.

    Raises:
        ValueError: if there are no texts, or the numbers of predictions and references differ.
    """
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(f"ROUGE needs as many predictions as references, not {len(predictions)} and {len(references)}")
    pairs = list(zip(predictions, references, strict=True))
    chunks = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    score = partial(_score, words=words)
    if len(chunks) < 3:
        rows = [row for chunk in chunks for row in score(chunk)]
    else:
        with worker_pool(os.cpu_count()) as pool:
            scored = progress(pool.map(score, chunks), total=len(chunks), desc="ROUGE", unit="chunk")
            rows = [row for chunk in scored for row in chunk]
    return dict(zip(TYPES, np.asarray(rows).T, strict=True))


def precision_and_recall(
    predictions: Sequence[str], references: Sequence[str], words: str = ENGLISH
) -> tuple[float, float]:
    """Return the mean ROUGE-L precision and recall, in points: short summaries have a low recall."""
    scorer = RougeScorer(["rougeL"], tokenizer=word_tokenizer(words))
    scored = [scorer.score(r, p)["rougeL"] for p, r in zip(predictions, references, strict=True)]
    return tuple(100 * float(np.mean([getattr(s, side) for s in scored])) for side in ("precision", "recall"))


def _score(pairs: list[tuple[str, str]], words: str) -> list[list[float]]:
    scorer = RougeScorer(list(TYPES), tokenizer=word_tokenizer(words))
    lines = [["\n".join(sentences(text)) for text in pair] for pair in pairs]
    scored = (scorer.score(target=reference, prediction=prediction) for prediction, reference in lines)
    return [[100 * score[kind].fmeasure for kind in TYPES] for score in scored]
