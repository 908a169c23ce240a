"""Methods, seeds and variants of students: what each is trained from, on and for."""

import json
import shutil

import numpy as np
import pytest
import torch

from distill_utils.data.corpus import load_corpus
from distill_utils.data.splits import SPLITS
from distill_utils.data.tokenization import tokenize
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.checkpoint import load_model
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student, random_weights
from distill_utils.report.model_cards import student_card
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import planned, single_run, timed
from distill_utils.studies.settings import METHODS
from distill_utils.system.artefacts import read_json
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.training import train_student
from distill_utils.training.teacher_cache import pseudo_labels
from distill_utils.training.trainer import DistillationTrainer

TEACHER = ROOT / "models" / "docstrings_teacher"
SETTINGS = {
    "name": "test_students", "teacher.path": "models/docstrings_teacher", "distillation.precision": "fp32", "distillation.student": "6-3",
    "distillation.steps": 3, "distillation.validations": 0, "distillation.batch_size": 8,
}  # fmt: skip


def changed(**settings):
    return load_study("smoke", {**SETTINGS, **{f"distillation.{k}": v for k, v in settings.items()}})


@pytest.fixture(scope="module")
def study():
    study = changed()
    shutil.rmtree(study.folder, ignore_errors=True)
    yield study
    shutil.rmtree(study.folder, ignore_errors=True)


class Seen:
    """What the trainer was given, and every batch in its order."""

    def __init__(self, monkeypatch) -> None:
        self.trainers, self.batches = [], []
        begin, loss = DistillationTrainer.__init__, DistillationTrainer.compute_loss

        def noted(trainer, *args, **kwargs):
            begin(trainer, *args, **kwargs)
            self.trainers.append(trainer)

        def computed(trainer, model, inputs, *args, **kwargs):
            if model.training:
                self.batches.append({name: tensor.clone() for name, tensor in inputs.items()})
            return loss(trainer, model, inputs, *args, **kwargs)

        monkeypatch.setattr(DistillationTrainer, "__init__", noted)
        monkeypatch.setattr(DistillationTrainer, "compute_loss", computed)


def train(study, method, monkeypatch, **settings):
    seen = Seen(monkeypatch)
    study = changed(**settings)
    shutil.rmtree(study.student_folder("6-3", method, 0), ignore_errors=True)
    train_student.train_student(Prepared(study), single_run(study, "6-3", method))
    monkeypatch.undo()
    return seen, train_student.training_report(Prepared(study), single_run(study, "6-3", method))


def test_all_methods_see_the_same_documents_in_the_same_order(study, monkeypatch):
    sources = {}
    for method, what in METHODS.items():
        if what.trained:
            seen, report = train(study, method, monkeypatch)
            sources[method] = [batch["input_ids"].tolist() for batch in seen.batches]
            assert report["steps"] == 3 and len(seen.batches) == 3
    own = sources.pop("gkd")
    assert own[0] == sources["sft"][0] and own[1] != sources["sft"][0], "the second half has an order of its own"
    assert all(documents == sources["sft"] for documents in sources.values())


def test_pseudo_labels_take_the_references_place(study, monkeypatch):
    _, tokenizer = Prepared(study).load_teacher()
    train_pairs = load_corpus(study)["train"]
    written = pseudo_labels(Prepared(study), *Prepared(study).load_teacher(), list(range(len(train_pairs))))["summary"]
    written = list(written)
    wanted = set(map(tuple, tokenizer(text_target=written, max_length=16, truncation=True)["input_ids"]))
    references = set(map(tuple, tokenize(train_pairs, tokenizer, study.corpus)["labels"]))

    def targets(**settings):
        seen, report = train(study, "pl", monkeypatch, **settings)
        found = [tuple(row[row >= 0].tolist()) for batch in seen.batches for row in batch["labels"]]
        return found, report

    alone, report = targets()
    assert set(alone) <= wanted and report["alpha"] == 1 and report["pseudo_labels"] == 64
    assert report["teacher_seconds"]["pseudo-labels"] > 0, "their making is counted"
    mixed, report = targets(pseudo_label_share=0.5, steps=8)
    assert report["pseudo_labels"] == 32 and len(mixed) == 64
    assert 20 < sum(target in references - wanted for target in mixed) <= 32


