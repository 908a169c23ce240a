"""Tokenize pairs, count tokens, and truncate very long documents before tokenization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from distill_utils.data.corpus import load_corpus
from distill_utils.studies.settings import CorpusSettings, Study

#: Documents of more characters are truncated before tokenization.
LONG = 100_000


def tokenize(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, settings: CorpusSettings) -> Dataset:
    """Return ``input_ids``, ``attention_mask``, ``labels`` and ``length`` (source tokens), truncated to the study's lengths."""

    def encode(batch: dict) -> dict:
        documents = beginnings(batch["document"], tokenizer, settings.max_source_tokens)
        encoded = tokenizer(documents, max_length=settings.max_source_tokens, truncation=True)
        targets = tokenizer(text_target=batch["summary"], max_length=settings.max_target_tokens, truncation=True)
        return {**encoded, "labels": targets["input_ids"], "length": [len(ids) for ids in encoded["input_ids"]]}

    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokenizing")


def opening(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many special tokens every summary begins with: BART's have one, T5's and Pegasus' none."""
    ids = tokenizer(text_target="")["input_ids"]
    return ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else 0


def token_lengths(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """Count the tokens of every ``document`` and ``summary``, untruncated, with special tokens: ``(pairs,)`` each."""

    def count(batch: dict) -> dict:
        return {side: [len(ids) for ids in tokenizer(batch[side])["input_ids"]] for side in ("document", "summary")}

    counted = pairs.map(count, batched=True, remove_columns=pairs.column_names, desc="counting tokens")
    return {side: np.asarray(counted[side]) for side in ("document", "summary")}


def cut_counts(study: Study, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Count the documents and summaries of all splits that are truncated to the study's limits."""
    limits = {"document": study.corpus.max_source_tokens, "summary": study.corpus.max_target_tokens}
    counted = [token_lengths(pairs, tokenizer) for pairs in load_corpus(study).values()]
    return {side: int(sum((lengths[side] > limit).sum() for lengths in counted)) for side, limit in limits.items()}


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the positions of texts in batches of texts of similar length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + size] for start in range(0, len(order), size)]


def beginnings(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    """Truncate very long documents to more than ``max_tokens`` need: tokenizing 10 MB takes seconds."""
    if all(len(document) <= LONG for document in documents) or tokenizer.truncation_side != "right":
        return list(documents)
    longest = max(map(len, tokenizer.get_vocab()))
    most = max(LONG, 2 * max_tokens * longest)  # twice: at the cut, words may be split into other tokens

    def beginning(document: str) -> str:
        if len(document) <= most:
            return document
        found = tokenizer(document[:most], max_length=max_tokens, truncation=True)["input_ids"]
        return document[:most] if len(found) == max_tokens else document  # e.g. merged spaces

    return [beginning(document) for document in documents]
