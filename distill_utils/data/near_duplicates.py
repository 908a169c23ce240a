"""Find near-duplicate texts by the exact Jaccard similarity of their word shingles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from datasets import DatasetDict

from distill_utils.data.splits import SPLITS, normalized
from distill_utils.system.progress import progress

#: Validation and test documents, each, that :func:`leakage` compares with the training split.
LEAKAGE_SAMPLE = 5000
#: The words of a document, and the least words of a summary, that :func:`overlap` looks at.
FIRST_WORDS, LEAST_WORDS = 90, 4
#: Of the polynomial that hashes a sequence of words; odd, without a pattern in its bits.
FACTOR = np.uint64(0x9E3779B97F4A7C15)
#: The module before an object's name; what ends a document's first line.
MODULE, LINE = re.compile(r"^(?:\w+[.])+"), "\n"


def leakage(corpus: DatasetDict, jaccard: float) -> dict[str, int]:
    """Count the overlap between the splits; all counts should be 0.

    ``summaries_in_train``: validation and test summaries that have the words of a training summary.
    ``near_duplicates``: validation and test documents with a near duplicate (Jaccard similarity of 5-word shingles ≥
    ``jaccard``) in train, or test documents with one in validation, among the first :data:`LEAKAGE_SAMPLE` documents
    of each. For docstrings also ``signatures``, the same count for name, signature and summary, and
    ``packages_in_two_splits``.
    """
    known = {normalized(summary) for summary in corpus["train"]["summary"]}
    held_out = [s for split in ("validation", "test") for s in corpus[split]["summary"]]
    documents = {split: corpus[split]["document"][: None if split == "train" else LEAKAGE_SAMPLE] for split in SPLITS}
    found = {
        "summaries_in_train": sum(normalized(s) in known for s in held_out),
        "near_duplicates": _copied(documents, jaccard),
    }
    if "package" in corpus["train"].column_names:
        openings = {
            split: [signature_and_summary(d, s) for d, s in zip(texts, corpus[split]["summary"], strict=False)]
            for split, texts in documents.items()
        }
        packages = [name for split in SPLITS for name in {*corpus[split]["package"]}]
        found |= {"signatures": _copied(openings, jaccard), "packages_in_two_splits": len(packages) - len({*packages})}
    return found


def overlap(corpus: DatasetDict, jaccard: float) -> dict[str, int]:
    """Count what is left in the splits and may help a memory; these counts need not be 0.

    ``near_duplicates_in_first_words``: as ``near_duplicates`` of :func:`leakage`, by the first :data:`FIRST_WORDS` words
    of the documents, which is about what the models of the docstring study read.
    ``summaries_inside_documents``: validation and test summaries of at least :data:`LEAST_WORDS` words whose words stand
    in this order, without a gap, in a training document.
    """
    held_out = [s for split in ("validation", "test") for s in corpus[split]["summary"]]
    beginnings = {
        split: [" ".join(text.split()[:FIRST_WORDS]) for text in corpus[split]["document"][: None if split == "train" else LEAKAGE_SAMPLE]]
        for split in SPLITS
    }  # fmt: skip
    return {
        "near_duplicates_in_first_words": _copied(beginnings, jaccard),
        "summaries_inside_documents": sum(contained(held_out, corpus["train"]["document"])),
    }


def contained(phrases: Sequence[str], texts: Iterable[str]) -> list[bool]:
    """Return for each phrase whether a text has its words in this order, without a gap; False if it is too short."""
    wanted = [np.array([_word(word) for word in normalized(phrase).split()], np.uint64) for phrase in phrases]
    starting: dict[int, list[int]] = {}  # phrases by the hash of their first words
    for i, words in enumerate(wanted):
        if len(words) >= LEAST_WORDS:
            starting.setdefault(int(_sequences(words[:LEAST_WORDS], LEAST_WORDS)[0]), []).append(i)
    firsts = np.array(sorted(starting), np.uint64)
    found = [False] * len(phrases)
    for text in texts if starting else ():
        words = np.array([_word(word) for word in normalized(text).split()], np.uint64)
        hashes = _sequences(words, LEAST_WORDS)
        nearest = firsts[np.minimum(np.searchsorted(firsts, hashes), len(firsts) - 1)]
        for at in np.flatnonzero(nearest == hashes):
            for i in starting[int(hashes[at])]:
                found[i] = found[i] or np.array_equal(words[at : at + len(wanted[i])], wanted[i])
    return found


def _copied(texts: dict[str, list[str]], jaccard: float) -> int:
    """Count the held-out texts with a near duplicate in train, or in validation for a test text."""
    validation, test = texts["validation"], texts["test"]
    seen = NearDuplicates([*validation, *test], jaccard)
    for text in validation:
        seen.add(text)
    near = {len(validation) + i for i, text in enumerate(test) if seen.contains(text)}
    for text in test:
        seen.add(text)
    for text in progress(texts["train"], desc="near duplicates", unit="text"):
        near |= seen.matches(text)
    return len(near)


def signature_and_summary(document: str, summary: str) -> str:
    """Return a docstring's name without its module, its signature and its summary."""
    return f"{MODULE.sub('', document.partition(LINE)[0])} {summary}"


