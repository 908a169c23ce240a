"""Build denoising examples by text infilling, as for BART (Lewis et al. 2019, arXiv 1910.13461)."""

from __future__ import annotations

import numpy as np
import torch
from transformers import BartTokenizer

from distill_utils.data.docstrings import Docstring


def infill(
    ids: np.ndarray, mask_id: int, rng: np.random.Generator, ratio: float = 0.3, mean_span: float = 3.0
) -> np.ndarray:
    """Replace spans that cover ``ratio`` of the tokens by one mask each.

    Span lengths are Poisson(``mean_span``) but at least 1; BART's spans of length 0 are not used.

    Args:
        ids: ``(length,)`` token ids without special tokens.
        mask_id: token id of the mask.
    """
    length = len(ids)
    hidden = np.zeros(length, bool)
    budget = round(ratio * length)
    while (left := budget - int(hidden.sum())) > 0:
        span = min(max(1, int(rng.poisson(mean_span))), left)
        start = int(rng.integers(0, length - span + 1))
        hidden[start : start + span] = True
    opens_span = hidden & ~np.concatenate([[False], hidden[:-1]])
    return np.where(opens_span, mask_id, ids)[~hidden | opens_span]


class DenoisingWindows(torch.utils.data.Dataset):
    """Random windows of the token stream, corrupted and original; item i is always the same."""

    def __init__(self, stream: np.ndarray, tokenizer: BartTokenizer, window: int, size: int, seed: int) -> None:
        self.stream, self.window, self.size, self.seed = stream, window, size, seed
        self.bos, self.eos, self.mask = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        rng = np.random.default_rng((self.seed, index))
        start = int(rng.integers(0, len(self.stream) - self.window + 1))
        ids = self.stream[start : start + self.window]
        source = [self.bos, *infill(ids, self.mask, rng).tolist(), self.eos]
        return {"input_ids": source, "attention_mask": [1] * len(source), "labels": [self.bos, *ids.tolist(), self.eos]}


def token_stream(docstrings: list[Docstring], tokenizer: BartTokenizer) -> np.ndarray:
    """Concatenate all texts, each followed by ``</s>``: ``(tokens,)``, int32."""
    texts = [f"{d.name}{d.signature}\n{d.summary} {d.details}".rstrip() for d in docstrings]
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return np.concatenate([np.asarray([*ids, tokenizer.eos_token_id], np.int32) for ids in encoded])
