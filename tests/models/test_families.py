"""Students of every family of teachers: copied layers, the same logits, losses, caches and words as plain transformers."""

import copy
import json
import re

import pytest
import torch
import torch.nn.functional as F
from tokenizers import SentencePieceUnigramTokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PegasusTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from distill_utils.data.tokenization import opening
from distill_utils.models import checkpoint
from distill_utils.models import export as exports
from distill_utils.models.backends import PyTorch, load_backend
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.checkpoint import LAYER, depth, load_model, parameter_count
from distill_utils.models.drafting import Drafted
from distill_utils.models.export import export
from distill_utils.models.generation import forced_logits, generate
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import FAMILIES, freeze_encoder, make_student, random_weights
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import single_run
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.training.attention import NAME
from distill_utils.training.train_student import train_student, training_report
from distill_utils.training.trainer import DistillationTrainer
from tests.conftest import tiny_bart

SENTENCE = "the minister said that rain fell over two towns and a river rose by one metre before people left homes"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 8 + i % 5)) for i in range(1, 60)]
SPECIAL = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]


def pieces():
    unigram = SentencePieceUnigramTokenizer()
    unigram.train_from_iterator(TEXTS, vocab_size=120, show_progress=False, unk_token="<unk>")
    return [(piece, score) for piece, score in json.loads(unigram.to_str())["model"]["vocab"] if piece != "<unk>"]


def t5_tokenizer():
    return T5Tokenizer(vocab=SPECIAL + pieces(), extra_ids=0)


def bart():
    tokenizer = train_tokenizer(TEXTS, 300)
    return tiny_bart((4, 4), len(tokenizer), positions=64), tokenizer


def sized(config, tokenizer, **settings):
    return config(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=4, decoder_layers=4, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64, dropout=0.0, init_std=0.3, **settings,
    )  # fmt: skip


def mbart():
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = MBartTokenizer(vocab=first + pieces(), src_lang="en_XX", tgt_lang="en_XX")
    start = tokenizer.convert_tokens_to_ids("en_XX")
    return MBartForConditionalGeneration(sized(MBartConfig, tokenizer, decoder_start_token_id=start)), tokenizer


def pegasus():
    tokenizer = PegasusTokenizer(vocab=SPECIAL + pieces(), offset=2)
    return PegasusForConditionalGeneration(sized(PegasusConfig, tokenizer)), tokenizer


def t5(config=T5Config, model=T5ForConditionalGeneration, **settings):
    tokenizer = t5_tokenizer()
    made = config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=4, num_decoder_layers=4, num_heads=2, dropout_rate=0.0,
        initializer_factor=1.5, decoder_start_token_id=0, **settings,
    )  # fmt: skip
    return model(made), tokenizer


MAKERS = {
    "bart": bart,
    "mbart": mbart,
    "pegasus": pegasus,
    "t5": t5,
    "t5 1.1": lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": lambda: t5(
        MT5Config, MT5ForConditionalGeneration, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    torch.manual_seed(2)
    model, tokenizer = MAKERS[family]()
    if family in ("t5 1.1", "mt5"):  # published ones have a projection of their own
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.generation_config.update(num_beams=2, max_new_tokens=12)
    folder = tmp_path_factory.mktemp("families") / family.replace(" ", "_").replace(".", "_")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(folder)


def batch(tokenizer, model, count=6):
    sources = tokenizer(TEXTS[:count], padding=True, return_tensors="pt")
    labels = tokenizer(text_target=TEXTS[count : 2 * count], padding=True, return_tensors="pt")["input_ids"]
    labels = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
    inputs = {"input_ids": sources["input_ids"], "attention_mask": sources["attention_mask"]}
    return inputs | {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=labels)}, labels


def test_every_family_is_tested():
    assert {name.partition(" ")[0] for name in MAKERS} == {*FAMILIES} >= {*exports.FAMILIES}