def test_only_good_pseudo_labels_replace_references(study, monkeypatch):
    loaded, train_pairs = Prepared(study).load_teacher(), load_corpus(study)["train"]
    everyone = list(range(len(train_pairs)))
    written = list(pseudo_labels(Prepared(study), *loaded, everyone)["summary"])
    scores = rouge_scores(written, train_pairs["summary"])["rougeL"]
    least = float(np.quantile(scores, 0.7))
    wanted = [
        label if score >= least else own
        for label, score, own in zip(written, scores, train_pairs["summary"], strict=True)
    ]
    seen, report = train(study, "pl", monkeypatch, pseudo_label_rouge=least, steps=8)
    assert report["pseudo_labels"] == (scores >= least).sum() and 0 < report["pseudo_labels"] < 64
    tokenizer = loaded[1]
    found = {tuple(row[row >= 0].tolist()) for batch in seen.batches for row in batch["labels"]}
    assert found <= set(map(tuple, tokenizer(text_target=wanted, max_length=16, truncation=True)["input_ids"]))


def test_a_teacher_with_softer_attention_writes_other_pseudo_labels_and_is_itself_again(study):
    teacher, tokenizer = Prepared(study).load_teacher()
    before = {name: p.clone() for name, p in teacher.state_dict().items()}
    own, softer, drawn, again = (
        list(pseudo_labels(Prepared(changed(pseudo_label_attention=factors)), teacher, tokenizer)["summary"])
        for factors in ([1.0], [8.0], [4.0, 9.0], [9.0, 4.0])
    )
    assert len({*map(tuple, (own, softer, drawn))}) == 3 and drawn == again
    assert all(torch.equal(p, before[name]) for name, p in teacher.state_dict().items())


def test_pseudo_labels_with_other_beams_are_other_ones(study):
    teacher, tokenizer = Prepared(study).load_teacher()
    few = pseudo_labels(Prepared(changed(pseudo_label_beams=1)), teacher, tokenizer)["summary"]
    assert few != pseudo_labels(Prepared(changed(pseudo_label_beams=4)), teacher, tokenizer)["summary"]


