"""Making students: which layers, which weights, how many parameters."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LEDConfig,
    LEDForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
)

from distill_utils.models.backends import load_backend
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.checkpoint import check_lengths, checkpoint_hash, load_model, parameter_count, positions
from distill_utils.models.generation import summarize
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import (
    check_hidden,
    freeze_encoder,
    load_student,
    make_student,
    spaced_layers,
    strongest_units,
    supervised_layers,
)
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.environment import device
from distill_utils.system.errors import UserError
from tests.conftest import tiny_bart


@pytest.mark.parametrize(
    ("total", "kept", "layers"),
    [
        (12, 12, list(range(12))),
        (12, 6, [0, 2, 4, 7, 9, 11]),  # published
        (12, 3, [0, 6, 11]),  # published
        (12, 1, [0]),
        (6, 3, [0, 3, 5]),
        (6, 2, [0, 5]),
    ],
)
def test_spaced_layers(total, kept, layers):
    assert spaced_layers(total, kept) == layers


@given(st.integers(1, 48), st.data())
def test_spaced_layers_rise_and_keep_first_and_last(total, data):
    kept = data.draw(st.integers(1, total))
    layers = spaced_layers(total, kept)
    assert len(layers) == kept and layers == sorted(set(layers)) and layers[0] == 0
    assert kept == 1 or layers[-1] == total - 1
    gaps = {b - a for a, b in pairwise(layers)}
    assert not gaps or max(gaps) - min(gaps) <= 1, "evenly spaced"


@pytest.mark.parametrize("kept", [0, -1, 13])
def test_more_layers_than_the_teacher_has(kept):
    with pytest.raises(UserError, match="can keep 1 to 12"):
        spaced_layers(12, kept)


@pytest.mark.parametrize(
    ("encoder", "decoder", "parameters"),
    [(12, 12, 406_291_456), (12, 6, 305_511_424), (12, 3, 255_121_408), (6, 6, 229_934_080)],
)
def test_full_size_parameters(encoder, decoder, parameters):
    with torch.device("meta"):
        teacher = BartForConditionalGeneration(BartConfig())
    assert parameter_count(make_student(teacher, encoder, decoder)) == parameters


@pytest.mark.parametrize(("total", "kept", "layers"), [(12, 6, [1, 3, 6, 8, 10, 11]), (6, 3, [2, 4, 5]), (6, 1, [5])])
def test_a_layer_reproduces_what_the_next_copied_one_was_made_for(total, kept, layers):
    assert supervised_layers(total, kept) == layers
    assert supervised_layers(total, total) == list(range(total))


def test_hidden_states_of_another_width_or_of_more_layers_are_refused(teacher):
    check_hidden(teacher, make_student(teacher, 3, 1), "fits")
    for changed, message in (({"d_model": 8}, "width 8"), ({"decoder_layers": 9}, "more decoder layers")):
        other = make_student(teacher, 3, 1)
        other.config.update(changed)
        with pytest.raises(UserError, match=message):
            check_hidden(teacher, other, "other")


def test_weights_are_the_chosen_layers(teacher):
    student = make_student(teacher, 3, [0, 2])
    ours, theirs = student.state_dict(), teacher.state_dict()
    for new, old in ((0, 0), (1, 2)):
        for name in (n for n in ours if f"decoder.layers.{new}." in n):
            assert torch.equal(ours[name], theirs[name.replace(f"layers.{new}.", f"layers.{old}.")])
    for name in (n for n in ours if "decoder.layers" not in n):
        assert torch.equal(ours[name], theirs[name])
    assert (student.config.encoder_layers, student.config.decoder_layers) == (3, 2)
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight


def test_the_strongest_units_have_the_largest_product_of_norms():
    inward = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [6.0, 8.0]])  # norms 5, 1, 2, 10
    outward = torch.tensor([[1.0, 0.0, 3.0, 0.1], [0.0, 5.0, 4.0, 0.0]])  # norms 1, 5, 5, 0.1: products 5, 5, 10, 1
    assert strongest_units([inward], outward, 1).tolist() == [2]
    gate = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.1, 0.0], [1.0, 0.0]])  # products 10, 5, 1, 1
    assert strongest_units([inward, gate], outward, 2).tolist() == [0, 1]


def test_a_copy_does_not_share_memory_with_its_teacher(teacher):
    student = make_student(teacher, 3, 3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert any(p.abs().sum() > 0 for p in teacher.parameters())


def test_a_whole_copy_computes_the_same(teacher):
    student = make_student(teacher, 3, 3)
    ids = torch.tensor([[0, 5, 6, 7, 2]])
    torch.testing.assert_close(student(input_ids=ids, labels=ids).logits, teacher(input_ids=ids, labels=ids).logits)


def test_the_saved_student_loads_with_plain_transformers(tmp_path, teacher):
    teacher.generation_config.num_beams = 3
    student = make_student(teacher, 2, 1)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.generation_config.num_beams == 3
    assert parameter_count(loaded) == parameter_count(student)
    for (name, a), b in zip(student.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 3], [-1, 2]])
def test_impossible_layer_lists(teacher, layers):
    with pytest.raises(UserError, match="rising order"):
        make_student(teacher, 3, layers)


def test_freezing_leaves_only_decoder_layers(teacher):
    freeze_encoder(teacher)
    trained = [name for name, p in teacher.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("model.decoder.la") for name in trained)


def test_only_safetensors_are_loaded(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path)
    model = tiny_bart()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_model(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    tiny_bart().save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_model(tmp_path)


def test_a_build_for_another_device_runs_on_the_cpu(monkeypatch):
    """PyTorch's default build for Linux names CUDA as its accelerator on machines that have none."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))
    assert device() == torch.device("cpu")