def shingles(text: str, size: int = 5) -> np.ndarray:
    """Return 64-bit hashes of the ``size``-word sequences of the normalized text (of the text itself if it is shorter).

    Returns:
        ``(shingles,)``, sorted, each once.
    """
    words = np.array([_word(word) for word in normalized(text).split()] or [0], np.uint64)
    return np.unique(_sequences(words, min(size, len(words))))


def _sequences(words: np.ndarray, size: int) -> np.ndarray:
    """Return a 64-bit hash of every ``size``-word sequence, ``(words − size + 1,)``; empty if there are fewer words."""
    total = np.full(max(0, len(words) - size + 1), size, np.uint64)
    for i in range(size):
        total = total * FACTOR + words[i : len(total) + i]
    return total


@lru_cache(maxsize=1_000_000)
def _word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


class NearDuplicates:
    """Exact search for documents whose 5-word shingles have Jaccard similarity ≥ ``threshold``.

    Prefix filtering (Chaudhuri et al. 2006; Xiao et al. 2008, "PPJoin"): with all shingles in one
    global order, two sets with J ≥ t must share one among the first |x| − ⌈t·|x|⌉ + 1 of each. Rarest
    first, this leaves few candidates, which are checked exactly. Unlike MinHash, it misses nothing.

    Args:
        texts: those whose shingles give the order; others may be searched and added.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        self.threshold = threshold
        every = [shingles(text) for text in texts]
        self._known, self._frequency = np.unique(np.concatenate([*every, [np.uint64(0)]]), return_counts=True)
        self._index: dict[int, list[int]] = {}
        self._kept: list[frozenset[int]] = []
        self._last: tuple[str, list[int]] = ("", [])

    def _ordered(self, text: str) -> list[int]:
        """Return the text's shingles, rarest first; equally rare ones by their hash."""
        if text != self._last[0] or not self._last[1]:  # a text is often added after it was searched
            items = shingles(text)
            place = np.searchsorted(self._known, items)
            place = np.minimum(place, len(self._known) - 1)
            frequency = np.where(self._known[place] == items, self._frequency[place], 0)
            self._last = text, items[np.argsort(frequency, kind="stable")].tolist()
        return self._last[1]

    def _prefix(self, ordered: list[int]) -> list[int]:
        needed = math.ceil(self.threshold * len(ordered) - 1e-9)  # ⌈t·|x|⌉; in floats, 0.28 · 25 > 7
        return ordered[: len(ordered) - needed + 1]

    def matches(self, text: str) -> set[int]:
        """Return the indices of the added texts that are near duplicates of this one."""
        items = self._ordered(text)
        candidates = {i for s in self._prefix(items) for i in self._index.get(s, ())}
        near = set()
        for i in candidates:
            common = len(self._kept[i].intersection(items))
            if common / (len(items) + len(self._kept[i]) - common) >= self.threshold:
                near.add(i)
        return near

    def contains(self, text: str) -> bool:
        """Return whether an added text is a near duplicate of this one."""
        return bool(self.matches(text))

    def add(self, text: str) -> None:
        items = self._ordered(text)
        for s in self._prefix(items):
            self._index.setdefault(s, []).append(len(self._kept))
        self._kept.append(frozenset(items))