def test_from_scratch_means_random_weights_and_nothing_frozen(study, monkeypatch):
    seen, report = train(study, "scratch", monkeypatch)
    assert not report["encoder_frozen"] and report["alpha"] == 1
    teacher, _ = Prepared(study).load_teacher()
    (trainer,) = seen.trainers
    ours, theirs = trainer.model.get_encoder().layers[0].fc1.weight, teacher.get_encoder().layers[0].fc1.weight
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1].abs() < 0.05
    one, again, other = (random_weights(teacher, seed).get_input_embeddings().weight for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_each_method_has_its_own_loss(study, monkeypatch):
    settings = {}
    for method in ("sft", "kd", "hidden", "jsd", "kd-pl"):
        (trainer,) = train(study, method, monkeypatch)[0].trainers
        settings[method] = (trainer.args.alpha, trainer.args.beta, trainer.args.interpolation)
    d = study.distillation
    assert settings == {
        "sft": (1, 0, 0), "kd": (d.alpha, 0, 0), "hidden": (d.alpha, d.beta, 0), "jsd": (d.alpha, 0, d.interpolation),
        "kd-pl": (d.alpha, 0, 0),
    }  # fmt: skip


def test_fine_tuning_may_have_a_learning_rate_of_its_own(study, monkeypatch):
    for method, rate in (("sft", 3e-4), ("kd", study.distillation.learning_rate)):
        (trainer,) = train(study, method, monkeypatch, learning_rates={"sft": 3e-4})[0].trainers
        assert trainer.args.learning_rate == rate


def test_fewer_pairs_are_a_part_of_more(study, monkeypatch):
    def documents(**settings):
        seen, report = train(study, "sft", monkeypatch, steps=16, **settings)
        return {tuple(row.tolist()) for batch in seen.batches for row in batch["input_ids"][:, :12]}, report["pairs"]

    few, count = documents(max_pairs=16)
    more, twice = documents(max_pairs=32)
    assert (count, twice) == (16, 32) and few < more


def test_caches_go_with_fewer_pairs_and_other_targets(study, monkeypatch):
    plain, _ = train(study, "kd", monkeypatch, max_pairs=16)
    cached, report = train(study, "kd", monkeypatch, max_pairs=16, cache_teacher="states", cache_encoder=True)
    assert sorted(report["teacher_seconds"]) == ["encoder", "states"]
    for a, b in zip(plain.batches, cached.batches, strict=True):
        assert torch.equal(a["labels"], b["labels"])
        assert {"teacher_states", "encoder_states"} <= b.keys()
    for method in ("pl", "kd-pl"):
        seen, report = train(study, method, monkeypatch, cache_teacher="states", cache_encoder=True)
        assert "encoder" in report["teacher_seconds"] and "states" not in report["teacher_seconds"]
        assert "teacher_states" not in seen.batches[0], "these are those of the references"


@pytest.mark.parametrize(("frozen", "kinds"), [(True, ["states"]), (False, [])])
def test_hidden_takes_cached_states_if_the_encoder_is_frozen(study, monkeypatch, frozen, kinds):
    seen, report = train(study, "hidden", monkeypatch, cache_teacher="states", freeze_encoder=frozen)
    assert sorted(report["teacher_seconds"]) == kinds
    (trainer,) = seen.trainers
    assert (trainer.teacher is None) is frozen


def test_a_narrower_student_trains_its_encoder_and_is_saved_as_narrow(study, monkeypatch):
    narrow = changed(student="6-3-128")
    (run,) = [run for run in planned(narrow) if run.method == "hidden"]
    folder = train_student.train_student(Prepared(narrow), run)
    assert folder.name == "6-3-128-hidden-0" and not read_json(folder / train_student.TRAINING_FILE)["encoder_frozen"]
    config = load_model(folder)[0].config
    assert (config.encoder_layers, config.decoder_layers) == (6, 3)
    assert config.encoder_ffn_dim == config.decoder_ffn_dim == 128


def test_methods_of_a_study_with_hidden_share_one_cache(study, monkeypatch):
    folder = study.folder / "teacher_outputs"
    shutil.rmtree(folder, ignore_errors=True)
    for method in ("kd", "hidden"):
        train(study, method, monkeypatch, cache_teacher="states", methods=["kd", "hidden"])
    assert len(list(folder.glob("states-*"))) == 1


def test_settings_that_a_method_does_not_use_train_nothing_anew(study, monkeypatch):
    train_student.train_student(Prepared(changed()), single_run(changed(), "6-3", "sft"))
    monkeypatch.setattr(train_student, "_train", lambda *args: pytest.fail("it was there already"))
    kd = train_student._key(Prepared(changed()), single_run(changed(), "6-3", "kd"))
    rate = changed(learning_rates={"sft": 1e-4})
    assert train_student._key(Prepared(rate), single_run(rate, "6-3", "kd")) == kd
    same = changed(temperature=7.0, beta=2.0, interpolation=0.3, pseudo_label_share=0.5)
    train_student.train_student(Prepared(same), single_run(same, "6-3", "sft"))


def test_on_policy_training_begins_with_half_of_the_steps_of_another_method(study, monkeypatch):
    seen, report = train(study, "gkd", monkeypatch, steps=5, start="kd", cache_encoder=True)
    first, own = seen.trainers
    assert (first.args.max_steps, own.args.max_steps, report["steps"]) == (2, 3, 5)
    assert first.args.alpha == 0.5 and not first.args.lmbda and own.args.lmbda == 1 and report["start"] == "kd"
    assert ["sampled" in batch for batch in seen.batches] == [False] * 2 + [True] * 3
    folder = study.folder / "students" / "6-3-kd-0-start"
    assert report["seconds"] > read_json(folder / train_student.TRAINING_FILE)["seconds"] > 0
    assert "encoder" in report["teacher_seconds"]
    start = load_model(folder)[0].get_decoder().layers[0].fc1.weight
    ended = load_model(study.student_folder("6-3", "gkd", 0))[0].get_decoder().layers[0].fc1.weight
    assert not torch.equal(start, ended)


def test_on_policy_training_of_a_pretrained_student_needs_no_start(study, monkeypatch, tmp_path):
    model, tokenizer = Prepared(study).load_teacher()
    make_student(model, 6, 2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    own = changed(student=str(tmp_path))
    seen = Seen(monkeypatch)
    train_student.train_student(Prepared(own), run := single_run(own, str(tmp_path), "gkd"))
    report = train_student.training_report(Prepared(own), run)
    assert report["start"] is None and report["steps"] == 3 == len(seen.batches) and len(seen.trainers) == 1


def test_on_policy_training_reads_documents_without_summaries(monkeypatch, tmp_path):
    texts = [
        f"name_{i}(value) The value number {i} is read, checked and kept in the table of values." for i in range(60)
    ]
    rows = [{"document": text, "summary": f"Keep value number {i}." if i < 40 else ""} for i, text in enumerate(texts)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"name": "test_unlabelled", "corpus.path": str(tmp_path / "pairs.jsonl"), "corpus.unlabelled": True}
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    study = load_study("smoke", {**SETTINGS, **settings, "distillation.steps": 24, "teacher.path": str(TEACHER)})
    prepared, seen = Prepared(study), Seen(monkeypatch)
    assert len(prepared.corpus["unlabelled"]) == 20 and sum(len(prepared.corpus[split]) for split in SPLITS) == 40
    assert prepared.statistics["steps"]["kept: documents without summary"] == 20
    assert not prepared.statistics["steps"].get("dropped: empty summary")
    train_student.train_student(prepared, run := single_run(study, "6-3", "gkd"))
    report = train_student.training_report(prepared, run)
    assert (report["pairs"], report["unlabelled"]) == (len(prepared.corpus["train"]), 20)
    assert " and 20 documents without a summary; " in student_card(prepared, run)
    tokenizer = prepared.load_teacher()[1]
    read = {
        tokenizer.decode(ids, skip_special_tokens=True)
        for b in seen.batches
        if "sampled" in b
        for ids in b["input_ids"]
    }
    assert sum(any(text[:40] in found for found in read) for text in texts[40:]) == 20
    plain = train_student.train_student(prepared, single_run(study, "6-3", "sft"))
    given = [batch["labels"] for batch in seen.batches if "sampled" not in batch]
    assert plain.is_dir() and all((labels[:, 1] != tokenizer.eos_token_id).all() for labels in given)


def test_the_plan_has_every_student_once():
    study = load_study(
        "smoke",
        {
            "distillation.methods": ["copy", "sft", "kd"], "evidence.seeds": 3, "evidence.shapes": ["1-1", "2-2"],
            "evidence.alphas": [0.5, 1], "evidence.temperatures": [1, 2.0], "evidence.pairs": [16], "evidence.pairs_methods": ["sft"],
            "evidence.budgets": {"sft": [6], "kd": [6, 9]},
        },
    )  # fmt: skip
    runs = planned(study)
    assert len({run.folder for run in runs}) == len({run.evaluation for run in runs}) == len(runs)
    counts = {
        group: sum(run.group == group for run in runs) for group in ("main", "budgets", "shapes", "pairs", "sweep")
    }
    assert counts == {"main": 7, "budgets": 3, "shapes": 2, "pairs": 1, "sweep": 3}, "α = 1 has no temperature"
    assert [run.study.distillation.steps for run in runs if run.group == "budgets"] == [6, 6, 9]
    assert {(run.study.distillation.alpha, run.study.distillation.temperature) for run in runs if run.group == "sweep"} == {
        (0.5, 1.0), (0.5, 2.0), (1.0, 1.0),
    }  # fmt: skip
    assert [run.name for run in timed(runs)] == [
        "2-1 sft",
        "2-1 kd",
        "2-1 sft, 6 steps",
        "2-1 kd, 6 steps",
        "2-1 kd, 9 steps",
        "1-1 kd",
        "2-2 kd",
    ]
    assert all(run.study.settings()["corpus"] == study.settings()["corpus"] for run in runs)


def test_a_shape_that_the_teacher_cannot_give_is_refused_before_anything_is_trained():
    from distill_utils.models.student import check_student

    with pytest.raises(UserError, match="1 to 6 of its teacher's 6"):
        check_student(Prepared(load_study("smoke", {**SETTINGS, "evidence.shapes": ["6-7"]})))


def test_a_student_loads_with_its_methods_name(study):
    folder = train_student.train_student(Prepared(study), single_run(study, "6-3", "jsd"))
    model, _ = load_model(folder)
    assert model.config.decoder_layers == 3 and folder.name == "6-3-jsd-0"