def test_the_hash_sees_weights_and_settings(tmp_path):
    model = tiny_bart()
    model.save_pretrained(tmp_path)
    first = checkpoint_hash(tmp_path)
    model.generation_config.num_beams = 7
    model.save_pretrained(tmp_path)
    second = checkpoint_hash(tmp_path)
    with torch.no_grad():
        next(model.parameters())[0] += 1
    model.save_pretrained(tmp_path)
    assert len({first, second, checkpoint_hash(tmp_path)}) == 3


# -- does a teacher, does a student fit? -----------------------------------------------------------------------


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a few words to learn from"] * 3, 270)


@pytest.fixture
def study():
    return load_study("smoke", {"corpus.max_source_tokens": 32, "corpus.max_target_tokens": 8})


def test_a_ready_student_takes_the_teachers_generation_settings(tmp_path, study, tokenizer):
    teacher = tiny_bart((3, 3), len(tokenizer))
    teacher.generation_config.num_beams = 5
    student = saved(tmp_path, tiny_bart((3, 1), len(tokenizer), seed=1), tokenizer)
    loaded = load_student(study, student, teacher, tokenizer)
    assert loaded.config.decoder_layers == 1 and loaded.generation_config.num_beams == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("vocabulary", "its vocabulary has 271 entries, the teacher's 270"),
        ("tokens", "their tokenizers assign different ids"),
        ("special", "its eos_token_id is 5, the teacher's 2"),
        ("positions", "the model has 16 positions"),
    ],
)
def test_a_student_that_does_not_fit_its_teacher_is_refused(tmp_path, study, tokenizer, changed, message):
    student, own = tiny_bart((3, 1), len(tokenizer) + (changed == "vocabulary")), tokenizer
    if changed == "tokens":
        own = train_tokenizer(["other text entirely"] * 3, 270)
    if changed == "special":
        student.config.eos_token_id = 5
    if changed == "positions":
        student = tiny_bart((3, 1), len(tokenizer), positions=16)
    with pytest.raises(UserError, match=message):
        load_student(study, saved(tmp_path, student, own), tiny_bart((3, 3), len(tokenizer)), tokenizer)


def test_a_checkpoint_that_is_no_encoder_decoder_is_refused(tmp_path, tokenizer):
    config = GPT2Config(vocab_size=270, n_embd=8, n_layer=1, n_head=1, n_positions=32)
    with pytest.raises(UserError, match="is a gpt2, which is not an encoder–decoder"):
        load_model(saved(tmp_path, GPT2LMHeadModel(config), tokenizer))


def test_positions_that_are_computed_need_not_be_in_a_checkpoint(tmp_path, tokenizer):
    """Pegasus' are, and its published checkpoints lack them."""
    config = PegasusConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    folder = Path(saved(tmp_path, PegasusForConditionalGeneration(config), tokenizer))
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "embed_positions" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_model(folder)
    assert torch.equal(model.model.encoder.embed_positions.weight, weights["model.encoder.embed_positions.weight"])


def test_a_summarizer_put_together_from_two_models_is_refused(tmp_path, tokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(config, config))
    with pytest.raises(UserError, match="combines two models"):
        load_model(saved(tmp_path, model, tokenizer))


