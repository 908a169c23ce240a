"""Assign texts to splits by a hash, so that equal summaries are always in the same split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from distill_utils.metrics.words import unicode_words

SPLITS = ("train", "validation", "test")


def drawn(ids: Sequence[str], count: int) -> list[int]:
    """Return the indices of ``count`` ids drawn by a hash: a subset of every larger draw, the same on every machine."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(str(ids[i]).encode()).digest())
    return order[:count]


def fold(text: str) -> str:
    """Fold white space, including line breaks, to single spaces."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())  # without lone surrogates


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def normalized(text: str) -> str:
    """Return the lower-case words without punctuation; two summaries with equal words count as equal."""
    return " ".join(unicode_words(text))


def split_of(summary: str) -> str:
    """Return ``train`` (80 %), ``validation`` or ``test`` (10 % each) by a hash of the summary's words."""
    words = normalized(summary) or fold(summary)  # without a letter or a digit
    bucket = int(digest(words)[:8], 16) % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]
