"""Tokenize pairs, count tokens, and truncate very long documents before they are tokenized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from distill_utils.data.corpus import load_corpus
from distill_utils.studies.settings import CorpusSettings, Study


def tokenize(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, settings: CorpusSettings) -> Dataset:
    """``input_ids``, ``attention_mask``, ``labels`` and ``length`` (source tokens), cut at the study's lengths."""

    def encode(batch: dict) -> dict:
        documents = beginnings(batch["document"], tokenizer, settings.max_source_tokens)
        encoded = tokenizer(documents, max_length=settings.max_source_tokens, truncation=True)
        targets = tokenizer(text_target=batch["summary"], max_length=settings.max_target_tokens, truncation=True)
        return {**encoded, "labels": targets["input_ids"], "length": [len(ids) for ids in encoded["input_ids"]]}

    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokenizing")


def token_lengths(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """Tokens of every ``document`` and ``summary``, uncut, special tokens included: ``(pairs,)`` each."""

    def count(batch: dict) -> dict:
        return {side: [len(ids) for ids in tokenizer(batch[side])["input_ids"]] for side in ("document", "summary")}

    counted = pairs.map(count, batched=True, remove_columns=pairs.column_names, desc="counting tokens")
    return {side: np.asarray(counted[side]) for side in ("document", "summary")}


def cut_counts(study: Study, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """How many documents and summaries, over all splits, are longer than the study's limits and so cut."""
    limits = {"document": study.corpus.max_source_tokens, "summary": study.corpus.max_target_tokens}
    counted = [token_lengths(pairs, tokenizer) for pairs in load_corpus(study).values()]
    return {side: int(sum((lengths[side] > limit).sum() for lengths in counted)) for side, limit in limits.items()}


#: Characters of a document from which it is not given to a tokenizer as a whole.
LONG = 100_000


def beginnings(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    """Of very long documents no more than can matter: a tokenizer takes seconds for 10 MB, all but whose beginning is then cut off."""
    if all(len(document) <= LONG for document in documents) or tokenizer.truncation_side != "right":
        return list(documents)
    longest = max(map(len, tokenizer.get_vocab()))
    most = max(LONG, 2 * max_tokens * longest)  # twice: where the cut falls, words may be split into other tokens

    def beginning(document: str) -> str:
        if len(document) <= most:
            return document
        found = tokenizer(document[:most], max_length=max_tokens, truncation=True)["input_ids"]
        return document[:most] if len(found) == max_tokens else document  # spaces that the tokenizer takes for one, say

    return [beginning(document) for document in documents]