def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="270 tokens in its tokenizer, but 200 in its model"):
        load_model(saved(tmp_path, tiny_bart((1, 1), 200), tokenizer))


def test_a_text_that_names_a_special_token_is_spelt_out_where_the_model_has_no_row_for_it(tmp_path, tokenizer):
    """The published fine-tuned BARTs have one row less than their tokenizers have tokens: <mask>."""
    folder = saved(tmp_path, tiny_bart((1, 1), len(tokenizer) - 1), tokenizer)
    model, loaded = load_model(folder)
    assert tokenizer("a <mask>")["input_ids"][-2] == len(tokenizer) - 1
    ids = loaded("a <mask> b", return_tensors="pt")
    assert ids["input_ids"].max() < model.config.vocab_size
    model(**ids, decoder_input_ids=ids["input_ids"])


def test_a_teacher_that_says_nothing_of_lengths_gets_the_studys(tmp_path, study, tokenizer, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    saved(tmp_path / "t", tiny_bart((1, 1), len(tokenizer)), tokenizer)
    study = load_study("smoke", {"teacher.path": "t", "corpus.max_source_tokens": 32, "corpus.max_target_tokens": 9})
    model, _ = Prepared(study).load_teacher()
    assert model.generation_config.max_new_tokens == 9


def test_the_first_folder_that_holds_a_teacher_is_used(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    study = load_study("xsum", {"teacher.path": ["models/mine", "models/shipped"]})
    with pytest.raises(UserError, match=r"there is no teacher in .*models/shipped"):
        _ = Prepared(study).teacher_folder
    saved(tmp_path / "models/shipped", tiny_bart((1, 1), 270), tokenizer)
    assert Prepared(study).teacher_folder == tmp_path / "models/shipped"
    saved(tmp_path / "models/mine", tiny_bart((1, 1), 270), tokenizer)
    assert Prepared(study).teacher_folder == tmp_path / "models/mine"


GIVEN = {
    "without a cache": ({"use_cache": False}, ""),
    "a dict": ({"return_dict_in_generate": True, "output_scores": True, "output_attentions": True}, ""),
    "idle sampling": ({"do_sample": False, "temperature": 0.7, "top_k": 5}, ""),
    "sampling": ({"do_sample": True, "temperature": 3.0, "top_k": 40}, "do_sample, temperature, top_k"),
    "several": ({"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences"),
    "a time limit": ({"max_time": 1e-9}, "max_time"),
    "contrastive search": ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
    "other words": ({"stop_strings": ["a"], "guidance_scale": 1.5}, "guidance_scale, stop_strings"),
    "ones": (
        {"max_time": 1, "penalty_alpha": 1, "diversity_penalty": 1.0},
        "diversity_penalty, max_time, penalty_alpha",
    ),
    "true": ({"token_healing": True}, "token_healing"),
    "ones without an effect": ({"num_return_sequences": 1, "guidance_scale": 1, "encoder_repetition_penalty": 1}, ""),
    "sampling as by default": ({"do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 1.0}, "do_sample"),
    "unknown names": ({"forced_decoder_ids": [[1, 5]], "stop_token_id": 4}, "forced_decoder_ids, stop_token_id"),
    "empty lists": ({"bad_words_ids": [], "suppress_tokens": [], "sequence_bias": [], "forced_eos_token_id": []}, ""),
    "ends are never bad words": ({"bad_words_ids": [[2]]}, ""),
    "no beams": (
        {"num_beams": 1, "early_stopping": "never", "length_penalty": 2.0},
        "early_stopping without num_beams, length_penalty without num_beams",
    ),
}


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("kind", GIVEN)
def test_a_checkpoints_generation_settings_break_no_study(tmp_path, tokenizer, capsys, kind, where):
    """Summaries are those of plain beam search, whatever a checkpoint's file asks for; what is ignored is said."""
    given, told = GIVEN[kind]
    plain = saved(tmp_path / "plain", tiny_bart((1, 1), len(tokenizer)), tokenizer)
    other = saved(tmp_path / "other", tiny_bart((1, 1), len(tokenizer)), tokenizer)
    settings = read_json(tmp_path / "other" / where)
    write_json(tmp_path / "other" / where, settings | given)
    if where == "config.json":
        (tmp_path / "other" / "generation_config.json").unlink()
    texts = ["a few words", "to learn from a few words to learn"]
    written = []
    for folder in (plain, other):
        torch.manual_seed(len(written))
        model, own = load_model(folder)
        written.append(summarize(model, own, texts, max_source_tokens=16, num_beams=2, max_new_tokens=8))
    assert written[0] == written[1]
    err = capsys.readouterr().err
    if where == "generation_config.json":
        assert (f"{other} has {told}, which is ignored" in err) if told else "ignored" not in err


@pytest.mark.parametrize(
    ("name", "values", "valid"),
    [
        ("length_penalty", ("abc", 1e9, float("nan"), True), "a number from -10 to 10"),
        ("early_stopping", (1,), "true, false or 'never'"),
        ("no_repeat_ngram_size", ("3", 2.5, -1), "0 or more"),
        ("encoder_no_repeat_ngram_size", ("3",), "0 or more"),
        ("min_length", ("5", -3), "0 or more"),
        ("min_new_tokens", (2.0,), "0 or more"),
        ("max_length", (True, "20"), "1 to 32"),
        ("num_beams", (True, 0), "1 or more"),
        ("repetition_penalty", (0, -1, "x", float("inf")), "a number above 0"),
        ("encoder_repetition_penalty", (-1.5,), "a number above 0"),
        ("bad_words_ids", ([5], [[999]], [[]], "x"), "a list of lists of token ids from 0 to 269"),
        ("suppress_tokens", ([999], ["x"]), "a list of token ids from 0 to 269"),
        ("begin_suppress_tokens", (5, [-1]), "a list of token ids from 0 to 269"),
        ("forced_eos_token_id", (999, "2", [999]), "0 to 269, or a list of such ids"),
        ("eos_token_id", ("2", [2, 999]), "0 to 269, or a list of such ids"),
        ("forced_bos_token_id", ([0], 999), "0 to 269"),
        ("decoder_start_token_id", ([2], [2, 2, 2]), "0 to 269"),
        ("pad_token_id", (-1, [1]), "0 to 269"),
        ("sequence_bias", ({"5": 1.0}, [[5, 1.0]], [[[5], "x"]]), "a list of pairs of token ids from 0 to 269 and a number"),
        ("exponential_decay_length_penalty", ("x", [2], [2, 1.5, 3], [2, 0]), "a list of a length and a factor above 0"),
        ("remove_invalid_values", ("x",), "true or false"),
    ],
)  # fmt: skip
def test_invalid_generation_settings_are_refused_before_anything_starts(tmp_path, tokenizer, name, values, valid):
    folder = saved(tmp_path, tiny_bart((1, 1), len(tokenizer)), tokenizer)
    plain = read_json(tmp_path / "generation_config.json")
    for value in values:
        (tmp_path / "generation_config.json").write_text(json.dumps(plain | {name: value}))  # NaN as well
        with pytest.raises(UserError) as refused:
            load_model(folder)
        assert str(refused.value).startswith(f"the generation config in {folder} has {name} = ")
        assert str(refused.value).endswith(f"; it should be {valid}")


VALID = {
    "whole numbers": ({"repetition_penalty": 2, "sequence_bias": [[[5, 6], -3]]}, {"repetition_penalty": 2.0}),
    "no beams": ({"num_beams": 1, "early_stopping": True, "length_penalty": 2.0}, {"length_penalty": None}),
    "beams": ({"num_beams": 2, "early_stopping": "never", "length_penalty": -2}, {"length_penalty": -2}),
    "bad words": ({"bad_words_ids": [[2], [5, 6]]}, {"bad_words_ids": [[5, 6]]}),
    "several ends": ({"eos_token_id": [2, 5], "forced_eos_token_id": [2]}, {"eos_token_id": [2, 5]}),
    "no end": ({"eos_token_id": None, "pad_token_id": None}, {"eos_token_id": 2, "pad_token_id": 1}),
    "no start": ({"decoder_start_token_id": None}, {"decoder_start_token_id": 2}),
}


@pytest.mark.parametrize("kind", VALID)
def test_settings_that_load_can_be_used_and_saved(tmp_path, tokenizer, kind):
    given, settled = VALID[kind]
    folder = saved(tmp_path / "it", tiny_bart((1, 1), len(tokenizer)), tokenizer)
    plain = read_json(tmp_path / "it" / "generation_config.json")
    write_json(tmp_path / "it" / "generation_config.json", plain | given)
    model, own = load_model(folder)
    assert {name: getattr(model.generation_config, name) for name in settled} == settled
    assert summarize(model, own, ["a few words"], max_source_tokens=16, max_new_tokens=8)
    again, _ = load_model(saved(tmp_path / "again", model, own))
    kept = [m.generation_config.to_dict() | {"transformers_version": None} for m in (model, again)]
    assert kept[0] == kept[1]


def test_settings_that_contradict_each_other_are_refused(tmp_path, tokenizer):
    folder = saved(tmp_path, tiny_bart((1, 1), len(tokenizer)), tokenizer)
    plain = read_json(tmp_path / "generation_config.json")
    write_json(tmp_path / "generation_config.json", plain | {"forced_eos_token_id": 2, "suppress_tokens": [2]})
    with pytest.raises(UserError, match="forced_eos_token_id"):
        load_model(folder)


@pytest.mark.parametrize(("side", "warned"), [("padding_side", False), ("truncation_side", True)])
def test_texts_are_padded_and_truncated_on_the_right(tmp_path, tokenizer, capsys, side, warned):
    plain, other = (saved(tmp_path / name, tiny_bart((1, 1), len(tokenizer)), tokenizer) for name in ("plain", "other"))
    config = read_json(tmp_path / "other" / "tokenizer_config.json")
    write_json(tmp_path / "other" / "tokenizer_config.json", config | {side: "left"})
    texts = ["a few words", "to learn from a few words to learn, and to learn from more words than can be read", "few"]
    settings = {"max_source_tokens": 16, "max_new_tokens": 8}
    wanted = [summarize(*load_model(plain), [text], **settings)[0] for text in texts]
    assert len({*wanted}) == 3 and summarize(*load_model(other), texts, **settings) == wanted
    err = capsys.readouterr().err
    assert (f"WARNING: the tokenizer in {other} truncates on the left, which is ignored" in err) == warned


def test_a_tokenizer_without_padding_and_a_model_without_an_end_are_refused(tmp_path, tokenizer):
    folder = saved(tmp_path, tiny_bart((1, 1), len(tokenizer)), tokenizer)
    whole = read_json(tmp_path / "tokenizer_config.json")
    write_json(tmp_path / "tokenizer_config.json", whole | {"pad_token": None})
    with pytest.raises(UserError, match="no padding token; set pad_token"):
        load_model(folder)
    write_json(tmp_path / "tokenizer_config.json", whole | {"eos_token": None})
    for name in ("config.json", "generation_config.json"):
        write_json(tmp_path / name, read_json(tmp_path / name) | {"eos_token_id": None})
    with pytest.raises(UserError, match="no token that summaries end with; set eos_token_id"):
        load_model(folder)


def test_a_family_that_transformers_cannot_run_is_refused(tmp_path, tokenizer):
    config = ProphetNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, encoder_ffn_dim=16, decoder_ffn_dim=16, num_encoder_layers=1,
        num_decoder_layers=1, num_encoder_attention_heads=2, num_decoder_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    with pytest.raises(UserError, match="is a prophetnet, which this transformers cannot run"):
        load_model(saved(tmp_path, ProphetNetForConditionalGeneration(config), tokenizer))


def test_positions_of_encoder_and_decoder_by_names_of_their_own(tmp_path, tokenizer):
    """LED has them; longer documents are truncated, as for other models."""
    config = LEDConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_encoder_position_embeddings=32,
        max_decoder_position_embeddings=16, attention_window=8,
    )  # fmt: skip
    folder = saved(tmp_path, LEDForConditionalGeneration(config), tokenizer)
    model, _ = load_model(folder)
    assert (positions(model.config, "encoder"), positions(model.config, "decoder")) == (32, 16)
    assert len(list(load_backend(folder).summarize(["a few words to learn from " * 9], max_new_tokens=4))) == 1
    for name, message in (("corpus.max_source_tokens", "32 positions"), ("corpus.max_target_tokens", "16 positions")):
        given = {"corpus.max_source_tokens": 32, "corpus.max_target_tokens": 8, name: 33}
        with pytest.raises(UserError, match=f"{name}' is 33, but the model has {message}"):
            check_lengths(load_study("smoke", given), model)


def test_a_folder_is_saved_without_what_was_ignored(tmp_path, tokenizer):
    folder = saved(tmp_path / "it", tiny_bart((1, 1), len(tokenizer)), tokenizer)
    write_json(
        tmp_path / "it" / "generation_config.json",
        {"do_sample": True, "top_p": 0.5, "num_beams": 3, "max_new_tokens": 5},
    )
    model, _ = load_model(folder)
    model.save_pretrained(tmp_path / "again")
    kept = read_json(tmp_path / "again" / "generation_config.json")
    assert kept["num_beams"] == 3 and not kept.get("do_sample") and "top_p" not in kept
