"""Summaries come back in the order of their documents, whatever the batches were."""

import copy

import pytest
import torch

from distill_utils.models import generation
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.generation import decoded, forced_logits, generate, generation_settings, sampled, summarize
from distill_utils.studies.loading import load_study
from tests.conftest import tiny_bart

TEXTS = [
    "Return the sum of two numbers.",
    "x",
    "Plot a line through all of the points that are given " * 3,
    "Sort it.",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 20, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_bart(vocabulary=len(tokenizer))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batches_change_nothing(model, tokenizer, num_beams):
    settings = {"max_source_tokens": 30, "num_beams": num_beams, "max_new_tokens": 8}
    alone = [summarize(model, tokenizer, [text], **settings)[0] for text in TEXTS]
    assert len(set(alone)) > 1
    for batch_size in (2, 5):
        assert summarize(model, tokenizer, TEXTS, batch_size=batch_size, **settings) == alone


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_beams_that_share_a_document_write_what_the_librarys_write(seed, num_beams):
    model = tiny_bart(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "input_ids": torch.randint(4, 40, (6, 12), generator=generator),
        "attention_mask": torch.ones(6, 12).long(),
    }
    inputs["attention_mask"][3:, 7:] = 0
    settings = {"num_beams": num_beams, "max_new_tokens": 15, "length_penalty": 1.5}
    ours = generate(model, inputs, **settings)
    assert torch.equal(ours, model.generate(**inputs, **settings)) and len({tuple(row) for row in ours.tolist()}) > 1


def documents(count=24):
    generator = torch.Generator().manual_seed(0)
    inputs = {"input_ids": torch.randint(4, 40, (count, 12), generator=generator)}
    inputs["attention_mask"] = torch.ones(count, 12).long()
    inputs["attention_mask"][::3, 7:] = 0
    return inputs


def ending(seed):
    """A model whose texts end at different places."""
    model = tiny_bart(seed=seed)
    model.final_logits_bias[0, model.config.eos_token_id] = 2.0
    model.generation_config.forced_eos_token_id = None
    return model


@pytest.mark.parametrize("seed", range(3))
def test_a_sampled_text_is_the_same_whenever_the_others_leave_the_batch(seed, monkeypatch):
    model, inputs = ending(seed), documents()
    found = {}
    for kept in (0.0, 0.75, 1.0):
        monkeypatch.setattr(generation, "KEPT", kept)
        found[kept], marked = sampled(model, inputs, temperature=1.0, most=9, seed=seed)
        assert torch.equal(found[kept], found[0.0])
    lengths = marked.sum(1)
    assert len({*lengths.tolist()}) > 3 and lengths.max() <= 9
    for row, length in zip(found[0.0].tolist(), lengths.tolist(), strict=True):
        assert row[0] == model.config.decoder_start_token_id
        assert model.config.eos_token_id not in row[1:length] and {*row[length + 1 :]} <= {model.config.pad_token_id}
        assert length == 9 or row[length] == model.config.eos_token_id


@pytest.mark.parametrize("seed", range(3))
def test_at_a_temperature_near_zero_the_samples_are_the_greedy_texts(seed):
    model, inputs = ending(seed), documents()
    found, _ = sampled(model, inputs, temperature=1e-5, most=9, seed=seed)
    greedy = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=9)
    assert torch.equal(found, greedy) and len({tuple(row) for row in greedy.tolist()}) > 1


def test_a_forced_first_token_is_written_and_not_counted_as_sampled():
    model, inputs = ending(0), documents()
    _, marked = sampled(model, inputs, temperature=1.0, most=9, seed=0)
    assert marked[:, 0].all()
    model.generation_config.forced_bos_token_id = 7
    forced, marked = sampled(model, inputs, temperature=1.0, most=9, seed=0)
    assert (forced[:, 1] == 7).all() and not marked[:, 0].any() and marked[:, 1].all()


def test_long_documents_are_cut(model, tokenizer):
    settings = {"max_source_tokens": 10, "num_beams": 1, "max_new_tokens": 8}
    long = "Plot a line through all of the points " * 50
    assert summarize(model, tokenizer, [long], **settings) == summarize(model, tokenizer, [long + "more"], **settings)


def test_the_model_is_left_as_it_was(model, tokenizer):
    model.train()
    summarize(model, tokenizer, TEXTS[:1], max_source_tokens=10, max_new_tokens=2)
    assert model.training
    model.eval()


def test_forced_logits_line_up_with_the_summary(model, tokenizer):
    logits, labels = forced_logits(model, tokenizer, TEXTS[0], TEXTS[3], max_source_tokens=30, max_target_tokens=30)
    assert logits.shape == (len(labels), len(tokenizer))
    assert tokenizer.decode(labels, skip_special_tokens=True) == TEXTS[3]
    # The last row predicts </s> after the whole summary: it equals a forward pass over exactly that prefix.
    source = tokenizer(TEXTS[0], return_tensors="pt")
    prefix = torch.tensor([[2, 0, *labels[:-1].tolist()]])
    with torch.no_grad():
        wanted = model(**source, decoder_input_ids=prefix).logits[0, -1]
    torch.testing.assert_close(logits[-1], wanted)


@pytest.mark.parametrize(
    ("own", "limit", "dropped"),
    [
        ({"min_length": 20, "max_length": 30}, 10, True),
        ({"min_new_tokens": 20, "max_new_tokens": 30}, 10, True),
        ({"min_length": 11, "max_length": 30}, 10, True),  # 10 steps: no choice is left
        ({"min_length": 10, "max_length": 30}, 10, False),
        ({"min_length": 20, "max_length": 12}, None, True),
        ({"max_length": 12}, None, False),
    ],
)
def test_a_minimum_that_the_maximum_does_not_leave_room_for_is_dropped(model, tokenizer, capsys, own, limit, dropped):
    """``bart-large-cnn`` writes 56 tokens or more; with a limit of 48, every summary would have 48."""
    generation._say_dropped.cache_clear()
    model = copy.deepcopy(model)
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    study = load_study("smoke", {"generation.max_new_tokens": limit} if limit else {})
    settings = generation_settings(study, model)
    assert not dropped or not (model.generation_config.min_length or model.generation_config.min_new_tokens)
    if limit is None:  # the smoke study's own limit is 8 tokens
        dropped = "min_length" in own
    assert ("the minimum is dropped" in capsys.readouterr().err) == dropped
    least, most = (generation.steps(settings, side) for side in ("min", "max"))
    assert (least or 0) == (0 if dropped else max(0, own.get("min_length", 1) - 1)) and most == (limit or 8)
    texts = ["a few words", "to learn from a few words to learn"]
    plain = {name: value for name, value in settings.items() if not name.startswith("min")}
    if dropped:
        free = summarize(model, tokenizer, texts, max_source_tokens=16, **plain, min_length=0)
        assert summarize(model, tokenizer, texts, max_source_tokens=16, **settings) == free


def test_a_token_for_a_line_break_becomes_one(tokenizer):
    """Pegasus has it; in a text of another model these are three characters."""
    own = copy.deepcopy(tokenizer)
    text = "Sort it. <n> Add one.<n>"
    ids = [tokenizer(text)["input_ids"]]
    assert decoded(tokenizer, ids) == [text]
    own.add_tokens(["<n>"])
    assert decoded(own, [own(text)["input_ids"]]) == ["Sort it.\nAdd one."]
