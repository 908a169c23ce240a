"""Trials behind statements of the docs: `python -m benchmarks.trials rates`, `gap` or `seen`.

`rates`: which learning rate each method of the default study needs, by ROUGE-L on validation pairs.
`gap`: how much of the teacher's gap between training and validation pairs is memory, and how much is the distance
between packages.
`seen`: whether a teacher distils better on pairs that it was not trained on.

The last two need the checkpoints that `distill teacher docstrings` left in `runs/`. Each writes a file in `benchmarks/results/`.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.report import RESULTS
from distill_utils.data.splits import drawn as drawn_by_hash
from distill_utils.data.teacher_text import training_pairs, training_text
from distill_utils.data.tokenization import tokenize
from distill_utils.evaluation.evaluate import evaluate_model
from distill_utils.metrics.significance import compare
from distill_utils.models.checkpoint import checkpoint_hash, load_model
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import Part, planned
from distill_utils.system.artefacts import read_json, write_json, write_key
from distill_utils.system.environment import environment
from distill_utils.system.fingerprints import fingerprint
from distill_utils.system.progress import progress
from distill_utils.training.batching import BucketSampler, Collator
from distill_utils.training.losses import IGNORED
from distill_utils.training.optimizers import MuonWithAdamW
from distill_utils.training.train_student import TRAINING_FILE, train_student
from distill_utils.training.train_teacher import _Phase, _run_phase

RATES = {
    "sft": (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3),
    "kd": (5e-4, 1e-3, 2e-3),
    "hidden": (5e-4, 1e-3, 2e-3, 3e-3),
}
#: Pairs of each kind that `gap` scores, and validation pairs that `rates` summarizes.
PAIRS = 1000
DROPOUT = 0.1
#: Optimizer steps of `rates`.
STEPS = 250


def rates() -> None:
    """Train three methods at several rates."""
    prepared = Prepared(load_study("docstrings"))
    rows = []
    for run in [r for r in planned(prepared.study) if r.method in RATES]:
        for rate in RATES[run.method]:
            changed = run.study.distillation.model_copy(
                update={"learning_rate": rate, "learning_rates": {}, "steps": STEPS}
            )
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
    """Score checkpoints of the teacher on pairs that they have seen, on unseen pairs of the same packages, and on validation pairs.

    Also the mean of the last checkpoints, and a teacher whose last steps were trained with dropout.
    """
    text = _TeacherText()
    study, folders = text.study, text.checkpoints
    held_out = Prepared(study).corpus["validation"]
    held_out = tokenize(held_out.select(range(min(PAIRS, len(held_out)))), text.tokenizer, study.corpus)
    drawn = np.random.default_rng(study.seed)
    # The pairs that the first checkpoint has not seen are seen by the last one: the same pairs, before and after.
    early = drawn.choice(text.seen_by(folders[0]), PAIRS, replace=False)
    late = drawn.choice(np.concatenate(text.batches[_step(folders[0]) :]), PAIRS, replace=False)
    pairs = {"early": text.pairs.select(early), "late": text.pairs.select(late), "validation": held_out}
    rows = []
    made = {"pairs_of_each_kind": PAIRS, "first_checkpoint": _step(folders[0]), "training_pairs": len(text.ids)}

    def add(name: str, step: int, model: PreTrainedModel) -> None:
        row = {"model": name, "passes": step / len(text.batches)}
        for kind, chosen in pairs.items():
            losses, tokens = _losses(model.eval(), text.tokenizer, chosen)
            row[kind] = losses.sum() / tokens.sum()
            again = drawn.integers(len(losses), size=(2000, len(losses)))
            ends = np.quantile(losses[again].sum(1) / tokens[again].sum(1), [0.025, 0.975])
            row[f"{kind}_ci"] = ends.tolist()
        rows.append(row)
        print(row, flush=True)
        write_json(RESULTS / "teacher_gap.json", {**made, "rows": rows, "environment": environment()})

    models = [load_model(folder)[0] for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        add(f"step {_step(folder):,}", _step(folder), model)
    states = [model.state_dict() for model in models[-study.teacher.average_checkpoints :]]
    models[0].load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    add(f"mean of the last {len(states)}", _step(folders[-1]), models[0])
    add(f"dropout {DROPOUT} from step {_step(folders[-2]):,} on", _step(folders[-1]), text.with_dropout())


def seen() -> None:
    """Distil the teacher's first checkpoint on pairs that it has seen, and on as many that it has not."""
    text = _TeacherText()
    teacher, rows, scores = text.checkpoints[0], [], {}
    prepared = Prepared(load_study("docstrings", {"teacher.path": str(teacher)}))
    whole, key = prepared.corpus, prepared.fingerprint
    learnt, known = {text.ids[i] for i in text.seen_by(teacher)}, {*text.ids}
    model, tokenizer = prepared.load_teacher()
    evaluation = evaluate_model(prepared, "seen, teacher", model, tokenizer, checkpoint_hash(teacher))
    count = prepared.study.distillation.max_pairs
    made = {"teacher_steps": _step(teacher), "pairs": count, "teacher_rougeL": evaluation.means()["rougeL"]}
    for kind in ("seen", "unseen"):
        wanted = learnt if kind == "seen" else known - learnt
        own = [i for i, name in enumerate(whole["train"]["id"]) if name in wanted]
        names = whole["train"].select(own)["id"]
        own = [own[i] for i in sorted(drawn_by_hash(names, count))]
        prepared.__dict__["corpus"] = DatasetDict({**whole, "train": whole["train"].select(own)})
        prepared.__dict__["statistics"] = {"fingerprint": f"{key} {kind}"}  # keys of caches and students hold it
        for run in [r for r in planned(prepared.study) if r.method in ("sft", "kd", "hidden")]:
            here = replace(run, study=run.study.model_copy(update={"variant": kind}))
            folder = train_student(prepared, here)
            student = load_model(folder)[0]
            name = f"{kind}, {run.name}"
            found = evaluate_model(prepared, name, student, tokenizer, checkpoint_hash(folder))
            scores[kind, run.method] = found.scores["rougeL"]
            row = {"pairs": kind, "method": run.method, "rougeL": found.means()["rougeL"]}
            if kind == "unseen":
                apart = compare("unseen", "seen", "rougeL", scores[kind, run.method], scores["seen", run.method])
                row |= {"over_seen": apart.delta, "over_seen_ci": list(apart.ci)}
            rows.append(row)
            print(row, flush=True)
            write_json(RESULTS / "seen_pairs.json", {**made, "rows": rows, "environment": environment()})


