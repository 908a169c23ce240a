"""Train a teacher from random weights (denoising and fine-tuning), or fine-tune a checkpoint."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BartTokenizer, DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.docstrings import Docstring
from distill_utils.data.teacher_text import training_pairs, training_text
from distill_utils.data.tokenization import tokenize
from distill_utils.models.bart import new_bart, train_tokenizer
from distill_utils.models.checkpoint import (
    check_lengths,
    checkpoint_folder,
    checkpoint_hash,
    load_model,
    parameter_count,
)
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current, whole_folder, write_key
from distill_utils.system.distributed import as_main_says, gather, is_main, main_process_first, share_of_batch
from distill_utils.system.environment import training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint
from distill_utils.system.locks import locked
from distill_utils.training.callbacks import LogLosses, log
from distill_utils.training.denoising import DenoisingWindows, token_stream
from distill_utils.training.optimizers import MuonWithAdamW
from distill_utils.training.trainer import DistillationTrainer, DistillationTrainingArguments


def train_teacher(
    prepared: Prepared, docstrings: list[Docstring] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """Train from random weights: tokenizer, denoising, fine-tuning, checkpoint averaging.

    Resumes from the last checkpoint under ``runs/<study>/teacher_training``.

    Args:
        docstrings: the training text; None: read from packages, see :func:`training_text`.

    Returns:
        The model with weights rounded to bfloat16, its tokenizer, and the recipe with losses and times.
    """
    study = prepared.study
    work = study.folder / "teacher_training"
    work.mkdir(parents=True, exist_ok=True)
    if docstrings is None:
        docstrings = training_text(study)
    tokenizer = _tokenizer(study, docstrings, work / "tokenizer")
    torch.manual_seed(study.seed)
    model = new_bart(study, tokenizer)
    log.info("%s training docstrings, %.1f M parameters", len(docstrings), parameter_count(model) / 1e6)
    t = study.teacher
    counted = {"encoder_layers", "decoder_layers", "d_model", "attention_heads", "vocabulary", "dropout"}
    counted |= {"denoising_window", "weight_decay", "denoising"}
    key = fingerprint(
        t.model_dump(include=counted), model.config.max_position_embeddings, [d.id for d in docstrings], study.seed,
        study.corpus.max_source_tokens,
    )  # fmt: skip
    stream = token_stream(docstrings, tokenizer)
    windows = DenoisingWindows(
        stream, tokenizer, t.denoising_window, t.denoising.steps * t.denoising.batch_size, study.seed
    )
    log.info("denoising: %.1f M tokens of text", len(stream) / 1e6)
    optimizer = MuonWithAdamW(model, t.denoising.learning_rate, t.weight_decay)
    denoising = _run_phase(study, model, tokenizer, _Phase("denoising", windows, key, optimizer))
    recipe = {
        "training_docstrings": len(docstrings),
        "packages": len({d.package for d in docstrings}),
        "denoising_tokens": len(stream),
        "denoising": denoising,
    }
    optimizer = MuonWithAdamW(model, t.finetuning.learning_rate, t.weight_decay)
    chosen = training_pairs(study, docstrings)
    pairs = Dataset.from_dict({"document": [d.document for d in chosen], "summary": [d.summary for d in chosen]})
    recipe |= _finetune(prepared, model, tokenizer, pairs, fingerprint(key, t.finetuning.model_dump()), optimizer)
    model = model.to(torch.bfloat16).float().eval()  # test the weights as they are saved
    model.set_attn_implementation("sdpa")
    model.config.dropout = 0.0  # students copy the configuration
    return model, tokenizer, recipe


def finetune_teacher(prepared: Prepared) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """Fine-tune ``teacher.base`` on the study's training pairs with AdamW.

    Resumes and returns as :func:`train_teacher`. Under torchrun, all processes train together.

    Raises:
        UserError: if ``[teacher.generation]`` is invalid or the checkpoint cannot read texts of the study's length.
    """
    study, t = prepared.study, prepared.study.teacher
    with main_process_first():
        base = checkpoint_folder(t.base, record=study.hub_record, setting="teacher.base")
        model, tokenizer = load_model(base)
        check_lengths(study, model)
        pairs = prepared.corpus["train"]
    model.generation_config.update(**t.generation.arguments())
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:
        raise UserError(f"[teacher.generation] is invalid: {' '.join(str(error).split())[:200]}") from None
    key = fingerprint(checkpoint_hash(base), prepared.texts_key, t.weight_decay, study.seed, t.finetuning.model_dump())
    recipe = {"base": t.base, **_finetune(prepared, model, tokenizer, pairs, key, None)}
    model.generation_config.update(**t.generation.arguments())
    return model.eval(), tokenizer, recipe


def _finetune(prepared: Prepared, model, tokenizer, pairs: Dataset, key: str, optimizer) -> dict:
    study, held_out = prepared.study, prepared.corpus["validation"]
    with main_process_first():
        validation = tokenize(held_out.select(range(min(1000, len(held_out)))), tokenizer, study.corpus)
        pairs = tokenize(pairs, tokenizer, study.corpus)
    log.info("fine-tuning: %s pairs", len(pairs))
    report = _run_phase(study, model, tokenizer, _Phase("finetuning", pairs, key, optimizer, validation))
    folder = study.folder / "teacher_training" / "finetuning"
    averaged = _average_if_better(study, model, validation, tokenizer, folder)
    seen = pairs.shuffle(seed=study.seed).select(range(min(1000, len(pairs))))
    averaged["training_pairs_loss"] = _validation_loss(study, model, seen, tokenizer, folder)
    return {"finetuning_pairs": len(pairs), "finetuning": report, **averaged}


def _tokenizer(study: Study, docstrings: list[Docstring], folder: Path) -> BartTokenizer:
    key = fingerprint(study.teacher.vocabulary, [d.id for d in docstrings])
    if not is_current(folder, key):
        tokenizer = train_tokenizer([f"{d.document} {d.summary}" for d in docstrings], study.teacher.vocabulary)
        with whole_folder(folder, key) as temporary:
            tokenizer.save_pretrained(temporary)
    return BartTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class _Phase:
    name: str
    data: Dataset | DenoisingWindows
    key: str
    #: None: the Trainer's AdamW.
    optimizer: torch.optim.Optimizer | None
    validation: Dataset | None = None


def _run_phase(study: Study, model, tokenizer, run: _Phase) -> dict:
    """Train one phase, or resume it, and return its wall time and loss curves; ``optimizer`` None: AdamW."""
    name, key, validation, phase = run.name, run.key, run.validation, getattr(study.teacher, run.name)
    output = study.folder / "teacher_training" / name
    if len(set(gather([key]))) > 1:
        raise UserError("the processes see different checkpoints, corpora or settings; give them the same folders")
    if not as_main_says(is_current(output, key)):
        if as_main_says(any(output.glob("checkpoint-*"))):  # may be hours of work
            raise UserError(
                f"{output} has checkpoints of another training; delete the folder or use another one: --set name=…"
            )
        if is_main():
            write_key(output, key)
    every = phase.evaluation_steps
    args = DistillationTrainingArguments(
        output_dir=str(output),
        alpha=1.0,
        max_steps=phase.steps,
        per_device_train_batch_size=share_of_batch(phase.batch_size, f"teacher.{name}.batch_size"),
        gradient_accumulation_steps=phase.gradient_accumulation_steps,
        per_device_eval_batch_size=study.generation.batch_size,
        learning_rate=phase.learning_rate,
        weight_decay=study.teacher.weight_decay,
        warmup_steps=phase.warmup_steps,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": phase.decay_steps, "decay_type": "linear"},
        **half_precision(study, model),
        batch_setting=f"teacher.{name}.batch_size",
        use_cpu=not torch.accelerator.is_available(),
        ddp_find_unused_parameters=False,
        logging_steps=50,
        eval_strategy="steps" if validation else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=study.teacher.average_checkpoints + 1,
        train_sampling_strategy="group_by_length" if validation else "random",
        dataloader_pin_memory=False,
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=not is_main(),  # the default depends on the log level
        seed=study.seed,
    )
    trainer = DistillationTrainer(
        model,
        args,
        train_dataset=run.data,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        optimizers=(run.optimizer, None),
    )
    trainer.add_callback(LogLosses())
    with locked(output, f"training the teacher ({name})") if is_main() else nullcontext():
        trainer.resume()
    history = trainer.state.log_history
    return {
        "seconds": trainer.seconds(),
        "training_loss": [[e["step"], round(e["loss"], 4)] for e in history if "loss" in e],
        "validation_loss": [[e["step"], round(e["eval_loss"], 4)] for e in history if "eval_loss" in e],
    }


def _average_if_better(study, model, validation, tokenizer, phase_folder: Path) -> dict:
    """Set the weights of ``model`` to the mean of the last checkpoints if its validation loss is lower."""
    folders = sorted(phase_folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    folders = folders[-study.teacher.average_checkpoints :]
    losses = {"last": _validation_loss(study, model, validation, tokenizer, phase_folder)}
    kept = "last"
    if len(folders) > 1:
        last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        states = [load_file(folder / "model.safetensors") for folder in folders]
        mean = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
        model.load_state_dict(mean, strict=False)  # tied weights are stored once
        losses["averaged"] = _validation_loss(study, model, validation, tokenizer, phase_folder)
        kept = min(losses, key=losses.get)
        if kept == "last":
            model.load_state_dict(last)
    return {"checkpoints_averaged": len(folders), "final_validation_loss": losses, "kept": kept}


def half_precision(study: Study, model: PreTrainedModel) -> dict[str, bool]:
    """Return the training arguments of the study's precision."""
    precision = training_precision(study.distillation.precision, model.config.model_type)
    return {name: precision == name for name in ("bf16", "fp16")}


def _validation_loss(study, model, validation, tokenizer, folder: Path) -> float:
    args = DistillationTrainingArguments(
        output_dir=str(folder), alpha=1.0, per_device_eval_batch_size=study.generation.batch_size, **half_precision(study, model), use_cpu=not torch.accelerator.is_available(), report_to="none",
        prediction_loss_only=True, dataloader_pin_memory=False,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    trainer = DistillationTrainer(model, args, eval_dataset=validation, data_collator=collator)
    return round(trainer.evaluate()["eval_loss"], 4)