def test_layers_are_copied_as_named(loaded):
    teacher, _ = loaded
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = make_student(teacher, [1, 2, 3], [0, 3])
    assert depth(student.config) == {"encoder": 3, "decoder": 2}
    copied, given = student.state_dict(), before
    layers = {"encoder": [1, 2, 3], "decoder": [0, 3]}
    seen = set()
    for name, tensor in copied.items():
        match, origin = LAYER.match(name), name
        if match and "relative_attention_bias" not in name:
            seen.add((match[2], int(match[3])))
            origin = f"{match[1]}{layers[match[2]][int(match[3])]}{match[4]}"
        assert torch.equal(tensor, given[origin]), name
    assert len(seen) == 5
    student.get_encoder().requires_grad_(True)
    next(student.get_encoder().parameters()).data.zero_()
    assert torch.equal(given[next(iter(given))], teacher.state_dict()[next(iter(given))]), "the teacher is not changed"


def test_a_full_copy_and_a_saved_student_compute_the_same_logits(loaded, tmp_path):
    teacher, tokenizer = loaded
    inputs, _ = batch(tokenizer, teacher)
    with torch.no_grad():
        assert torch.equal(make_student(teacher, 4, 4)(**inputs).logits, teacher(**inputs).logits)
        student = make_student(teacher, 3, 1)
        student.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        wanted = student(**inputs).logits
        assert wanted.std() > 0.1 and not torch.allclose(wanted, teacher(**inputs).logits)
        assert torch.equal(load_model(tmp_path)[0](**inputs).logits, wanted)
        plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        assert torch.equal(plain(**inputs).logits, wanted)


