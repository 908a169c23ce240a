"""Summarize by looking up: the summary of the most similar training document.

A lookup cannot summarize. Where it scores as high as a model, the test measures memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regex
from sklearn.feature_extraction.text import TfidfVectorizer

from distill_utils.metrics.words import CHARACTERS, UNICODE, lowered
from distill_utils.models.prepared import Prepared
from distill_utils.system.distributed import reuse
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress

LOOKUP = "lookup"
FILE = "lookup.json"
#: Words of a document that are compared: about as many as 128 tokens hold.
WORDS = 90
#: A test document with a cosine similarity of at least this to a training document has a close one.
CLOSE = 0.8
BATCH = 256
#: Letters with their marks, and digits; of Thai, Lao, Burmese, Khmer, Chinese and Japanese, which have no spaces, a single one.
WITHOUT_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = regex.compile(rf"[{WITHOUT_SPACES}]|(?!\p{{M}})(?:(?![{WITHOUT_SPACES}])[{CHARACTERS[UNICODE]}_])+")


def nearest(training: Sequence[str], documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the most similar training document and the cosine similarity, ``(documents,)`` each.

    Features are the tf–idf weights of the words in the first :data:`WORDS` words of a document, lower-case, with
    1 + log(tf) for the term frequency; inverse document frequencies come from the training documents. In scripts
    without spaces each character is a word. Without a common word the similarity is 0.
    """
    if not any(WORD.search(document) for document in training):
        return np.zeros(len(documents), int), np.zeros(len(documents))
    vectorizer = TfidfVectorizer(
        tokenizer=_words, lowercase=False, token_pattern=None, sublinear_tf=True, dtype=np.float32
    )
    known = vectorizer.fit_transform(training).T.tocsr()
    rows = vectorizer.transform(documents)
    found, similarity = np.zeros(len(documents), int), np.zeros(len(documents))
    for start in progress(range(0, len(documents), BATCH), desc="looking up", unit="batch"):
        products = (rows[start : start + BATCH] @ known).toarray()
        found[start : start + BATCH] = products.argmax(1)
        similarity[start : start + BATCH] = products.max(1)
    return found, similarity


def looked_up(prepared: Prepared) -> dict:
    """Look up the test documents in the training split.

    Returns:
        Lists with an item per test pair: ``summaries``, ``similarity`` and ``nearest`` (the training pair's index).
    """

    def compute() -> dict:
        train, test = prepared.corpus["train"], prepared.corpus["test"]
        found, similarity = nearest(train["document"][:], test["document"][:])
        summaries = train["summary"][:]
        return {
            "summaries": [summaries[i] for i in found],
            "similarity": similarity.round(4).tolist(),
            "nearest": found.tolist(),
        }

    key = fingerprint(prepared.fingerprint, code_fingerprint("evaluation.lookup"))
    return reuse(prepared.study.folder / LOOKUP / FILE, key, compute)


def close_share(similarity: Sequence[float]) -> float:
    """Return the fraction of documents with a close training document."""
    return float(np.mean(np.asarray(similarity) >= CLOSE))


def _words(document: str) -> list[str]:
    return WORD.findall(lowered(document))[:WORDS]
