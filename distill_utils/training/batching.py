"""Batch pairs of similar length, with a bound on the tokens of a batch, and pad them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.training.losses import IGNORED

#: Source lengths are rounded up to a multiple of this; pairs with equal rounded lengths are sorted by
#: target length, because each padded target token costs a decoder position and a row of logits.
STEP = 16
#: Minimum number of batches in a bucket, so that batches differ between epochs.
BATCHES_PER_BUCKET = 4
#: Columns of the teacher cache, and the column whose tokens they belong to.
CACHED = {"teacher_states": "labels", "encoder_states": "input_ids"}


class BucketSampler(torch.utils.data.Sampler):
    """Sample batches of pairs of similar length, in an order set by seed and epoch alone.

    Pairs are sorted by source and target length and split into buckets once. Every epoch shuffles the
    pairs within each bucket, splits it into batches of about equal size, and shuffles the batches of all
    buckets. The number of batches is the same in every epoch. A resumed training sees the same order.

    Args:
        source, target: number of tokens of each pair.
        batch_size: maximum number of pairs in a batch.
        batch_tokens: maximum number of source and target tokens in a batch, padding included; 0: no limit.
            A longer pair forms a batch of its own.
        seed: together with :meth:`set_epoch`, determines the order.
        share: this process's rank and the number of processes; every batch is split between them.

    Raises:
        ValueError: if a batch has fewer pairs than there are processes.
    """

    def __init__(
        self,
        source: Sequence[int],
        target: Sequence[int],
        *,
        batch_size: int,
        batch_tokens: int = 0,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.seed, self.epoch, (self.rank, self.world_size) = seed, 0, share
        source, target = np.asarray(source), np.asarray(target)

        def most(longest: np.ndarray) -> int:
            """Return the maximum number of pairs in a batch with these maximum lengths."""
            return min(batch_size, max(1, batch_tokens // max(1, int(longest.sum())))) if batch_tokens else batch_size

        order = np.lexsort((np.arange(len(source)), target, -(-source // STEP)))
        self.buckets: list[tuple[np.ndarray, int]] = []  # pairs, number of batches
        start = 0
        while start < len(order):
            end, size = start, batch_size
            longest = np.zeros(2, int)
            while end < len(order) and end - start < BATCHES_PER_BUCKET * size:
                longest = np.maximum(longest, (source[order[end]], target[order[end]]))
                size = most(longest)
                end += 1
            if len(order) - end < size:  # a bucket of few pairs would give a small batch in every epoch
                end = len(order)
                size = most(np.array([lengths[order[start:]].max() for lengths in (source, target)]))
            self.buckets.append((order[start:end], math.ceil((end - start) / size)))
            start = end
        if min((len(pairs) // batches for pairs, batches in self.buckets), default=1) < self.world_size:
            raise ValueError(f"some batches have fewer pairs than the {self.world_size} processes that split them")

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(batches for _, batches in self.buckets)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        batches = [
            batch for pairs, count in self.buckets for batch in np.array_split(generator.permutation(pairs), count)
        ]
        for i in generator.permutation(len(batches)):
            yield batches[i][self.rank :: self.world_size].tolist()


class Collator:
    """Pad a batch of pairs, including the columns of the teacher cache.

    A column of :data:`CACHED` holds ``width`` numbers per token and becomes ``(pairs, tokens, width)``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self.fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        self.model = model

    def __call__(self, pairs: list[dict]) -> dict[str, torch.Tensor]:
        batch = {}  # equals DataCollatorForSeq2Seq, without converting to lists
        for name, fill in self.fill.items():
            rows = [np.asarray(pair[name]) for pair in pairs]
            padded = np.full((len(rows), max(map(len, rows))), fill)
            for place, row in zip(padded, rows, strict=True):
                place[: len(row)] = row
            batch[name] = torch.from_numpy(padded)
        batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        for name, side in CACHED.items():
            if name in pairs[0]:
                rows = [np.asarray(pair[name]).reshape(len(pair[side]), -1) for pair in pairs]
                padded = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), rows[0].dtype)
                for place, row in zip(padded, rows, strict=True):
                    place[: len(row)] = row
                batch[name] = torch.from_numpy(padded)
        return batch
