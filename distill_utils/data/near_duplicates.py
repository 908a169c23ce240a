"""Find near-duplicate texts by the exact Jaccard similarity of their word shingles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from datasets import DatasetDict

from distill_utils.data.splits import normalized
from distill_utils.system.progress import progress

#: Validation and test documents, each, that :func:`leakage` compares with the training split.
LEAKAGE_SAMPLE = 5000


def leakage(corpus: DatasetDict, jaccard: float) -> dict[str, int]:
    """Count the overlap between evaluation and training splits; all counts should be 0.

    ``summaries_in_train``: validation and test summaries that have the words of a training summary.
    ``near_duplicates``: validation and test documents with a near duplicate (Jaccard similarity of
    5-word shingles ≥ ``jaccard``) in train, or test documents with one in validation, among the first
    :data:`LEAKAGE_SAMPLE` documents of each.
    """
    known = {normalized(summary) for summary in corpus["train"]["summary"]}
    held_out = [s for split in ("validation", "test") for s in corpus[split]["summary"]]
    validation, test = (corpus[split]["document"][:LEAKAGE_SAMPLE] for split in ("validation", "test"))
    seen = NearDuplicates([*validation, *test], jaccard)
    for document in validation:
        seen.add(document)
    near = {len(validation) + i for i, document in enumerate(test) if seen.contains(document)}
    for document in test:
        seen.add(document)
    for document in progress(corpus["train"]["document"], desc="near duplicates", unit="document"):
        near |= seen.matches(document)
    return {"summaries_in_train": sum(normalized(s) in known for s in held_out), "near_duplicates": len(near)}


def shingles(text: str, size: int = 5) -> frozenset[str]:
    """Return the set of ``size``-word sequences of the normalized text (the text itself if it is shorter)."""
    words = normalized(text).split()
    return frozenset(" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1)))


class NearDuplicates:
    """Exact search for documents whose 5-word shingles have Jaccard similarity ≥ ``threshold``.

    Prefix filtering (Chaudhuri et al. 2006; Xiao et al. 2008, "PPJoin"): with all shingles in one
    global order, two sets with J ≥ t must share one among the first |x| − ⌈t·|x|⌉ + 1 of each. Rarest
    first, this leaves few candidates, which are checked exactly. Unlike MinHash, it misses nothing.
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        self.threshold = threshold
        self._frequency = Counter(s for text in texts for s in shingles(text))
        self._index: dict[str, list[int]] = {}
        self._kept: list[frozenset[str]] = []

    def _prefix(self, items: frozenset[str]) -> list[str]:
        ordered = sorted(items, key=lambda s: (self._frequency[s], s))
        needed = math.ceil(self.threshold * len(items) - 1e-9)  # ⌈t·|x|⌉; in floats, 0.28 · 25 > 7
        return ordered[: len(items) - needed + 1]

    def matches(self, text: str) -> set[int]:
        """Return the indices of the added texts that are near duplicates of this one."""
        items = shingles(text)
        candidates = {i for s in self._prefix(items) for i in self._index.get(s, ())}
        near = set()
        for i in candidates:
            common = len(items & self._kept[i])
            if common / (len(items) + len(self._kept[i]) - common) >= self.threshold:
                near.add(i)
        return near

    def contains(self, text: str) -> bool:
        """Return whether an added text is a near duplicate of this one."""
        return bool(self.matches(text))

    def add(self, text: str) -> None:
        items = shingles(text)
        for s in self._prefix(items):
            self._index.setdefault(s, []).append(len(self._kept))
        self._kept.append(items)
