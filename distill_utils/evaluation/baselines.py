"""Make summaries with trivial baselines: the first sentences, the first words, the object's name."""

from __future__ import annotations

import re
from collections.abc import Callable

from distill_utils.studies.settings import Study


def baselines(study: Study) -> dict[str, Callable[[str], str]]:
    """Name → how it makes a summary of a document; the first is the lead baseline."""
    if study.corpus.path:
        return {
            "lead-sentence": lead,
            "lead-3-sentences": lambda document: lead(document, 3),
            "first-20-words": first_words,
        }
    return {
        "lead-sentence": lambda document: lead(details(document)),
        "first-12-words": lambda document: first_words(details(document), 12),
        "name": name_words,
    }


def lead(document: str, sentences: int = 1) -> str:
    """The first sentences."""
    return " ".join(re.split(r"(?<=[.!?])\s", document, maxsplit=sentences)[:sentences])


def first_words(document: str, words: int = 20) -> str:
    """The first words; 20 is about the length of a news summary of one sentence, 12 that of a docstring's."""
    return " ".join(document.split()[:words])


def details(document: str) -> str:
    """A docstring's text: all but the first line, which has name and signature."""
    return document.partition("\n")[2] or document


def name_words(document: str) -> str:
    """The words of the object's name: ``scipy.linalg.LinAlgError`` → ``lin alg error``."""
    name = re.split(r"[\s(]", document, maxsplit=1)[0].rpartition(".")[2]
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()
