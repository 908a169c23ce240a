"""Trials behind two statements of the docs: `python -m benchmarks.trials rates` or `python -m benchmarks.trials gap`.

`rates`: which learning rate plain fine-tuning and the best method of the default study need, by ROUGE-L on validation pairs.
`gap`: how much of the teacher's gap between training and validation pairs is memory, and how much is the distance
between packages. It needs the checkpoints that `distill teacher docstrings` left in `runs/`.

Each writes a file in `benchmarks/results/`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.report import RESULTS
from distill_utils.data.teacher_text import training_pairs, training_text
from distill_utils.data.tokenization import tokenize
from distill_utils.evaluation.evaluate import evaluate_model
from distill_utils.models.checkpoint import checkpoint_hash, load_model
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import Part, planned
from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.environment import environment
from distill_utils.system.progress import progress
from distill_utils.training.batching import BucketSampler, Collator
from distill_utils.training.losses import IGNORED
from distill_utils.training.train_student import TRAINING_FILE, train_student

RATES = {"sft": (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3), "hidden": (5e-4, 1e-3, 2e-3, 3e-3)}
#: Pairs of each kind that `gap` scores, and validation pairs that `rates` summarizes.
PAIRS = 1000


def rates() -> None:
    """Train plain fine-tuning and the best method at several rates, for as many steps as the default study does."""
    prepared = Prepared(load_study("docstrings"))
    rows = []
    for run in [r for r in planned(prepared.study) if r.method in RATES]:
        for rate in RATES[run.method]:
            changed = run.study.distillation.model_copy(update={"learning_rate": rate, "sft_learning_rate": None})
            study = run.study.model_copy(update={"distillation": changed, "variant": f"rate-{rate:g}"})
            run_here = replace(run, study=study)
            folder = train_student(prepared, run_here)
            model, tokenizer = load_model(folder)
            name = f"{run.name}, rate {rate:g}"
            scores = evaluate_model(
                prepared, name, model, tokenizer, checkpoint_hash(folder), Part("validation", PAIRS)
            )
            losses = [e["eval_loss"] for e in read_json(folder / TRAINING_FILE)["log"] if "eval_loss" in e]
            rows.append(
                {"method": run.method, "rate": rate, "rougeL": scores.means()["rougeL"], "validation_loss": losses[-1]}
            )
            d = study.distillation
            made = {"steps": d.steps, "batch_size": d.batch_size, "pairs": d.max_pairs, "validation_pairs": PAIRS}
            write_json(RESULTS / "learning_rates.json", {**made, "rows": rows, "environment": environment()})
            print(rows[-1], flush=True)


def gap() -> None:
    """Score each checkpoint on pairs that it has seen, on unseen pairs of the same packages, and on validation pairs."""
    study = load_study("docstrings")
    prepared, phase = Prepared(study), study.teacher.finetuning
    work = study.folder / "teacher_training"
    folders = sorted((work / "finetuning").glob("checkpoint-*"), key=_step)
    tokenizer = load_model(folders[-1])[1]
    chosen = training_pairs(study, training_text(study))
    texts = Dataset.from_dict({"document": [d.document for d in chosen], "summary": [d.summary for d in chosen]})
    texts = tokenize(texts, tokenizer, study.corpus)
    order = _first_pass(texts, phase.batch_size, study.seed)
    held_out = prepared.corpus["validation"]
    held_out = tokenize(held_out.select(range(min(PAIRS, len(held_out)))), tokenizer, study.corpus)
    drawn = np.random.default_rng(study.seed)
    # The pairs that the first checkpoint has not seen are seen by the last one: the same pairs, before and after.
    late = drawn.choice(order[_step(folders[0]) * phase.batch_size :], PAIRS, replace=False)
    early = drawn.choice(order[: _step(folders[0]) * phase.batch_size], PAIRS, replace=False)
    rows = []
    for folder in folders:
        model = load_model(folder)[0].eval()
        row = {"step": _step(folder), "passes": _step(folder) * phase.batch_size / len(order)}
        for kind, pairs in (("early", texts.select(early)), ("late", texts.select(late)), ("validation", held_out)):
            losses, tokens = _losses(model, tokenizer, pairs)
            row[kind] = losses.sum() / tokens.sum()
            again = drawn.integers(len(losses), size=(2000, len(losses)))
            ends = np.quantile(losses[again].sum(1) / tokens[again].sum(1), [0.025, 0.975])
            row[f"{kind}_ci"] = ends.tolist()
        rows.append(row)
        print(row, flush=True)
    made = {"pairs_of_each_kind": PAIRS, "first_checkpoint": _step(folders[0]), "training_pairs": len(order)}
    write_json(RESULTS / "teacher_gap.json", {**made, "rows": rows, "environment": environment()})


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _first_pass(pairs: Dataset, batch_size: int, seed: int) -> np.ndarray:
    """Return the training pairs in the order in which the teacher first saw them."""
    sampler = BucketSampler(pairs["length"], list(map(len, pairs["labels"])), batch_size=batch_size, seed=seed)
    return np.concatenate([*sampler])


@torch.inference_mode()
def _losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair's cross-entropy, summed over its target tokens in nats, and the number of these tokens."""
    collate, order = Collator(tokenizer, model), np.argsort(pairs["length"])
    losses, tokens = np.zeros(len(order)), np.zeros(len(order))
    for start in progress(range(0, len(order), 50), desc="scoring", unit="batch"):
        batch = collate(pairs.select(order[start : start + 50]).to_list())
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits.float()
        each = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="none")
        losses[order[start : start + 50]] = each.sum(1)
        tokens[order[start : start + 50]] = (labels != IGNORED).sum(1)
    return losses, tokens


if __name__ == "__main__":
    {"rates": rates, "gap": gap}[sys.argv[1]]()
