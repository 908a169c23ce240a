"""The distillation trainer on models of a few thousand parameters."""

import copy
import os
import pickle
import random
import re
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BartForConditionalGeneration, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from distill_utils.models.output_head import projected
from distill_utils.models.student import freeze_encoder, make_student
from distill_utils.system.artefacts import write_json, write_manifest
from distill_utils.system.errors import UserError, disk_is_full
from distill_utils.training import resumable
from distill_utils.training import trainer as trainer_module
from distill_utils.training.optimizers import MuonWithAdamW
from distill_utils.training.resumable import last_checkpoint
from distill_utils.training.trainer import DistillationTrainer, DistillationTrainingArguments
from tests.conftest import tiny_bart


class Padder:
    """Stands in for a tokenizer: the collator only pads with it."""

    def __call__(self, features):
        width = max(len(f["input_ids"]) for f in features)
        length = max(len(f["labels"]) for f in features)
        return {
            "input_ids": torch.tensor([f["input_ids"] + [1] * (width - len(f["input_ids"])) for f in features]),
            "attention_mask": torch.tensor(
                [[1] * len(f["input_ids"]) + [0] * (width - len(f["input_ids"])) for f in features]
            ),
            "labels": torch.tensor([f["labels"] + [-100] * (length - len(f["labels"])) for f in features]),
        }


def pairs(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(4, 40, (length,), generator=generator).tolist()

    return Dataset.from_list([{"input_ids": draw(4, 12), "labels": draw(2, 9)} for _ in range(count)])


def arguments(folder, cls=DistillationTrainingArguments, **settings):
    fixed = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
    usual = {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_steps": 1, "remove_unused_columns": False}
    return cls(output_dir=str(folder), **{**fixed, **usual, **settings})


def trained(folder, teacher, student=None, data=None, **settings):
    student = student or make_student(teacher, 3, 1)
    args = arguments(folder, **settings)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=data or pairs(), data_collator=Padder())
    trainer.train()
    return trainer


class Gradients(DistillationTrainer):
    """Keeps the gradient that the optimizer is given."""

    def create_optimizer(self, *args, **kwargs):
        optimizer = super().create_optimizer(*args, **kwargs)
        optimizer.register_step_pre_hook(
            lambda *_: setattr(
                self, "gradient", {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
            )
        )
        return optimizer


def gradient(folder, teacher, batch, accumulated, alpha, beta):
    args = arguments(
        folder,
        alpha=alpha,
        beta=beta,
        gradient_accumulation_steps=accumulated,
        per_device_train_batch_size=batch,
        max_grad_norm=0.0,
    )
    student = make_student(teacher, 3, 1)
    trainer = Gradients(student, args, teacher=teacher, train_dataset=pairs(), data_collator=Padder())
    trainer.train()
    return trainer.gradient, trainer.state.log_history[0]


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 2.0)])
def test_one_batch_of_eight_is_four_accumulated_batches_of_two(tmp_path, teacher, alpha, beta):
    one, log_one = gradient(tmp_path / "1", teacher, 8, 1, alpha, beta)
    four, log_four = gradient(tmp_path / "4", teacher, 2, 4, alpha, beta)
    for name in one:
        torch.testing.assert_close(four[name], one[name], rtol=1e-4, atol=1e-6)
    for part in ("loss", "hard_loss", "soft_loss") + (("hidden_loss",) if beta else ()):
        assert log_four[part] == pytest.approx(log_one[part], rel=1e-5)


def test_alpha_one_trains_as_the_plain_trainer_does(tmp_path, teacher):
    # Plain gradient descent: Adam would blow rounding up where the gradient is 0, as for the bias of the keys.
    ours = trained(tmp_path / "ours", teacher, alpha=1.0, optim="sgd")
    plain = Seq2SeqTrainer(
        make_student(teacher, 3, 1),
        arguments(tmp_path / "plain", Seq2SeqTrainingArguments, optim="sgd"),
        train_dataset=pairs(),
        data_collator=Padder(),
    )
    plain.train()
    assert ours.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], rel=1e-6)
    for (name, a), b in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def normalized(states):
    return torch.nn.functional.layer_norm(states, states.shape[-1:])


