"""Students of a study: shape, method and seed enter, a trained checkpoint folder with its log leaves."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, TrainerCallback

from distill_utils.artefacts import KEY_FILE, is_current, read_json, whole_folder, write_json
from distill_utils.corpora import corpus_statistics, load_corpus, tokenize
from distill_utils.environment import bf16_supported
from distill_utils.errors import UserError
from distill_utils.models import checkpoint_dtype, checkpoint_hash, freeze_encoder, load_teacher, make_student
from distill_utils.rouge import rouge_scores
from distill_utils.study import METHODS, Study, code_fingerprint, fingerprint, parse_shape
from distill_utils.trainer import DistillationTrainer, DistillationTrainingArguments

TRAINING_FILE = "training.json"


def train_student(
    study: Study, shape: str, method: str, seed: int | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Train one student, or return it if it is there already; an interrupted training is continued.

    Args:
        shape: ``"E-D"``.
        method: ``copy`` (layers copied, untrained), ``sft`` (hard loss only) or ``kd`` (both losses).
        seed: of the data order; the study's where None.

    Returns:
        The folder: checkpoint, tokenizer and ``training.json`` with settings, cost and log.

    Raises:
        UserError: an unknown method, or a shape that the teacher cannot give.
    """
    if method not in METHODS:
        raise UserError(f"there is no method {method!r}; the methods are: {', '.join(METHODS)}")
    seed = study.seed if seed is None else seed
    folder = study.student_folder(shape, method, seed)
    teacher, tokenizer = load_teacher(study)
    key = _key(study, shape, method, seed)
    if is_current(folder, key):
        return folder
    student = make_student(teacher, *parse_shape(shape))
    report = {"shape": shape, "method": method, "seed": seed, "teacher": checkpoint_hash(study.teacher_folder)}
    if method == "copy":
        report |= {"steps": 0, "seconds": 0, "log": []}
    else:
        report |= _train(study, folder, key, student, teacher, tokenizer, method, seed, callbacks)
    with whole_folder(folder, key) as temporary:
        student.to(checkpoint_dtype(study.teacher_folder)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / TRAINING_FILE, report)
    shutil.rmtree(_work_folder(folder), ignore_errors=True)
    return folder


def student_name(shape: str, method: str) -> str:
    return f"{shape} {method}"


def training_report(study: Study, shape: str, method: str, seed: int | None = None) -> dict:
    """What ``train_student`` wrote about a student.

    Raises:
        UserError: the student is not there, or was made with other settings.
    """
    seed = study.seed if seed is None else seed
    folder = study.student_folder(shape, method, seed)
    if not is_current(folder, _key(study, shape, method, seed)):
        raise UserError(
            f"there is no student {folder.name} made with these settings; run notebook 03_distillation first"
        )
    return read_json(folder / TRAINING_FILE)


def _key(study: Study, shape: str, method: str, seed: int) -> str:
    settings = {k: v for k, v in study.settings()["distillation"].items() if k not in ("student", "methods")}
    if method == "sft":
        settings |= {"alpha": 1.0, "temperature": None}
    return fingerprint(
        shape, method, seed, settings if method != "copy" else None, checkpoint_hash(study.teacher_folder),
        corpus_statistics(study)["fingerprint"], study.corpus.max_source_tokens, study.corpus.max_target_tokens,
        code_fingerprint("losses", "trainer", "models", "students", "corpora"),
    )  # fmt: skip


def _work_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.training")


def _train(study, folder, key, student, teacher, tokenizer, method, seed, callbacks) -> dict:
    d = study.distillation
    work = _work_folder(folder)
    if work.exists() and not is_current(work, key):
        shutil.rmtree(work)  # checkpoints of another recipe
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / KEY_FILE, {"key": key})
    corpus = load_corpus(study)
    validation = corpus["validation"].select(range(min(d.validation_examples, len(corpus["validation"]))))
    frozen = d.freeze_encoder and student.config.encoder_layers == teacher.config.encoder_layers
    if frozen:
        freeze_encoder(student)
    on_cpu = not torch.accelerator.is_available()
    if on_cpu:  # the backward pass of fused attention is slower than the plain one's
        student.set_attn_implementation("eager")
    every = max(1, d.steps // d.validations)
    args = DistillationTrainingArguments(
        output_dir=str(work),
        alpha=1.0 if method == "sft" else d.alpha,
        temperature=d.temperature,
        max_steps=d.steps,
        per_device_train_batch_size=d.batch_size,
        gradient_accumulation_steps=d.gradient_accumulation_steps,
        per_device_eval_batch_size=study.generation.batch_size,
        learning_rate=d.learning_rate,
        warmup_steps=d.warmup_steps,
        lr_scheduler_type="linear",
        bf16=d.bf16 and bf16_supported(),
        use_cpu=on_cpu,
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, d.steps // 50),
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=True,
        save_steps=every,
        save_total_limit=1,
        predict_with_generate=True,
        generation_num_beams=1,
        dataloader_pin_memory=not on_cpu,
        report_to="none",
        disable_tqdm=False,  # whatever the log level is
        seed=seed,
    )
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher if args.alpha < 1 else None,
        train_dataset=tokenize(corpus["train"], tokenizer, study.corpus),
        eval_dataset=tokenize(validation, tokenizer, study.corpus),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=student),
        compute_metrics=lambda output: {"rougeL": _rouge_l(output, tokenizer)},
        callbacks=list(callbacks),
    )
    trainer.resume()
    student.requires_grad_(True).eval()
    student.generation_config = copy.deepcopy(teacher.generation_config)  # validation filled in defaults
    return {
        "alpha": args.alpha,
        "temperature": args.temperature if method == "kd" else None,
        "steps": d.steps,
        "encoder_frozen": frozen,
        "seconds": trainer.seconds(),
        "log": trainer.state.log_history,
    }


def _rouge_l(output, tokenizer: PreTrainedTokenizerBase) -> float:
    predictions, labels = (
        tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
        for ids in (output.predictions, output.label_ids)
    )
    return float(rouge_scores(predictions, labels)["rougeL"].mean())
