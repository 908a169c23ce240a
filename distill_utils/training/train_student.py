"""Train one student of a study, or continue its training."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from distill_utils.data.corpus import rouge_words
from distill_utils.data.splits import drawn
from distill_utils.data.tables import UNLABELLED
from distill_utils.data.tokenization import tokenize
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.checkpoint import (
    checkpoint_dtype,
    checkpoint_folder,
    checkpoint_hash,
    depth,
    for_inference,
    load_model,
)  # fmt: skip
from distill_utils.models.output_head import projected
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import (
    check_hidden,
    freeze_encoder,
    keeps_encoder,
    load_student,
    random_weights,
    same_weights,
    supervised_layers,
)
from distill_utils.studies.plan import Run, planned
from distill_utils.studies.settings import METHODS, SEEDS, Study, is_shape, student_label
from distill_utils.system.artefacts import is_current, read_json, whole_folder, write_json, write_key
from distill_utils.system.distributed import (
    as_main_says,
    gather,
    is_main,
    main_process_first,
    share_of_batch,
    wait_for_all,
    world_size,
)
from distill_utils.system.environment import training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.locks import locked
from distill_utils.system.run_time import spending
from distill_utils.training.attention import use_fastest_attention
from distill_utils.training.batching import Collator
from distill_utils.training.teacher_cache import encoder_states, pseudo_labels, seconds_of, teacher_states
from distill_utils.training.tracking import Tracking, check_trackers
from distill_utils.training.trainer import DistillationTrainer, DistillationTrainingArguments

TRAINING_FILE = "training.json"
CHECKPOINTS = 5  # of a training without validations


def train_student(prepared: Prepared, run: Run, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train one student unless it exists; resume if its training was interrupted.

    Under torchrun, all processes train together and the main process writes.

    Returns:
        The folder with checkpoint, tokenizer and ``training.json``: settings, cost (``seconds`` of training and
        ``teacher_seconds`` of the teacher cache, which students may share) and log.

    Raises UserError if the teacher cannot have such a student.
    """
    kind, start = METHODS[run.method], start_of(run)
    with main_process_first():  # may download the teacher and build the corpus
        key = _key(prepared, run)
    if len(set(gather([key]))) > 1:
        raise UserError("the processes see different teachers, corpora or code; give them the same folders")
    if as_main_says(is_current(run.folder, key)):
        return run.folder
    begun = train_student(prepared, start) if start else None  # before anything else is in memory
    with main_process_first():
        teacher, tokenizer = prepared.load_teacher()
        student = load_model(begun)[0] if begun else load_student(prepared.study, run.student, teacher, tokenizer)
    if kind.random:
        student = random_weights(student, run.seed)
    if kind.hidden:
        check_hidden(teacher, student, run.student)
    models = _Models(student, teacher, tokenizer)
    del teacher, student  # a training may do without the teacher
    with locked(_work_folder(run.folder), f"training {run.folder.name}") if is_main() else nullcontext():
        return _make(prepared, run, key, models, callbacks)


@dataclass
class _Models:
    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def _make(prepared: Prepared, run: Run, key: str, models: _Models, callbacks: Sequence[TrainerCallback]) -> Path:
    folder = run.folder
    if as_main_says(is_current(folder, key)):  # by the previous lock owner
        return folder
    report = {
        "student": student_label(run.student), "method": run.method, "seed": run.seed, "teacher": prepared.teacher_hash,
    }  # fmt: skip
    if not METHODS[run.method].trained:
        report |= {"steps": 0, "seconds": 0, "teacher_seconds": {}, "log": []}
    else:
        report |= _train(prepared, run, key, models, callbacks)
    if is_main():
        with whole_folder(folder, key) as temporary:
            models.student.to(checkpoint_dtype(prepared.teacher_folder)).save_pretrained(temporary)
            models.tokenizer.save_pretrained(temporary)
            write_json(temporary / TRAINING_FILE, report)
        shutil.rmtree(_work_folder(folder), ignore_errors=True)
    wait_for_all()  # the others may go on with what was saved
    return folder