class _TeacherText:
    """The teacher's training pairs in the order in which it first saw them, and the checkpoints that it left.

    Attributes:
        pairs, ids: tokenized pairs, and their names.
        batches: indices of the pairs, batch by batch, of the first pass over them.
    """

    def __init__(self) -> None:
        self.study = load_study("docstrings")
        self.work = self.study.folder / "teacher_training"
        self.checkpoints = sorted((self.work / "finetuning").glob("checkpoint-*"), key=_step)
        self.tokenizer = load_model(self.checkpoints[-1])[1]
        chosen = training_pairs(self.study, training_text(self.study))
        texts = Dataset.from_dict({"document": [d.document for d in chosen], "summary": [d.summary for d in chosen]})
        self.ids = [d.id for d in chosen]
        self.pairs = tokenize(texts, self.tokenizer, self.study.corpus)
        lengths = self.pairs["length"], list(map(len, self.pairs["labels"]))
        size = self.study.teacher.finetuning.batch_size
        self.batches = [*BucketSampler(*lengths, batch_size=size, seed=self.study.seed)]

    def seen_by(self, checkpoint: Path) -> np.ndarray:
        return np.concatenate(self.batches[: _step(checkpoint)])

    def with_dropout(self) -> PreTrainedModel:
        """Train from the last checkpoint but one to the end again, with dropout."""
        study = load_study("docstrings", {"name": "teacher_dropout"})
        output = study.folder / "teacher_training" / "finetuning"
        key = fingerprint("dropout", DROPOUT)
        if not output.is_dir():
            shutil.copytree(self.checkpoints[-2], output / self.checkpoints[-2].name)
            write_key(output, key)
        config = AutoConfig.from_pretrained(self.checkpoints[-2], dropout=DROPOUT)
        model = AutoModelForSeq2SeqLM.from_pretrained(self.checkpoints[-2], config=config, attn_implementation="eager")
        optimizer = MuonWithAdamW(model, study.teacher.finetuning.learning_rate, study.teacher.weight_decay)
        _run_phase(
            study, model, self.tokenizer, _Phase("finetuning", self.pairs, key, optimizer, self.pairs.select(range(64)))
        )
        return model


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


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
    {"rates": rates, "gap": gap, "seen": seen}[sys.argv[1]]()
