"""Measure how time and memory grow with the number of documents to summarize, and of training pairs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from datasets import load_from_disk

from distill_utils.data.corpus import load_corpus
from distill_utils.evaluation.backends_speed import best_student
from distill_utils.models.export import export
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.system.progress import progress

DOCUMENTS = (10, 1000, 10_000, 100_000)
PAIRS = (1000, 10_000, 50_000, 200_000)
#: A model so small that the time is that of reading, caching and sorting.
TRAINING = {
    "corpus.max_train": 0, "corpus.max_validation": 100, "corpus.max_test": 100, "distillation.max_pairs": 0, "distillation.steps": 20,
    "distillation.validations": 0, "distillation.batch_size": 32, "distillation.cache_teacher": "states",
    "distillation.cache_encoder": "true",
}  # fmt: skip


def documents_growth(study: Study) -> dict:
    """Summarize files of more and more documents with ``distill summarize`` and the best student's int8 export."""
    best = best_student(Prepared(study))
    if best is None:
        raise UserError("there is no trained student; run: make study")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        int8 = export(best.folder, Path(temporary) / "int8", "int8")
        for count in progress(DOCUMENTS, desc="documents", unit="file"):
            file = Path(temporary) / "documents.jsonl"
            _write(file, ({"document": row["document"]} for row in _repeated(study, count)))
            rows.append({"documents": count, **_measured(["summarize", str(int8), str(file)])})
    return {"student": best.name, "rows": rows}


def pairs_growth(study: Study) -> dict:
    """Train a tiny student for 20 steps on more and more pairs: reading, caching and sorting them takes the time.

    The first training is not measured: it makes the tiny teacher, which the others take.
    """
    held_out = TRAINING["corpus.max_validation"]
    rows = []
    with tempfile.TemporaryDirectory() as kept:
        teacher = Path(kept) / "teacher"
        for count in progress((PAIRS[0], *PAIRS), desc="pairs", unit="training"):
            with tempfile.TemporaryDirectory() as temporary:
                folder, rows_left = Path(temporary) / "pairs", _repeated(study, count + 2 * held_out)
                folder.mkdir()
                for split, size in (("train", count), ("validation", held_out), ("test", held_out)):
                    _write(folder / f"{split}.jsonl", itertools.islice(rows_left, size))
                made, run = teacher.is_dir(), Path(temporary) / "runs" / "growth"
                settings = {**TRAINING, "name": "growth", "corpus.path": str(folder)}
                settings |= {"teacher.path": str(teacher)} if made else {}
                given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
                command = ["train", "smoke", "--student", "2-1", "--method", "kd", *given]
                # The library of the data sets keeps tables by their content, also those of another run.
                places = {"DISTILL_HOME": temporary, "HF_DATASETS_CACHE": str(Path(temporary) / "datasets")}
                measured = _measured(command, places)
                if not made:
                    shutil.copytree(run / "teacher", teacher)
                    continue
                rows.append({"pairs": count, **measured, "trained_on": len(load_from_disk(run / "corpus")["train"])})
                rows[-1]["bytes"] = sum(f.stat().st_size for f in run.rglob("*") if f.is_file())
    return {"rows": rows}


def _repeated(study: Study, count: int) -> Iterator[dict[str, str]]:
    """Yield training pairs, again and again, each with its number, so that none is a copy."""
    pairs = load_corpus(study)["train"].select_columns(["document", "summary"])
    for i, row in enumerate(itertools.islice(itertools.cycle(pairs), count)):
        yield {"document": f"{i} {row['document']}", "summary": row["summary"]}


def _write(file: Path, rows: Iterator[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def _measured(command: list[str], environ: dict[str, str] | None = None) -> dict:
    """Run ``distill`` and return its wall time and the most memory that it and its helpers had at once."""
    started, most = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as messages:
        running = subprocess.Popen(
            [sys.executable, "-m", "distill_utils", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=messages,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environ or {})},
        )  # fmt: skip
        try:
            while running.poll() is None:
                most = max(most, _memory(running.pid))
                time.sleep(0.05)
        finally:
            running.kill()
            running.wait()
        seconds = time.perf_counter() - started
        if running.returncode:
            messages.seek(0)
            lines = [f"exit status {running.returncode}", *messages.read().strip().splitlines()]
            raise UserError(f"distill {command[0]} failed: {lines[-1]}")
    return {"seconds": seconds, "peak_bytes": most}


def _memory(process: int) -> int:
    """Return the memory of a process and its helpers, in bytes.

    Pages of files, such as libraries and data sets that are read from disk, do not count: the system takes them back.
    """
    try:
        own = psutil.Process(process)
        sizes = [p.memory_info() for p in [own, *own.children(recursive=True)]]
        return sum(size.rss - size.shared for size in sizes)
    except psutil.Error:  # one has ended
        return 0
