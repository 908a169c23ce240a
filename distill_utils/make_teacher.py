"""Train a study's teacher, evaluate it and write its checkpoint and model card."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from distill_utils.data.corpus import corpus_name, rouge_words
from distill_utils.data.reading import record_reading
from distill_utils.evaluation.evaluate import evaluate_baselines, evaluate_model
from distill_utils.metrics.rouge import precision_and_recall
from distill_utils.metrics.significance import compare, mean_interval
from distill_utils.metrics.text_statistics import describe_texts, stutters
from distill_utils.models.checkpoint import depth, parameter_count
from distill_utils.models.prepared import Prepared
from distill_utils.report.model_cards import finetuned_card, model_card
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import read_json, whole_folder, write_json, write_text
from distill_utils.system.distributed import is_main, main_process_first, world_size
from distill_utils.system.environment import gpu_name, processor_name
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint
from distill_utils.system.hub import is_hub_id
from distill_utils.system.paths import home
from distill_utils.training.callbacks import log
from distill_utils.training.train_teacher import finetune_teacher, train_teacher

RECIPE_FILE = "recipe.json"


def _finish(prepared: Prepared, destination: Path, model, tokenizer, recipe: dict) -> None:
    """Evaluate the teacher and write its folder: model, tokenizer, ``recipe.json``, model card."""
    study, test = prepared.study, prepared.corpus["test"]
    evaluation = evaluate_model(prepared, "teacher", model, tokenizer, fingerprint(recipe))
    baselines = evaluate_baselines(prepared)
    best = max(baselines, key=lambda name: baselines[name].means()["rougeL"])
    lead = compare("teacher", best, "rougeL", evaluation.scores["rougeL"], baselines[best].scores["rougeL"])
    precision, recall = precision_and_recall(evaluation.predictions, test["summary"], rouge_words(study))
    recipe = {
        "study": study.name,
        "settings": study.settings()["teacher"],
        "corpus": corpus_name(study),
        "corpus_fingerprint": prepared.fingerprint,
        "shape": [*depth(model.config).values(), model.config.d_model],
        "parameters": parameter_count(model),
        "machine": {
            "processor": processor_name(), "cores": os.cpu_count(), "torch": torch.__version__, "gpu": gpu_name(),
            "processes": world_size(),
        },
        **recipe,
        "test_pairs": len(test),
        "test": evaluation.means(),
        "test_ci": {kind: list(mean_interval(scores)) for kind, scores in evaluation.scores.items()},
        "baselines": {name: baseline.means()["rougeL"] for name, baseline in baselines.items()},
        "lead": {"over": best, "rougeL": lead.delta, "rougeL_ci": list(lead.ci)},
        "precision_rougeL": precision,
        "recall_rougeL": recall,
        "length_ratio": describe_texts(evaluation.predictions, test)["length_ratio"],
        "stutters": stutters(evaluation.predictions),
    }  # fmt: skip
    if not is_main():
        return
    with whole_folder(destination, fingerprint(recipe)) as folder:
        from_nothing = "denoising" in recipe  # its weights were rounded to bfloat16
        record_reading(model.config, study.corpus)
        model.config.use_cache = True  # training switched it off
        model.to(torch.bfloat16 if from_nothing else torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / RECIPE_FILE, recipe)
        write_text(folder / "README.md", model_card(recipe) if from_nothing else finetuned_card(recipe))


def make_teacher(study: Study) -> Path:
    """Train a teacher, evaluate it on the test split and write it to the first folder in ``teacher.path``.

    Raises:
        UserError: if ``teacher.path`` has no folder, ``teacher.base`` is needed but missing, or another teacher is there.
    """
    folders = [path for path in study.teacher.path if not is_hub_id(path)]
    if not folders:
        raise UserError(
            f"teacher.path of the study {study.file} has no folder; give one: --set teacher.path=models/teacher_model"
        )
    if world_size() > 1 and not study.teacher.base:
        raise UserError("training a teacher from random weights supports one process only; run it without torchrun")
    if study.corpus.path and not study.teacher.base:
        raise UserError(
            "a teacher of a corpus other than docstrings is fine-tuned from a checkpoint; give one: --set teacher.base=facebook/bart-large"
        )
    prepared = Prepared(study)
    _keep_others(prepared, home() / folders[0])
    if is_main():
        work = study.folder / "teacher_training"
        work.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(work / "train.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    train = finetune_teacher if study.teacher.base else train_teacher
    _finish(prepared, home() / folders[0], *train(prepared))
    return home() / folders[0]


def _keep_others(prepared: Prepared, folder: Path) -> None:
    """Raise UserError if the folder has a checkpoint that was not trained by this command on the same corpus."""
    if not (folder / "config.json").is_file():
        return
    with main_process_first():
        corpus = prepared.fingerprint
    made = read_json(folder / RECIPE_FILE) if (folder / RECIPE_FILE).is_file() else {}
    if made.get("corpus_fingerprint") != corpus:
        raise UserError(
            f"{folder} has a teacher that was not trained on this corpus; move it away, or give another folder: "
            "--set teacher.path=models/another"
        )
