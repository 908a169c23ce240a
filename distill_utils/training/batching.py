"""Batches of pairs: lengths enter, batches of similar length with a bounded number of tokens leave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.training.losses import IGNORED

#: Source lengths are compared in steps of this many tokens, so that pairs of about the same length are
#: sorted by their targets, whose padding costs a decoder position and a row of logits each.
STEP = 16
#: A bucket holds at least so many batches, for batches to differ from epoch to epoch.
BATCHES_PER_BUCKET = 4
#: Columns of ``teacher_outputs``, and whose tokens they go with.
CACHED = {"teacher_states": "labels", "encoder_states": "input_ids"}


class BucketSampler(torch.utils.data.Sampler):
    """Batches of pairs of similar length, in an order that depends on seed and epoch alone.

    Pairs are sorted by source and target length and cut into buckets once. Every epoch shuffles the pairs within
    each bucket, cuts it into batches of about equal size, and shuffles the batches of all buckets. The number of batches is the
    same in every epoch, and a resumed training finds the order that the unbroken one had.

    Args:
        source, target: tokens of every pair.
        batch_size: most pairs of a batch.
        batch_tokens: most tokens of a batch, source and target with their padding; 0 for no such bound. A pair
            that is longer than that makes a batch of its own.
        seed: with :meth:`set_epoch`, of the order.
        share: rank and number of the processes that share every batch out, so that any number of them sees the same batches.
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
            """Pairs that a batch may hold when its longest texts have so many tokens."""
            return min(batch_size, max(1, batch_tokens // max(1, int(longest.sum())))) if batch_tokens else batch_size

        order = np.lexsort((np.arange(len(source)), target, -(-source // STEP)))
        self.buckets: list[tuple[np.ndarray, int]] = []  # pairs, and how many batches they make
        start = 0
        while start < len(order):
            end, size = start, batch_size
            longest = np.zeros(2, int)
            while end < len(order) and end - start < BATCHES_PER_BUCKET * size:
                longest = np.maximum(longest, (source[order[end]], target[order[end]]))
                size = most(longest)
                end += 1
            if len(order) - end < size:  # no bucket of a few pairs: they would make a small batch in every epoch
                end = len(order)
                size = most(np.array([lengths[order[start:]].max() for lengths in (source, target)]))
            self.buckets.append((order[start:end], math.ceil((end - start) / size)))
            start = end
        if min((len(pairs) // batches for pairs, batches in self.buckets), default=1) < self.world_size:
            raise ValueError(
                f"there are batches with fewer pairs than the {self.world_size} processes that share them out"
            )

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
    """Pads a batch: tokens, and what was computed once for the pairs (see ``teacher_outputs``).

    A column of :data:`CACHED`, which holds ``width`` numbers per token, becomes a tensor ``(pairs, tokens, width)``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self.fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        self.model = model

    def __call__(self, pairs: list[dict]) -> dict[str, torch.Tensor]:
        batch = {}  # as the library's DataCollatorForSeq2Seq has it, without its way through lists
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