def training_report(prepared: Prepared, run: Run) -> dict:
    """Read the ``training.json`` that :func:`train_student` wrote.

    Raises:
        UserError: if the student does not exist or was trained with other settings.
    """
    if not is_current(run.folder, _key(prepared, run)):
        raise UserError(
            f"there is no student {run.folder.name} with these settings; run notebook 03_distillation first"
        )
    return read_json(run.folder / TRAINING_FILE)


def start_of(run: Run) -> Run | None:
    """Return the run of the first half of an on-policy training's steps, since a copied student would write noise.

    A pretrained student needs none, nor does another method.
    """
    if not METHODS[run.method].on_policy or not is_shape(run.student):
        return None
    d = run.study.distillation
    if d.steps < 2:
        raise UserError(
            f"setting 'distillation.steps' should be at least 2 for {run.method}, half of them for its start"
        )
    half = d.model_copy(update={"steps": d.steps // 2, "validations": 0})
    variant = "-".join(filter(None, (run.study.variant, "start")))
    study = run.study.model_copy(update={"distillation": half, "variant": variant})
    return replace(run, study=study, method=d.start, name=f"{run.name}, first half")


def _learning_rate(run: Run) -> float:
    d = run.study.distillation
    return d.learning_rates.get(run.method, d.learning_rate)


def _key(prepared: Prepared, run: Run) -> str:
    study, student, method = run.study, run.student, run.method
    settings = {
        k: v for k, v in study.settings()["distillation"].items() if k not in ("student", "methods", "auto_batch_size")
    }
    kind = METHODS[method]
    unused = [] if kind.soft else ["alpha", "temperature"]
    unused += [] if kind.hidden else ["beta"]
    unused += [] if kind.interpolated else ["interpolation"]
    unused += [] if kind.on_policy else ["start", "lmbda", "sampling_temperature"]
    unused += [] if kind.pseudo_labels else [name for name in settings if name.startswith("pseudo_label")]
    unused += [] if kind.takes_cached_teacher else ["cache_teacher"]
    settings["learning_rate"] = _learning_rate(run)
    settings |= dict.fromkeys([*unused, "learning_rates"])
    start = start_of(run)
    begins = _key(prepared, start) if start else student
    if not is_shape(student):
        begins = checkpoint_hash(checkpoint_folder(student, record=study.hub_record))
    return fingerprint(
        begins, method, asdict(kind), run.seed, settings if kind.trained else None, prepared.teacher_hash,
        prepared.texts_key, study.settings()["generation"] if kind.pseudo_labels else None,
        code_fingerprint("data", "models", "training", "metrics.rouge", "metrics.words"),
    )  # fmt: skip


def _work_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.training")


def _train(prepared: Prepared, run: Run, key: str, models: _Models, callbacks: Sequence[TrainerCallback]) -> dict:
    student, teacher, tokenizer = models.student, models.teacher, models.tokenizer
    study, method, seed, corpus = run.study, run.method, run.seed, prepared.corpus
    check_trackers(study)
    d, kind, start = study.distillation, METHODS[method], start_of(run)
    before = training_report(prepared, start) if start else {"steps": 0, "seconds": 0, "teacher_seconds": {}}
    steps = d.steps - before["steps"]
    work = _work_folder(run.folder)
    if is_main():
        if not is_current(work, key):  # checkpoints of other settings
            for checkpoint in work.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        write_key(work, key)
    frozen = d.freeze_encoder and not kind.random and keeps_encoder(student, teacher)
    if frozen:
        freeze_encoder(student)
    precision = training_precision(d.precision, teacher.config.model_type)
    on_cpu = not torch.accelerator.is_available()
    use_fastest_attention(student)
    every = max(1, steps // (d.validations or CHECKPOINTS))
    args = DistillationTrainingArguments(
        output_dir=str(work),
        alpha=d.alpha if kind.soft else 1.0,
        temperature=d.temperature,
        beta=d.beta if kind.hidden else 0.0,
        interpolation=d.interpolation if kind.interpolated else 0.0,
        lmbda=d.lmbda if kind.on_policy else 0.0,
        sampling_temperature=d.sampling_temperature,
        sampled_tokens=study.corpus.max_target_tokens,
        max_steps=steps,
        per_device_train_batch_size=share_of_batch(d.batch_size, "distillation.batch_size"),
        batch_tokens=d.batch_tokens,
        auto_batch_size=d.auto_batch_size,
        gradient_accumulation_steps=d.gradient_accumulation_steps,
        activation_checkpointing=d.gradient_checkpointing,
        torch_compile=d.torch_compile,
        per_device_eval_batch_size=study.generation.batch_size,
        learning_rate=_learning_rate(run),
        warmup_steps=d.warmup_steps,
        lr_scheduler_type="linear",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,  # all trained parameters are used in every step
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, steps // 50),
        eval_strategy="steps" if d.validations else "no",
        eval_steps=every,
        eval_on_start=d.validations > 0,
        save_steps=every,
        save_total_limit=1,
        predict_with_generate=True,
        generation_num_beams=d.validation_beams,
        dataloader_pin_memory=not on_cpu,
        report_to="none",
        disable_tqdm=not is_main(),  # the default depends on the log level
        seed=(seed + 1) % SEEDS if start else seed,  # another order than the first half's
    )
    with main_process_first():  # tokenize once, then read the cache
        validation = corpus["validation"].select(range(min(d.validation_examples, len(corpus["validation"]))))
        training, validation = (tokenize(pairs, tokenizer, study.corpus) for pairs in (corpus["train"], validation))
    chosen = drawn(corpus["train"]["id"], d.max_pairs or len(training))
    generation_config = teacher.generation_config
    # L_hidden of a trained encoder compares the encoders' states, which are not cached.
    takes_cached = d.cache_teacher and kind.takes_cached_teacher and (frozen or not kind.hidden)
    asks_teacher = args.alpha < 1 or args.beta > 0 or args.lmbda > 0
    online = asks_teacher and not takes_cached
    teacher_seconds = {}
    if kind.pseudo_labels:
        replaced = sorted(chosen[: math.ceil(d.pseudo_label_share * len(chosen))])
        written = pseudo_labels(prepared, for_inference(teacher, precision), tokenizer, replaced)
        teacher_seconds["pseudo-labels"] = seconds_of(written)
        with main_process_first():
            training, kept = _retargeted(study, corpus["train"], training, replaced, written["summary"], tokenizer)
    own, cached = sorted(chosen) if d.max_pairs else None, {}
    if own is not None:
        training = training.select(own)
    names = (corpus["train"] if own is None else corpus["train"].select(own))["id"]
    if unlabelled := kind.on_policy and UNLABELLED in corpus:
        with main_process_first():
            training, names = (
                _with_unlabelled(study, training, corpus[UNLABELLED], tokenizer),
                [*names, *corpus[UNLABELLED]["id"]],
            )
    elif frozen and d.cache_encoder and same_weights(student.get_encoder(), teacher.get_encoder()):
        cached["encoder"] = encoder_states(prepared, for_inference(teacher, precision), tokenizer, own)
    if asks_teacher and takes_cached:
        cached["states"] = teacher_states(
            prepared, for_inference(teacher, precision), tokenizer, own, inner=_inner_layers(run, student, teacher, frozen), encoded=cached.get("encoder"),
        )  # fmt: skip
    teacher_seconds |= {name: seconds_of(outputs) for name, outputs in cached.items()}
    if cached:
        training = concatenate_datasets([training, *cached.values()], axis=1).with_format("numpy")
    projection = projected(teacher) if "states" in cached else None
    if not online:
        teacher = models.teacher = None  # free its memory
    tracking = [Tracking(study, run.folder.name)] if study.report_to and is_main() else []
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher,
        teacher_projection=projection,
        pair_ids=names,
        train_dataset=training,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=Collator(tokenizer, student),
        compute_metrics=lambda output: {"rougeL": _rouge_l(output, tokenizer, rouge_words(study))},
        callbacks=[*callbacks, *tracking],
    )
    try:
        with spending("training", run.folder.name):
            trainer.resume()
    finally:
        for tracker in tracking:
            tracker.close()
    student.requires_grad_(True).eval()
    student.generation_config = copy.deepcopy(generation_config)  # validation set defaults in it
    return {
        "alpha": args.alpha,
        "temperature": args.temperature if kind.soft else None,
        "beta": args.beta or None,
        "interpolation": args.interpolation or None,
        "lmbda": args.lmbda if kind.on_policy else None,
        "sampling_temperature": args.sampling_temperature if kind.on_policy else None,
        "pairs": len(training) - (len(corpus[UNLABELLED]) if unlabelled else 0),
        "unlabelled": len(corpus[UNLABELLED]) if unlabelled else 0,
        "pseudo_labels": kept if kind.pseudo_labels else 0,
        "steps": d.steps,
        "pairs_per_step": d.batch_size * d.gradient_accumulation_steps,
        "processes": world_size(),
        "precision": precision,
        "skipped_steps": trainer.skipped_steps,
        "encoder_frozen": frozen,
        "start": start.method if start else None,
        "seconds": before["seconds"] + trainer.seconds(),
        "teacher_seconds": before["teacher_seconds"] | {name: round(s, 1) for name, s in teacher_seconds.items()},
        "log": trainer.state.log_history,
    }


def _inner_layers(run: Run, student: PreTrainedModel, teacher: PreTrainedModel, frozen: bool) -> list[int]:
    """Return the decoder layers before the last one to cache: those that ``hidden`` compares, if it takes the cache.

    All methods that train students of this shape share the cache.
    """
    plans = [r for r in planned(run.study) if r.student == run.student]
    if not frozen or not any(METHODS[r.method].hidden for r in (run, *plans)):
        return []
    return supervised_layers(depth(teacher.config)["decoder"], depth(student.config)["decoder"])[:-1]


def _retargeted(
    study: Study, pairs: Dataset, tokenized: Dataset, replaced: Sequence[int], summaries: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Dataset, int]:  # fmt: skip
    """Tokenize the pairs with some targets replaced; ``target_length`` keeps the original lengths.

    A summary with less ROUGE-L than the study demands does not replace its reference.

    Returns:
        The pairs, and how many targets were replaced.
    """
    texts, least = list(pairs["summary"]), study.distillation.pseudo_label_rouge
    if least:
        scores = rouge_scores(summaries, [texts[i] for i in replaced], rouge_words(study))["rougeL"]
        good = np.flatnonzero(scores >= least)
        replaced, summaries = [replaced[i] for i in good], [summaries[i] for i in good]
    for i, summary in zip(replaced, summaries, strict=True):
        texts[i] = summary
    changed = tokenize(pairs.remove_columns("summary").add_column("summary", texts), tokenizer, study.corpus)
    return changed.add_column("target_length", [len(labels) for labels in tokenized["labels"]]), len(replaced)


def _with_unlabelled(study: Study, pairs: Dataset, documents: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Append documents whose targets the student will write; their place in batches is that of a target of median length."""
    tokenized = tokenize(documents, tokenizer, study.corpus)
    lengths = [len(labels) for labels in pairs["labels"]]
    middle = [int(np.median(lengths))] * len(tokenized)
    pairs, tokenized = pairs.add_column("target_length", lengths), tokenized.add_column("target_length", middle)
    return concatenate_datasets([pairs, tokenized])


def _rouge_l(output, tokenizer: PreTrainedTokenizerBase, words: str) -> float:
    predictions, labels = (
        tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
        for ids in (output.predictions, output.label_ids)
    )
    return float(rouge_scores(predictions, labels, words)["rougeL"].mean())