def compared(ours, theirs, weights):
    """How far one layer's states are from another's, token by token, in float64."""
    total = 0.0
    for row in range(weights.shape[0]):
        for token in range(weights.shape[1]):
            a, b = ours[row, token].double(), theirs[row, token].double()
            a, b = ((x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() for x in (a, b))
            total += float(weights[row, token] * ((a - b) ** 2).mean())
    return total


@pytest.mark.parametrize("frozen", [False, True])
def test_hidden_states_are_compared_with_those_of_the_layers_they_stand_for(tmp_path, teacher, frozen):
    student = make_student(teacher, 3 if frozen else 2, 2)  # decoder layers 0 and 2 of 3
    if frozen:
        freeze_encoder(student)
    args = arguments(tmp_path, alpha=0.3, beta=2.0)
    trainer = DistillationTrainer(student, args, teacher=teacher, data_collator=Padder())
    batch = Padder()(list(pairs(4)))
    ours, theirs = (m(**batch, output_hidden_states=True) for m in (student, teacher))
    loss = trainer._distillation_loss(student.train(), {k: v for k, v in batch.items() if k != "labels"} | {
        "decoder_input_ids": student.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    }, batch["labels"], None)  # fmt: skip
    kept = (batch["labels"] != -100).double()
    matched = [(1, 2), (2, 3)]  # the first stands for layers 0 and 1, the second is the last
    wanted = sum(compared(ours.decoder_hidden_states[i], theirs.decoder_hidden_states[j], kept) for i, j in matched) / 2
    if not frozen:
        mask = batch["attention_mask"].double()
        weights = mask * (kept.sum(1) / mask.sum(1))[:, None]
        states = ours.encoder_hidden_states, theirs.encoder_hidden_states
        wanted += sum(compared(states[0][i], states[1][j], weights) for i, j in matched) / 2
    assert loss.hidden.item() == pytest.approx(wanted / float(kept.sum()), rel=1e-4)
    parts = 0.3 * loss.hard + 0.7 * loss.soft + 2.0 * loss.hidden
    assert loss.total.item() == pytest.approx(parts.item(), rel=1e-6)
    # The part reaches the weights: with α = 1 and a β so large, next to nothing else does.
    trainer.args.alpha, trainer.args.beta = 1.0, 1e6
    trainer.compute_loss(student, batch).backward()
    found = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    states = student(**batch, output_hidden_states=True)
    ours = [
        normalized(states.decoder_hidden_states[i]) - normalized(theirs.decoder_hidden_states[j]) for i, j in matched
    ]
    reference = sum((x.square().mean(-1) * kept).sum() for x in ours) / 2
    if not frozen:
        ours = [
            normalized(states.encoder_hidden_states[i]) - normalized(theirs.encoder_hidden_states[j])
            for i, j in matched
        ]
        reference = reference + sum((x.square().mean(-1) * weights).sum() for x in ours) / 2
    (1e6 * reference / kept.sum()).float().backward()
    wanted = {n: p.grad for n, p in student.named_parameters() if p.grad is not None and p.grad.norm() > 1}
    assert len(wanted) > 10
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() < 1e-3 * gradient.norm(), name


def test_supervised_hidden_states_come_closer(tmp_path, teacher):
    settings = {"alpha": 0.0, "max_steps": 60, "learning_rate": 1e-2}
    log = [e for e in trained(tmp_path, teacher, beta=3.0, **settings).state.log_history if "hidden_loss" in e]
    assert log[-1]["hidden_loss"] < 0.5 * log[0]["hidden_loss"]
    settings["alpha"] = 1.0  # the references alone do not do it
    log = [e for e in trained(tmp_path, teacher, beta=1e-9, **settings).state.log_history if "hidden_loss" in e]
    assert log[-1]["hidden_loss"] > 0.5 * log[0]["hidden_loss"]
    with pytest.raises(ValueError, match="the cache has no hidden states"):
        trained(tmp_path, None, student=make_student(teacher, 3, 1), alpha=1.0, beta=1.0)


def test_without_teacher_only_alpha_one(tmp_path, teacher):
    trained(tmp_path, None, student=make_student(teacher, 3, 1), alpha=1.0)
    with pytest.raises(ValueError, match="requires a teacher"):
        trained(tmp_path, None, student=make_student(teacher, 3, 1), alpha=0.5)


def test_a_full_copy_starts_without_soft_loss(tmp_path, teacher):
    log = trained(tmp_path, teacher, student=make_student(teacher, 3, 3), alpha=0.5).state.log_history[0]
    assert log["soft_loss"] == pytest.approx(0, abs=1e-5)
    assert log["loss"] == pytest.approx(0.5 * log["hard_loss"], rel=1e-5)


def test_both_parts_are_logged_and_make_up_the_loss(tmp_path, teacher):
    entry = trained(tmp_path, teacher, alpha=0.3, temperature=2.0).state.log_history[0]
    assert entry["soft_loss"] > 0
    assert entry["loss"] == pytest.approx(0.3 * entry["hard_loss"] + 0.7 * entry["soft_loss"], rel=1e-5)


def test_the_teacher_neither_learns_nor_is_saved(tmp_path, teacher):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = trained(tmp_path, teacher, alpha=0.0)
    assert not trainer.teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    trainer.save_model(str(tmp_path / "saved"))
    saved = BartForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert saved.config.decoder_layers == 1
    assert sum(p.numel() for p in saved.parameters()) == sum(p.numel() for p in trainer.model.parameters())


def test_dropout_of_the_teacher_is_off(tmp_path):
    teacher = tiny_bart()
    teacher.config.dropout = 0.5
    for module in teacher.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    teacher.train()
    student = make_student(tiny_bart(), 3, 3)
    log = trained(tmp_path, teacher, student=student, alpha=0.0).state.log_history[0]
    assert log["soft_loss"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_shared_frozen_encoder_changes_nothing(tmp_path, teacher, dropout):
    """One encoder pass for both models gives the loss and gradients of two; the frozen encoder has no dropout."""
    results = []
    for frozen in (True, False):
        student = make_student(teacher, 3, 1)
        for module in student.get_encoder().modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = dropout if frozen else 0.0
        if frozen:
            freeze_encoder(student)
        trainer = DistillationTrainer(student, arguments(tmp_path, alpha=0.3), teacher=teacher, data_collator=Padder())
        assert trainer._shares_encoder is frozen
        loss = trainer.compute_loss(student.train(), Padder()(list(pairs(4))))
        loss.backward()
        results.append((loss, {n: p.grad for n, p in student.named_parameters() if p.grad is not None}))
    (shared, gradients), (plain, wanted) = results
    torch.testing.assert_close(shared, plain)
    assert gradients and all(name.startswith("model.decoder") for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name])


def test_the_teacher_keeps_no_keys_and_values(tmp_path, teacher):
    kept = []
    teacher.register_forward_hook(lambda module, inputs, output: kept.append(output.past_key_values))
    trained(tmp_path, teacher)
    assert kept == [None]


def test_another_encoder_is_not_shared(tmp_path, teacher):
    student = make_student(teacher, 2, 1)
    freeze_encoder(student)
    trainer = DistillationTrainer(student, arguments(tmp_path, alpha=0.3), teacher=teacher, data_collator=Padder())
    assert not trainer._shares_encoder


def test_distillation_brings_the_student_closer(tmp_path, teacher):
    trainer = trained(tmp_path, teacher, alpha=0.0, temperature=2.0, max_steps=60, learning_rate=1e-2)
    log = [entry for entry in trainer.state.log_history if "soft_loss" in entry]
    assert log[-1]["soft_loss"] < 0.3 * log[0]["soft_loss"]


def test_validation_loss_is_the_hard_loss_whatever_alpha_is(tmp_path, teacher):
    losses = []
    for alpha in (0.0, 1.0):
        trainer = DistillationTrainer(
            make_student(teacher, 3, 1),
            arguments(tmp_path, alpha=alpha),
            teacher=teacher,
            eval_dataset=pairs(),
            data_collator=Padder(),
        )
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    "settings", [{"alpha": 1.5}, {"alpha": -1.0}, {"temperature": 0.0}, {"beta": -1.0}, {"label_smoothing_factor": 0.1}]
)
def test_arguments_are_checked(tmp_path, settings):
    with pytest.raises(ValueError, match=r"must|not supported"):
        arguments(tmp_path, **settings)


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
@pytest.mark.parametrize("given", ["argument", "variable"])
def test_sharded_trainings_are_refused(tmp_path, monkeypatch, name, given):
    if given == "variable":  # as accelerate's launcher sets it
        monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(UserError, match=f"^{name} is not supported; .*torchrun") as refused:
        arguments(tmp_path, **({name.lower(): True} if given == "argument" else {}))
    assert "\n" not in str(refused.value)


