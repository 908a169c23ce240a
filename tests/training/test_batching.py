"""Batches: every pair once an epoch, within the bounds, the same for any number of processes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import DataCollatorForSeq2Seq

from distill_utils.models.checkpoint import load_model
from distill_utils.system.paths import ROOT
from distill_utils.training.batching import CACHED, BucketSampler, Collator
from distill_utils.training.losses import IGNORED
from tests.helpers.properties import examples, lists

#: As they are, and of any kind: no token, one, or more than any model reads.
USUAL = lists(st.tuples(st.integers(1, 128), st.integers(1, 48)), 1, 120)
LENGTHS = USUAL | lists(st.tuples(*[st.integers(0, 20) | st.just(2**40)] * 2), 1, 40)


@examples(100)
@given(
    lengths=LENGTHS,
    batch_size=st.integers(1, 40),
    batch_tokens=st.sampled_from([0, 1, 300, 2000]),
    epoch=st.integers(0, 3),
)
@example(lengths=[(0, 0)] * 5, batch_size=4, batch_tokens=300, epoch=0)
@example(lengths=[(10, 1)] * 36 + [(60, 1)] * 8, batch_size=10, batch_tokens=100, epoch=0)  # a longer remainder
def test_every_pair_once_and_no_batch_over_its_bounds(lengths, batch_size, batch_tokens, epoch):
    source, target = np.array(lengths).T
    sampler = BucketSampler(source, target, batch_size=batch_size, batch_tokens=batch_tokens, seed=1)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        padded = len(batch) * (source[batch].max() + target[batch].max())
        assert not batch_tokens or padded <= batch_tokens or len(batch) == 1


@examples(60)
@given(LENGTHS, st.integers(1, 40), st.sampled_from([0, 300, 2000]), st.integers(0, 99), st.integers(0, 99))
def test_a_sampler_made_anew_goes_on_in_the_same_order_and_epochs_have_as_many_batches(
    lengths, batch_size, batch_tokens, seed, epoch
):
    source, target = np.array(lengths).T

    def order(seed, epoch):
        sampler = BucketSampler(source, target, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        return batches

    assert order(seed, epoch) == order(seed, epoch)
    others = [order(seed, epoch + 1), order(seed + 1, epoch)]
    assert all(len(other) == len(order(seed, epoch)) for other in others)
    if len(lengths) >= 40 and batch_size > 1:  # as good as never shuffled into the same order
        assert order(seed, epoch) not in others


@examples(60)
@given(LENGTHS, st.integers(1, 40), st.sampled_from([0, 300, 2000]), st.integers(2, 4), st.integers(0, 3))
def test_shares_of_processes_are_apart_and_together_the_whole_batch(
    lengths, batch_size, batch_tokens, world_size, epoch
):
    source, target = np.array(lengths).T

    def batches(**share):
        sampler = BucketSampler(source, target, batch_size=batch_size, batch_tokens=batch_tokens, seed=3, **share)
        sampler.set_epoch(epoch)
        return list(sampler)

    whole = batches()
    try:
        shares = [batches(share=(rank, world_size)) for rank in range(world_size)]
    except ValueError:
        assert min(map(len, whole)) < world_size, "nothing is refused that can be shared out"
        return
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(i for part in parts for i in part), "every pair in one share"
        assert min(map(len, parts)) >= 1 and max(map(len, parts)) - min(map(len, parts)) <= 1


def drawn(count=20_000):
    generator = np.random.default_rng(0)
    return generator.integers(1, 129, count), generator.integers(1, 49, count)


def test_the_order_depends_on_seed_and_epoch_alone():
    source, target = drawn()

    def order(seed, epoch):
        sampler = BucketSampler(source, target, batch_size=32, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    batches = [{frozenset(batch) for batch in order(0, epoch)} for epoch in (0, 1)]
    assert len(batches[0] & batches[1]) <= 1, "batches are made anew; the last bucket may hold but one"


def test_there_is_little_padding():
    source, target = drawn()
    sampler = BucketSampler(source, target, batch_size=32, batch_tokens=4096)
    padded = sum(len(b) * (source[b].max() + target[b].max()) for b in map(np.array, sampler))
    assert padded < 1.25 * (source.sum() + target.sum())
    random = np.random.default_rng(0).permutation(20_000).reshape(-1, 32)
    assert 1.5 * (source.sum() + target.sum()) < sum(32 * (source[b].max() + target[b].max()) for b in random)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_same_batches_out(world_size):
    source, target = drawn(500)
    whole = list(BucketSampler(source, target, batch_size=12, seed=5))
    shares = [
        list(BucketSampler(source, target, batch_size=12, seed=5, share=(rank, world_size)))
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(i for part in parts for i in part) and all(parts)


def test_fewer_pairs_than_processes_are_refused():
    with pytest.raises(ValueError, match="fewer pairs than the 4 processes"):
        BucketSampler([3, 3], [2, 2], batch_size=8, share=(0, 4))


@pytest.mark.parametrize("count", [257, 300, 519])
def test_no_batch_is_a_remainder(count):
    sampler = BucketSampler([100] * count, [10] * count, batch_size=64)
    assert min(len(batch) for batch in sampler) > 32


def test_batches_are_padded_as_the_library_does():

    model, tokenizer = load_model(ROOT / "models" / "docstrings_teacher")
    texts = ["A short one.", "A longer text, of more words than the others have.", "x"]
    encoded = tokenizer(texts, text_target=texts[::-1])
    pairs = [{name: encoded[name][i] for name in ("input_ids", "attention_mask", "labels")} for i in range(3)]
    wanted = dict(DataCollatorForSeq2Seq(tokenizer, model=model)([dict(pair) for pair in pairs]))
    for form in (pairs, [{name: np.asarray(ids) for name, ids in pair.items()} for pair in pairs]):
        batch = Collator(tokenizer, model)([{**pair, "length": 3} for pair in form])
        assert batch.keys() == wanted.keys()
        for name, tensor in batch.items():
            assert torch.equal(tensor, wanted[name]) and tensor.dtype == wanted[name].dtype, name


@examples(60)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6), st.integers(1, 3))
def test_padding_adds_to_a_pair_and_takes_nothing_from_it(lengths, width):
    collate = Collator(
        SimpleNamespace(pad_token_id=1), SimpleNamespace(prepare_decoder_input_ids_from_labels=lambda labels: labels)
    )
    rng = np.random.default_rng(0)
    pairs = []
    for source, target in lengths:
        pair = {"input_ids": rng.integers(5, 99, source), "attention_mask": np.ones(source, int)}
        pair["labels"] = rng.integers(5, 99, target)
        cached = {name: rng.normal(size=(len(pair[side]), width)).ravel() for name, side in CACHED.items()}
        pairs.append({**pair, **cached})
    batch = collate(pairs)
    for name, filling in [
        ("input_ids", 1),
        ("attention_mask", 0),
        ("labels", IGNORED),
        *((name, 0) for name in CACHED),
    ]:
        longest = max(len(pair[CACHED.get(name, name)]) for pair in pairs)
        assert batch[name].shape[:2] == (len(pairs), longest), "no wider than the longest"
        for row, pair in zip(batch[name].numpy(), pairs, strict=True):
            count = len(pair[CACHED.get(name, name)])
            assert np.array_equal(row[:count].ravel(), pair[name]) and (row[count:] == filling).all()