def test_units_that_do_nothing_are_dropped_first(loaded):
    teacher, tokenizer = loaded
    whole = copy.deepcopy(teacher)
    generator, idle = torch.Generator().manual_seed(0), 12
    with torch.no_grad():
        for name, tensor in whole.state_dict().items():
            if name.endswith(".fc1.bias"):
                tensor.normal_(generator=generator)
            if name.endswith((".fc2.weight", ".wo.weight")):
                tensor[:, torch.randperm(32, generator=generator)[:idle]] = 0
    inputs, _ = batch(tokenizer, whole)
    narrow = make_student(whole, 4, 4, 32 - idle)
    assert parameter_count(narrow) < parameter_count(whole)
    with torch.no_grad():
        wanted = whole(**inputs).logits
        torch.testing.assert_close(narrow(**inputs).logits, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(make_student(whole, 4, 4, 10)(**inputs).logits, wanted, atol=1e-3)


@pytest.mark.parametrize("width", [0, 32, 33])
def test_a_narrow_student_is_narrower_than_its_teacher(loaded, width):
    with pytest.raises(UserError, match=f"can keep 1 to 31 of the 32 units .*, not {width};"):
        make_student(loaded[0], 4, 4, width)


@pytest.mark.parametrize("shape", [(4, 4), (4, 1), (1, 3), (3, 2, 20)])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_words_are_those_of_plain_transformers(loaded, family, shape, num_beams, tmp_path):
    teacher, tokenizer = loaded
    if "t5" in family and shape == (1, 3):
        with pytest.raises(UserError, match="cannot generate"):
            make_student(teacher, *shape)
        return
    make_student(teacher, *shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain, plain_tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = plain_tokenizer(TEXTS[:8], padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    settings = {"num_beams": num_beams, "max_new_tokens": 12}
    wanted = plain.eval().generate(**inputs, **settings)
    assert torch.equal(generate(load_model(tmp_path)[0], inputs, **settings), wanted)
    texts = [text.strip() for text in plain_tokenizer.batch_decode(wanted, skip_special_tokens=True)]
    assert len({*texts}) > 1 or shape != (4, 4)
    assert list(load_backend(tmp_path).summarize(TEXTS[:8], batch_size=3, **settings)) == texts


SEARCHES = (
    {"max_new_tokens": 12},
    {"max_new_tokens": 9, "min_new_tokens": 6, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 1},
    {"max_new_tokens": 10, "repetition_penalty": 1.4, "forced_eos_token_id": "eos"},
)


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("settings", SEARCHES)
def test_a_draft_changes_no_token(loaded, settings, most):
    teacher, tokenizer = loaded
    settings = {key: teacher.config.eos_token_id if value == "eos" else value for key, value in settings.items()}
    plain = PyTorch(teacher, tokenizer)
    sources = [[ids] for ids in plain.encode(TEXTS[:3])]
    wanted = list(plain.write(sources, num_beams=1, **settings))
    drafts = {
        "copy": make_student(teacher, 4, 1),
        "noise": random_weights(make_student(teacher, 4, 2), 3),
        "itself": teacher,
    }
    for name, student in drafts.items():
        drafted = Drafted(teacher, student, tokenizer, most=most)
        assert list(drafted.write(sources, num_beams=3, **settings)) == wanted, name
    assert drafted.accepted == drafted.proposed, "the teacher agrees with itself"
    assert drafted.proposed or settings["max_new_tokens"] == 1


def test_attention_for_training_computes_what_the_librarys_does(loaded):
    teacher, tokenizer = loaded
    inputs, labels = batch(tokenizer, teacher)
    model = make_student(teacher, 4, 2)
    found = []
    for implementation in ("eager", NAME):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        logits = model(**inputs).logits
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        found.append((logits, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (a, ours), (b, theirs) = found
    torch.testing.assert_close(a, b)
    assert len(ours) == len(theirs) > 20
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


def test_freezing_leaves_the_decoder(loaded):
    student = make_student(loaded[0], 4, 2)
    freeze_encoder(student)
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    own = (
        "lm_head" if student.get_output_embeddings().weight is not student.get_input_embeddings().weight else "decoder"
    )
    assert trained and all("decoder." in name or own in name for name in trained)
    assert not any("embed" in name.replace("layernorm_embedding", "") or "shared" in name for name in trained)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "pairs.jsonl"
    rows = [{"document": f"{text} {TEXTS[-i]}", "summary": text} for i, text in enumerate(TEXTS, 1)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def prepared(folder, corpus, home, **settings):
    return Prepared(load_study("smoke", {
        "name": f"family_{folder.name}", "corpus.path": str(corpus), "corpus.max_source_tokens": 40, "corpus.max_target_tokens": 30, "teacher.path": str(folder),
        "distillation.precision": "fp32", "distillation.steps": 20, "distillation.validations": 1, "distillation.student": "4-2",
        "distillation.beta": 2.0, "distillation.batch_size": 8, "distillation.learning_rate": 3e-3, **settings,
    }))  # fmt: skip


def test_training_for_twenty_steps_from_caches_and_online(folder, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    logs = {}
    for cached in (False, True):
        caches = {"distillation.cache_teacher": "states" if cached else "", "distillation.cache_encoder": cached}
        study = prepared(folder, corpus, tmp_path, **caches)
        run = single_run(study.study, "4-2", "hidden")
        train_student(study, run)
        logs[cached] = [e for e in training_report(study, run)["log"] if "soft_loss" in e]
    assert len(logs[True]) == len(logs[False]) == 20
    for a, b in zip(logs[True][:3], logs[False][:3], strict=True):  # the differences of float16 on disk add up
        for name in ("loss", "hard_loss", "soft_loss", "hidden_loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=2e-2, abs=1e-3), name
    first, last = logs[False][0], logs[False][-1]
    assert last["loss"] < 0.9 * first["loss"]

    model, tokenizer = load_model(run.folder)
    texts = list(load_backend(run.folder).summarize(TEXTS[:4]))
    assert len(texts) == 4
    logits, labels = forced_logits(model, tokenizer, TEXTS[0], TEXTS[1], max_source_tokens=30, max_target_tokens=30)
    first = opening(tokenizer)
    assert labels.tolist() == tokenizer(text_target=TEXTS[1], max_length=30, truncation=True)["input_ids"][
        first:
    ] and len(logits) == len(labels)
    assert first == (folder.name == "bart")


def test_on_policy_the_targets_follow_the_token_that_generation_starts_with(folder, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    seen, loss = [], DistillationTrainer.compute_loss

    def noted(trainer, model, inputs, *args, **kwargs):
        if model.training:
            seen.append({name: tensor.clone() for name, tensor in inputs.items()})
        return loss(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", noted)
    study = prepared(folder, corpus, tmp_path, **{"distillation.steps": 4, "distillation.validations": 0})
    train_student(study, single_run(study.study, "4-2", "gkd"))
    teacher, _ = load_model(folder)
    written = [batch for batch in seen if "sampled" in batch]
    assert len(written) == 2
    for batch in written:
        labels, inputs = batch["labels"], batch["decoder_input_ids"]
        assert (inputs[:, 0] == teacher.generation_config.decoder_start_token_id).all()
        kept = labels[:, :-1] >= 0
        assert kept.any() and torch.equal(inputs[:, 1:][kept], labels[:, :-1][kept])


def test_the_loss_is_the_plain_formula(loaded, tmp_path, folder, corpus, monkeypatch):
    """One step's logged losses against logits of plain forward passes."""
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    study = prepared(
        folder,
        corpus,
        tmp_path,
        **{"distillation.steps": 1, "distillation.validations": 0, "distillation.batch_size": 64},
    )
    run = single_run(study.study, "4-2", "hidden")
    train_student(study, run)
    entry = next(e for e in training_report(study, run)["log"] if "soft_loss" in e)

    teacher, tokenizer = load_model(folder)
    student = make_student(teacher, 4, 2)
    pairs, c = study.corpus["train"], study.study.corpus
    sources = tokenizer(
        list(pairs["document"]), padding=True, truncation=True, max_length=c.max_source_tokens, return_tensors="pt"
    )
    labels = tokenizer(
        text_target=list(pairs["summary"]),
        padding=True,
        truncation=True,
        max_length=c.max_target_tokens,
        return_tensors="pt",
    )["input_ids"]
    lengths = (labels != tokenizer.pad_token_id).sum(1, keepdim=True)
    kept = torch.arange(labels.shape[1]) < lengths
    labels = labels.masked_fill(~kept, -100)
    inputs = {
        "input_ids": sources["input_ids"],
        "attention_mask": sources["attention_mask"],
        "output_hidden_states": True,
    }
    inputs["decoder_input_ids"] = teacher.prepare_decoder_input_ids_from_labels(labels=labels)
    with torch.no_grad():
        ours, theirs = student(**inputs), teacher(**inputs)
    hard = F.cross_entropy(ours.logits[kept], labels[kept])
    t = study.study.distillation.temperature
    soft = t**2 * F.kl_div(
        (ours.logits[kept] / t).log_softmax(-1), (theirs.logits[kept] / t).softmax(-1), reduction="batchmean"
    )

    def normal(states):
        return F.layer_norm(states[kept], states.shape[-1:])

    matched = ((1, 3), (2, 4))  # layers 0 and 3 were copied; the first stands for 0 to 2
    hidden = sum(
        (normal(ours.decoder_hidden_states[a]) - normal(theirs.decoder_hidden_states[b])).square().mean()
        for a, b in matched
    ) / len(matched)
    assert entry["hard_loss"] == pytest.approx(hard.item(), rel=1e-4)
    assert entry["soft_loss"] == pytest.approx(soft.item(), rel=1e-3)
    assert entry["hidden_loss"] == pytest.approx(
        hidden.item(), rel=1e-2
    )  # T5's last states are scaled before the norm's epsilon


def test_an_export_writes_the_same_words_or_is_refused(loaded, folder, family, tmp_path):
    pytest.importorskip("ctranslate2")
    teacher, tokenizer = loaded
    make_student(teacher, 3, 2).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    if family in ("t5 1.1", "mt5"):
        with pytest.raises(UserError, match=r"outputs|exported"):
            export(tmp_path / "student", tmp_path / "export")
        return
    there = load_backend(export(tmp_path / "student", tmp_path / "export"))
    here = load_backend(tmp_path / "student")
    for settings in ({"num_beams": 1}, {"num_beams": 3, "early_stopping": True}):
        settings |= {"max_new_tokens": 12}
        texts = list(here.summarize(TEXTS[:12], **settings))
        assert list(there.summarize(TEXTS[:12], **settings)) == texts and len({*texts}) > 1


def test_other_families_are_refused():
    config = MarianConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8, encoder_attention_heads=2,
        decoder_attention_heads=2, pad_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="bart, mbart, pegasus, t5, mt5, not marian"):
        make_student(MarianMTModel(config), 1, 1)


def test_a_sentencepiece_file_alone_says_what_it_needs(folder, tmp_path, monkeypatch):
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "spiece.model").write_bytes(b"a vocabulary")
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"spiece.model.*pip install sentencepiece"):
        load_model(tmp_path)


def test_numbers_of_layers_are_read_by_the_family():
    """T5's config names them otherwise; what counts BART's layers alone may read them directly."""
    own = {"bart.py", "roofline.py", "memory_estimate.py", "settings.py", "checkpoint.py"}
    code = [*(ROOT / "distill_utils").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    for file in code:
        if file.name not in own:
            assert not re.search(r"config\.(en|de)coder_layers", file.read_text("utf-8")), file.name
