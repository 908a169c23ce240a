"""Cached teacher outputs: the same training from the cache as online, made once, kept when interrupted."""

import copy
import shutil

import pytest
import torch

from distill_utils.data.corpus import load_corpus
from distill_utils.models.output_head import projected
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import single_run
from distill_utils.system.errors import UserError
from distill_utils.training import teacher_cache
from distill_utils.training.teacher_cache import encoder_states, pseudo_labels, teacher_states
from distill_utils.training.train_student import train_student, training_report

SETTINGS = {
    "name": "test_outputs", "teacher.path": "models/docstrings_teacher", "distillation.precision": "fp32",
    "distillation.steps": 6, "distillation.validations": 1, "distillation.temperature": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def study():
    study = load_study("smoke", SETTINGS)
    shutil.rmtree(study.folder, ignore_errors=True)
    yield study
    shutil.rmtree(study.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def loaded(study):
    return Prepared(study).load_teacher()


def trained(study, method="kd", **settings):
    changed = load_study("smoke", {**SETTINGS, **{f"distillation.{k}": v for k, v in settings.items()}})
    prepared, run = Prepared(changed), single_run(changed, "6-3", method)
    train_student(prepared, run)
    return [e for e in training_report(prepared, run)["log"] if "soft_loss" in e]


@pytest.mark.parametrize("method", ["kd", "hidden"])
def test_training_from_the_cache_is_training_online(study, loaded, method):
    online = trained(study, method, max_pairs=48)
    states = trained(study, method, max_pairs=48, cache_teacher="states")
    encoder = trained(study, method, max_pairs=48, cache_encoder=True)
    both = trained(study, method, max_pairs=48, cache_encoder=True, cache_teacher="states")
    assert len(online) == 6
    parts = {"loss", "hard_loss", "soft_loss", "grad_norm"} | ({"hidden_loss"} if method == "hidden" else set())
    for cached in (states, encoder, both):
        for a, b in zip(cached, online, strict=True):
            for name in parts:
                assert a[name] == pytest.approx(b[name], rel=5e-3), name  # float16 on disk


def test_each_layer_has_its_own_states_whether_the_encoder_runs_or_not(study, loaded):
    teacher, tokenizer = loaded
    prepared, chosen, inner = Prepared(study), [3, 17, 40], [2, 4]
    encoded = encoder_states(prepared, teacher, tokenizer, chosen)
    for given in (None, encoded):
        found = teacher_states(prepared, teacher, tokenizer, chosen, inner=inner, encoded=given).with_format("numpy")
        assert len(found) == len(chosen)
        for row, i in zip(found, chosen, strict=True):
            pair = load_corpus(study)["train"][i]
            source = tokenizer(pair["document"], max_length=48, truncation=True, return_tensors="pt")
            labels = tokenizer(text_target=pair["summary"], max_length=16, truncation=True, return_tensors="pt")
            with torch.no_grad():
                output = teacher(**source, labels=labels["input_ids"], output_hidden_states=True)
            wanted = torch.cat([output.decoder_hidden_states[1 + layer] for layer in (*inner, 5)], -1)[0]
            stored = torch.tensor(row["teacher_states"]).float().view(len(wanted), -1)
            torch.testing.assert_close(stored, wanted, rtol=1e-2, atol=2e-2)


def test_rows_belong_to_their_pairs(study, loaded):
    teacher, tokenizer = loaded
    states = encoder_states(Prepared(study), teacher, tokenizer).with_format("numpy")
    last = teacher_states(Prepared(study), teacher, tokenizer).with_format("numpy")
    train = load_corpus(study)["train"]
    assert len(last) == len(states) == len(train)
    for i in (0, 17, 63):
        source = tokenizer(train[i]["document"], max_length=48, truncation=True, return_tensors="pt")
        labels = tokenizer(text_target=train[i]["summary"], max_length=16, truncation=True, return_tensors="pt")
        with torch.no_grad():
            output = teacher(**source, labels=labels["input_ids"])
        kept = torch.tensor(last[i]["teacher_states"].reshape(-1, teacher.config.d_model)).float()
        logits = projected(teacher, kept).logits(slice(None))
        torch.testing.assert_close(logits, output.logits[0], rtol=1e-2, atol=1e-2)
        stored = states[i]["encoder_states"].reshape(-1, teacher.config.d_model)
        assert stored == pytest.approx(output.encoder_last_hidden_state[0].numpy(), abs=5e-3)


def test_what_is_there_is_not_made_again_and_a_missing_part_alone_is(study, loaded, monkeypatch):
    monkeypatch.setattr(teacher_cache, "PART", 30)
    teacher, tokenizer = loaded
    shutil.rmtree(study.folder / "teacher_outputs", ignore_errors=True)
    before = teacher_states(Prepared(study), teacher, tokenizer).to_list()
    parts = sorted((study.folder / "teacher_outputs").glob("*/part-*"))
    assert len(parts) == 3
    shutil.rmtree(parts[1])
    made = []
    batches = teacher_cache._batches
    monkeypatch.setattr(teacher_cache, "_batches", lambda pairs, *a: made.append(len(pairs)) or batches(pairs, *a))
    assert teacher_states(Prepared(study), teacher, tokenizer).to_list() == before
    assert made == [30]


def test_other_settings_make_other_outputs(study, loaded):
    teacher, tokenizer = loaded
    shutil.rmtree(study.folder / "teacher_outputs", ignore_errors=True)
    for changed in ({}, {"corpus.max_target_tokens": 9}, {"distillation.temperature": 9.0}):
        other = load_study("smoke", {**SETTINGS, **changed})
        teacher_states(Prepared(other), teacher, tokenizer)
    assert len(list((study.folder / "teacher_outputs").iterdir())) == 2, "the temperature is not a part of them"


@pytest.mark.parametrize("make", [encoder_states, teacher_states])
def test_outputs_that_do_not_fit_the_disk_are_refused_before_they_are_made(study, loaded, monkeypatch, make):
    shutil.rmtree(study.folder / "teacher_outputs", ignore_errors=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(UserError, match="GB free"):
        make(Prepared(study), *loaded)
    assert not list((study.folder / "teacher_outputs").glob("*/part-*"))


def test_pseudo_labels_are_the_teachers_summaries(study, loaded, capsys):
    written = pseudo_labels(Prepared(study), *loaded)["summary"]
    assert len(written) == 64 and all(isinstance(text, str) for text in written)
    assert pseudo_labels(Prepared(study), *loaded)["summary"] == written


@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_softer_attention_divides_the_scores(loaded, factor):
    """Where the inputs are the same, in the first layers: softmax(scores / factor) is softmax(scores)^(1 / factor), normed."""
    teacher, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    teacher.set_attn_implementation("eager")
    ids = tokenizer("Return the sum of all values.", return_tensors="pt")["input_ids"]

    def weights():
        outputs = teacher(input_ids=ids, decoder_input_ids=ids, output_attentions=True)
        return outputs.encoder_attentions[0], outputs.decoder_attentions[0], outputs.cross_attentions[0]

    plain = weights()
    with teacher_cache.softer_attention(teacher, factor):
        softer = weights()
    if factor == 1:
        assert all(torch.equal(a, b) for a, b in zip(plain, softer, strict=True))
    for a, b in zip(plain[:2], softer[:2], strict=True):
        wanted = a ** (1 / factor)
        torch.testing.assert_close(b, wanted / wanted.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(plain, weights(), strict=True)), "the teacher is itself again"


def test_a_teacher_whose_scores_cannot_be_divided_is_refused(loaded):
    with (
        pytest.raises(UserError, match="pseudo_label_attention"),
        teacher_cache.softer_attention(torch.nn.Linear(2, 2), 2.0),
    ):
        pass
    with teacher_cache.softer_attention(torch.nn.Linear(2, 2), 1.0):
        pass


def test_states_beyond_float16_are_refused(study, loaded):
    teacher, tokenizer = loaded
    norm = teacher.get_encoder().layers[-1].final_layer_norm
    scale = norm.weight.data.clone()
    norm.weight.data *= 1e6
    try:
        with pytest.raises(UserError, match=r"not finite in float16.*cache_encoder=false"):
            encoder_states(Prepared(study), teacher, tokenizer, [5, 6])
    finally:
        norm.weight.data = scale