def test_decoder_inputs_that_the_collator_made_are_used(tmp_path, teacher):
    """DataCollatorForSeq2Seq adds ``decoder_input_ids``; other collators do not. The loss is the same."""
    student = make_student(teacher, 3, 1).train()
    trainer = DistillationTrainer(student, arguments(tmp_path, alpha=0.5), teacher=teacher, data_collator=Padder())
    batch = Padder()(list(pairs(4)))
    shifted = student.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    torch.testing.assert_close(
        trainer.compute_loss(student, {**batch, "decoder_input_ids": shifted}), trainer.compute_loss(student, batch)
    )


RESUMED = {
    "alpha": 0.5, "max_steps": 12, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2,
    "train_sampling_strategy": "group_by_length",
}  # fmt: skip


def in_fp16(trainer, factor=2.0**16):
    """accelerate leaves fp16 out on a CPU, though PyTorch has it there; GPUs have it as it is set here."""
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=factor)
    return trainer


def begun(folder, teacher, stop, dropout=0.0, muon=False, **settings):
    """A training of 12 steps, three epochs, that was stopped after some of them."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stop

    teacher = copy.deepcopy(teacher)  # bf16 converts it for good
    student, common = (
        make_student(teacher, 3, 1),
        {"teacher": teacher, "train_dataset": pairs(), "data_collator": Padder()},
    )
    for module in student.modules():
        if hasattr(module, "dropout"):
            module.dropout = dropout
    args = arguments(folder, **RESUMED, **settings)
    optimizer = MuonWithAdamW(student, args.learning_rate) if muon else None
    trainer = DistillationTrainer(student, args, callbacks=[Stop()], optimizers=(optimizer, None), **common)
    if args.fp16 and args.use_cpu:
        in_fp16(trainer)
    trainer.resume()
    return trainer


@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        (2, {}), (4, {}), (6, {}), (3, {"dropout": 0.3}), (5, {"dropout": 0.3, "bf16": True, "gradient_accumulation_steps": 2}),
        (3, {"optim": "adafactor", "lr_scheduler_type": "cosine", "warmup_steps": 5}), (3, {"muon": True}),
        (3, {"lmbda": 0.5, "interpolation": 0.9, "sampled_tokens": 6, "gradient_accumulation_steps": 2, "dropout": 0.3}),
        (5, {"fp16": True, "gradient_accumulation_steps": 2, "dropout": 0.3}),
    ],
)  # fmt: skip
def test_training_resumes_where_it_stopped(tmp_path, teacher, stop, settings):
    whole = begun(tmp_path / "whole", teacher, stop=99, **settings)
    begun(tmp_path / "parts", teacher, stop, **settings)
    for draw in (random.random, np.random.random, lambda: torch.rand(1)):  # another process's would stand elsewhere
        draw()
    resumed = begun(tmp_path / "parts", teacher, stop=99, **settings)
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    logs = [[e["soft_loss"] for e in t.state.log_history if "soft_loss" in e] for t in (whole, resumed)]
    assert len(logs[0]) == 12 and logs[0] == pytest.approx(logs[1])
    assert resumed.seconds() > 0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_in_fp16_are_those_of_fp32(tmp_path, teacher, alpha, frozen):
    found = {}
    for half in (False, True):
        student = make_student(teacher, 3, 1)
        if frozen:
            freeze_encoder(student)
        args = arguments(tmp_path / str(half), max_steps=1, alpha=alpha, fp16=half, max_grad_norm=0.0)
        own = copy.deepcopy(teacher) if alpha < 1 else None
        trainer = Gradients(student, args, teacher=own, train_dataset=pairs(), data_collator=Padder())
        if half:
            in_fp16(trainer)
        trainer.train()
        found[half] = trainer.gradient
    assert found[True].keys() == found[False].keys()
    whole = sum(gradient.norm() ** 2 for gradient in found[False].values()) ** 0.5
    for name, gradient in found[False].items():  # that of the keys' bias is zero but for rounding
        assert (found[True][name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-4 * whole, name


def test_in_fp16_steps_with_too_large_a_factor_are_skipped(tmp_path, teacher):
    args = arguments(tmp_path, max_steps=12, fp16=True, logging_steps=1)
    trainer = DistillationTrainer(
        make_student(teacher, 3, 1), args, teacher=copy.deepcopy(teacher), train_dataset=pairs(), data_collator=Padder()
    )
    before = [p.detach().clone() for p in trainer.model.parameters()]
    in_fp16(trainer, 2.0**30).train()
    assert trainer.accelerator.scaler.get_scale() < 2.0**30
    assert 1 < trainer.skipped_steps < 12
    write_json(tmp_path / "training.json", trainer.state.log_history)  # infinite norms would be no JSON
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_checkpoint_in_fp16_goes_on_in_another_precision(tmp_path, teacher):
    begun(tmp_path, teacher, stop=5, fp16=True)
    resumed = begun(tmp_path, teacher, stop=99)
    assert resumed.state.global_step == 12 and all(p.isfinite().all() for p in resumed.model.parameters())


def test_accelerates_environment_does_not_change_the_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert arguments(tmp_path).mixed_precision == "no" and arguments(tmp_path, bf16=True).mixed_precision == "bf16"


def test_in_fp16_a_training_that_never_is_finite_ends(tmp_path, teacher):
    student = make_student(teacher, 3, 1)
    next(p for p in student.parameters() if p.requires_grad).data[0, 0] = float("nan")
    args = arguments(tmp_path, max_steps=100, fp16=True)
    trainer = DistillationTrainer(
        student, args, teacher=copy.deepcopy(teacher), train_dataset=pairs(), data_collator=Padder()
    )
    with pytest.raises(
        UserError, match=f"not finite at step {trainer_module.SKIPPED + 1}.*distillation.precision=fp32"
    ):
        in_fp16(trainer).train()


def test_a_training_that_a_full_disk_stopped_goes_on_when_there_is_room(tmp_path, small_disk, teacher):
    whole = begun(small_disk / "whole", teacher, stop=99, save_total_limit=1)
    shutil.rmtree(small_disk / "whole")
    begun(small_disk / "parts", teacher, stop=4, save_total_limit=1)
    one = sum(path.stat().st_size for path in (small_disk / "parts" / "checkpoint-4").iterdir())
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - one // 2))
    with pytest.raises(Exception) as stopped:  # whichever library writes then
        begun(small_disk / "parts", teacher, stop=99, save_total_limit=1)
    assert disk_is_full(str(stopped.value))
    (small_disk / "ballast").unlink()
    resumed = begun(small_disk / "parts", teacher, stop=99, save_total_limit=1)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"])
def test_resuming_runs_no_code_from_a_checkpoint(tmp_path, teacher, name):
    """Not even from one whose checksums are right."""
    trainer = begun(tmp_path, teacher, stop=5)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")  # as fp16 has one
    checkpoint, made = tmp_path / "checkpoint-5", tmp_path / "made"
    torch.save({"state": Harmful(made)}, checkpoint / name)
    write_manifest(checkpoint, resumable.CHECKPOINT)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        trainer.resume()
    assert not made.exists()
    torch.load(checkpoint / name, weights_only=False)
    assert made.exists(), "it would have been made"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_changed_checkpoint_is_named_and_not_read(tmp_path, teacher, capsys, name):
    whole = begun(tmp_path / "whole", teacher, stop=99)
    begun(tmp_path / "parts", teacher, stop=5)
    torch.save({"state": Harmful(tmp_path / "made")}, tmp_path / "parts" / "checkpoint-5" / name)
    resumed = begun(tmp_path / "parts", teacher, stop=99)
    assert f"checkpoint-5 is damaged ({name} does not match its checksum)" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_version_is_refused(tmp_path, teacher):
    """Without its file the parent would begin with a new optimizer."""
    begun(tmp_path, teacher, stop=5)
    (tmp_path / "checkpoint-5" / "optimizer.pt").unlink()
    write_manifest(tmp_path / "checkpoint-5", resumable.CHECKPOINT)
    with pytest.raises(UserError, match="written by another version"):
        begun(tmp_path, teacher, stop=99)


def test_a_loss_that_is_not_finite_stops_the_training_before_it_is_saved(tmp_path, teacher):
    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                next(p for p in model.parameters() if p.requires_grad).data[0, 0] = float("nan")

    names = [f"pair {c}" for c in "abcdefgh"]
    trainer = DistillationTrainer(
        make_student(teacher, 3, 1), arguments(tmp_path, **RESUMED), teacher=teacher, train_dataset=pairs(), data_collator=Padder(),
        callbacks=[Break()], pair_ids=names,
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"not finite at step 4, .*checkpoint-3 is kept. Lower the learning rate"
    ) as stopped:
        trainer.resume()
    named = re.findall("pair [a-h]", str(stopped.value))
    sampler = trainer.get_train_dataloader().batch_sampler
    sampler.set_epoch(0)
    assert named == sorted(names[i] for i in list(sampler)[3])
    weights = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not (tmp_path / "checkpoint-4").exists()


def test_every_epoch_has_an_order_of_its_own(tmp_path, teacher):
    trainer = begun(tmp_path, teacher, stop=99)
    sampler = trainer.get_train_dataloader().batch_sampler
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(i for batch in orders[1] for i in batch) == list(range(8))


def test_a_half_written_checkpoint_is_passed_over(tmp_path, teacher):
    whole = begun(tmp_path / "whole", teacher, stop=99)
    begun(tmp_path / "parts", teacher, stop=5)
    (tmp_path / "parts" / "checkpoint-5" / "trainer_state.json").write_text('{"global_st')
    (tmp_path / "parts" / "checkpoint-5" / "model.safetensors").write_bytes(b"half")
    resumed = begun(tmp_path / "parts", teacher, stop=99)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_stopped_right_after_every_checkpoint_is_whole(tmp_path, teacher):
    """As one that is killed before anything else is told of the checkpoint."""

    class Stopped(Exception):
        pass

    class Stop(TrainerCallback):
        def on_save(self, *args, **kwargs):
            raise Stopped

    for step in range(1, 13):
        trainer = DistillationTrainer(
            make_student(teacher, 3, 1), arguments(tmp_path, **RESUMED), teacher=teacher, train_dataset=pairs(), data_collator=Padder(),
        )  # fmt: skip
        trainer.callback_handler.callbacks.insert(0, Stop())  # before all others
        with pytest.raises(Stopped):
            trainer.resume()
        assert last_checkpoint(tmp_path).name == f"checkpoint-{step}"
    assert begun(tmp_path, teacher, stop=99).seconds() > 0


def test_a_finished_training_is_only_loaded(tmp_path, teacher):
    whole = begun(tmp_path, teacher, stop=99)
    before = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    again = begun(tmp_path, teacher, stop=99)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == before
    assert again.state.global_step == 12 and again.seconds() == whole.seconds()
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_validation_loss_is_the_mean_over_target_tokens(tmp_path, teacher, batch_size):
    """Whatever the batches: the parent averages over batches, of which the last may be small."""
    data = pairs(7)
    args = arguments(tmp_path, alpha=1.0, per_device_eval_batch_size=batch_size)
    metrics = DistillationTrainer(teacher, args, eval_dataset=data, data_collator=Padder()).evaluate()
    with torch.no_grad():
        losses = [teacher(**Padder()([row])).loss * len(row["labels"]) for row in data]
    assert metrics["eval_loss"] == pytest.approx(float(sum(losses)) / sum(len(row["labels"]) for row in data), rel=1e-5)


@pytest.mark.parametrize("batch_size", [2, 7])
def test_predictions_stand_beside_their_labels_in_the_datasets_order(tmp_path, teacher, batch_size):
    """Batches are formed by length, so the order has to be restored."""
    data, seen = pairs(7), {}
    settings = {"predict_with_generate": True, "generation_num_beams": 1, "generation_max_length": 6}
    args = arguments(tmp_path, alpha=1.0, per_device_eval_batch_size=batch_size, **settings)
    trainer = DistillationTrainer(
        teacher,
        args,
        eval_dataset=data,
        data_collator=Padder(),
        compute_metrics=lambda output: seen.update(o=output) or {},
    )
    trainer.evaluate()
    strip = lambda rows: [[t for t in row.tolist() if t not in (-100, 1)] for row in rows]  # noqa: E731
    alone = [teacher.generate(torch.tensor([row["input_ids"]]), num_beams=1, max_length=6)[0] for row in data]
    assert strip(seen["o"].predictions) == strip(alone)
    assert strip(seen["o"].label_ids) == [row["labels"] for row in data]


@pytest.mark.parametrize(
    "settings",
    [{"activation_checkpointing": True}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}],
    ids=["gradient_checkpointing", "torch_compile"],
)
@pytest.mark.parametrize(("frozen", "beta"), [(False, 0.0), (True, 0.0), (False, 2.0), (True, 2.0)])
def test_what_passes_through_to_the_trainer_does_not_change_the_loss(tmp_path, teacher, settings, frozen, beta):
    logs = []
    for i, given in enumerate(({}, settings)):
        student = make_student(teacher, 3, 1)
        if frozen:
            freeze_encoder(student)
        trainer = trained(tmp_path / str(i), teacher, student=student, max_steps=3, alpha=0.5, beta=beta, **given)
        assert trainer.model.is_gradient_checkpointing == ("activation_checkpointing" in given)
        assert hasattr(trainer.model_wrapped, "_orig_mod") == ("torch_compile" in given)
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(logs[0]) == 3 and logs[1] == pytest.approx(logs[0], rel=1e-5)


def test_the_loss_is_projected_in_the_precision_of_autocast(tmp_path, teacher, monkeypatch):
    """The library keeps autocast around the model's forward pass alone; the projections are outside it."""
    seen = []
    real = trainer_module.projected_loss

    def spy(student, *args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(student, *args, **kwargs)

    monkeypatch.setattr(trainer_module, "projected_loss", spy)
    trained(tmp_path, teacher, alpha=0.5, bf16=True)
    assert seen == [True]


def test_cached_outputs_need_batches_by_length(tmp_path, teacher):
    data = pairs(4).add_column("teacher_states", [[1.0]] * 4)
    student, args = make_student(teacher, 3, 1), arguments(tmp_path, alpha=0.5)
    with pytest.raises(ValueError, match="group_by_length"):
        DistillationTrainer(student, args, teacher=teacher, train_dataset=data, data_collator=Padder())


class StatesPadder(Padder):
    def __call__(self, features):
        states = [torch.tensor(f["teacher_states"]).view(-1, 16) for f in features]
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        return {**super().__call__(features), "teacher_states": padded}


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cached_states_are_projected_as_a_given_teacher_does(tmp_path, teacher, alpha):
    data = pairs(8).add_column("teacher_states", [[0.1] * len(row["labels"]) * 16 for row in pairs(8)])
    args = arguments(tmp_path, alpha=alpha, train_sampling_strategy="group_by_length")
    logs = []
    for given in ({"teacher": teacher}, {"teacher_projection": projected(teacher)}):
        student = make_student(teacher, 3, 1)
        trainer = DistillationTrainer(student, args, train_dataset=data, data_collator=StatesPadder(), **given)
        trainer.train()
        logs.append(trainer.state.log_history[0]["loss"])
    assert logs[0] == pytest.approx(logs[1])


def test_encoder_states_need_a_frozen_encoder(tmp_path, teacher):
    data = pairs(4).add_column("encoder_states", [[1.0]] * 4)
    args = arguments(tmp_path, alpha=1.0, train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match="encoder is trained"):
        DistillationTrainer(make_student(teacher, 3, 1), args, train_dataset=data, data_collator=Padder())
