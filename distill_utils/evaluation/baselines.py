"""Summarize without a model: first sentences, first words, or the object's name; ``lookup.py`` has the lookup."""

from __future__ import annotations

import re
from collections.abc import Callable

from distill_utils.data.splits import fold
from distill_utils.metrics.words import sentences
from distill_utils.studies.settings import Study


def baselines(study: Study) -> dict[str, Callable[[str], str]]:
    """Return the baselines that read one document, by name, as functions of it; the first is the lead baseline."""
    if study.corpus.path:
        own = study.corpus.prefix  # no part of the document's text
        return {
            "lead-sentence": lambda document: lead(document.removeprefix(own)),
            "lead-3-sentences": lambda document: lead(document.removeprefix(own), 3),
            "first-20-words": lambda document: first_words(document.removeprefix(own)),
        }
    return {
        "lead-sentence": lambda document: lead(details(document)),
        "first-12-words": lambda document: first_words(details(document), 12),
        "name": name_words,
    }


def lead(document: str, count: int = 1) -> str:
    """Return the first sentences."""
    return " ".join(sentences(fold(document))[:count])


def first_words(document: str, words: int = 20) -> str:
    """Return the first words; 20 is about the length of a one-sentence news summary."""
    return " ".join(document.split()[:words])


def details(document: str) -> str:
    """Return a docstring's text without the first line, which has name and signature."""
    return document.partition("\n")[2] or document


def name_words(document: str) -> str:
    """Return the words of the object's name: ``scipy.linalg.LinAlgError`` → ``lin alg error``."""
    name = re.split(r"[\s(]", document, maxsplit=1)[0].rpartition(".")[2]
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()
