"""Write the text of the compact teacher's training for a GPU machine without a network: `python -m benchmarks.gpu_teacher DIR`.

The text is read from some 220 packages, which that machine lacks. DIR gets `text.parquet` (310,952 docstrings in 45 MiB) and
the corpus's validation and test pairs, and `make gpu TEXT=DIR` trains the teacher of the study `docstrings` from them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from distill_utils.data.docstrings import Docstring
from distill_utils.data.teacher_text import COLUMNS, training_text
from distill_utils.evaluation.evaluate import evaluate_model
from distill_utils.make_teacher import RECIPE_FILE
from distill_utils.metrics.significance import mean_interval
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json, write_text
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint
from distill_utils.system.paths import ROOT
from distill_utils.training.train_teacher import train_teacher

TEXT = "text.parquet"
#: Training pairs of the corpus that are carried: the training reads the text instead, but a corpus has some.
PAIRS = 64
SHIPPED = ROOT / "models" / "docstrings_teacher" / RECIPE_FILE


def carry(prepared: Prepared, folder: Path) -> None:
    """Write a study's training text and its held-out pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    found = training_text(prepared.study)
    text = pa.table({name: [getattr(d, name) for d in found] for name in COLUMNS})
    pq.write_table(text, folder / TEXT, compression="zstd", compression_level=19)
    pairs = folder / "pairs"
    pairs.mkdir(exist_ok=True)
    for split, rows in prepared.corpus.items():
        kept = rows.select(range(min(PAIRS, len(rows)))) if split == "train" else rows
        lines = [json.dumps({"document": row["document"], "summary": row["summary"]}) for row in kept]
        write_text(pairs / f"{split}.jsonl", "\n".join(lines) + "\n")


def compact_teacher(folder: Path, name: str = "docstrings", given: dict | None = None) -> dict:
    """Train a study's teacher from carried text; return its times, losses and ROUGE-L."""
    settings = {
        "name": f"gpu_teacher_{name}", "corpus.path": str((folder / "pairs").resolve()), "evidence.runtime": "pytorch-fp32",
    }  # fmt: skip
    prepared = Prepared(load_study(name, settings | (given or {})))
    shutil.rmtree(prepared.study.folder, ignore_errors=True)  # what is measured begins anew
    text = [Docstring(**row) for row in Dataset.from_parquet(str(folder / TEXT))]
    model, tokenizer, recipe = train_teacher(prepared, text)
    scores = evaluate_model(prepared, "teacher", model, tokenizer, fingerprint(recipe)).scores["rougeL"]
    return {
        **_summary(recipe), "rougeL": scores.mean(), "rougeL_ci": list(mean_interval(scores)), "test_pairs": len(scores),
    }  # fmt: skip


def shipped_teacher() -> dict:
    """Return the same of the shipped teacher, which a CPU trained."""
    recipe = read_json(SHIPPED)
    return {
        **_summary(recipe), "rougeL": recipe["test"]["rougeL"], "rougeL_ci": recipe["test_ci"]["rougeL"],
        "test_pairs": recipe["test_pairs"], "machine": recipe["machine"],
    }  # fmt: skip


def _summary(recipe: dict) -> dict:
    return {
        **{f"{phase}_s": recipe[phase]["seconds"] for phase in ("denoising", "finetuning")},
        "finetuning_pairs": recipe["finetuning_pairs"],
        "validation_loss": recipe["final_validation_loss"],
        "kept": recipe["kept"],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_teacher", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--study", default="docstrings", help="default: docstrings")
    options = parser.parse_args(arguments)
    try:
        carry(Prepared(load_study(options.study)), options.folder)
    except UserError as error:
        print(f"gpu_teacher: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
    print(f"{options.folder}: {size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
