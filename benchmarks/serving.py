"""What serving takes: runtimes and the command line against plain PyTorch, and whether the speed notebook repeats itself.

The study's results are needed, as ``make study`` leaves them.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import papermill
import torch

from distill_utils.corpora import load_corpus
from distill_utils.errors import UserError
from distill_utils.export import export
from distill_utils.generation import generation_settings
from distill_utils.memory import freed_memory_kept
from distill_utils.models import load_model, load_teacher, teacher_folder
from distill_utils.progress import progress
from distill_utils.results import load_results
from distill_utils.runner import notebook_paths
from distill_utils.runtimes import PyTorch
from distill_utils.serving import best_student
from distill_utils.significance import compare
from distill_utils.study import ROOT, Study

ROUNDS = 5


def repeats(study: Study) -> dict:
    """Two runs of the speed notebook: every speed-up of the second over the first's."""
    runs = []
    for _ in progress(range(2), desc="notebook 04", unit="run"):
        with tempfile.TemporaryDirectory() as temporary:
            papermill.execute_notebook(
                notebook_paths()[3], Path(temporary) / "executed.ipynb", parameters={"STUDY": study.file, "OVERRIDES": {}},
                kernel_name="python3", progress_bar=False, cwd=str(ROOT),
            )  # fmt: skip
        runs.append(_speedups(load_results(study)))
    first, second = runs
    rows = [
        {"system": system, "load": dict(zip(("batch_size", "num_beams", "tokens"), load, strict=True)), "first": first[system, load], "second": again, "ratio": again / first[system, load]}
        for (system, load), again in second.items()
    ]  # fmt: skip
    return {"rows": rows}


def _speedups(results: dict) -> dict:
    return {
        (system["name"], (load["batch_size"], load["num_beams"], load["tokens"])): load["speedup"]
        for system in results["systems"]
        for load in system.get("speeds", [])
        if system["name"] != "teacher"
    }


def summarize(study: Study, documents: int = 10_000) -> dict:
    """``distill summarize`` on a file of so many documents, loading included: checkpoints in PyTorch, and their int8 exports."""
    student = best_student(study)
    if student is None:
        raise UserError("there is no student; run: make study")
    texts = list(itertools.islice(load_corpus(study)["train"]["document"], documents))
    rows, written = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "documents.jsonl"
        file.write_text("".join(json.dumps({"document": text}) + "\n" for text in texts), "utf-8")
        int8 = export(student.folder, Path(temporary) / "int8", "int8")
        systems = {
            ("student", "ctranslate2-int8"): int8,
            ("student", "pytorch-fp32"): student.folder,
            ("teacher", "pytorch-fp32"): teacher_folder(study),
        }
        for (system, runtime), folder in progress(systems.items(), desc="summarizing", unit="system"):
            command = [sys.executable, "-m", "distill_utils", "summarize", str(Path(folder).resolve()), str(file)]
            started = time.perf_counter()
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
            )
            seconds = time.perf_counter() - started
            written[system, runtime] = done.stdout.splitlines()
            rows.append(
                {"system": system, "runtime": runtime, "seconds": seconds, "documents_per_s": len(texts) / seconds}
            )
    ours, theirs = (written["student", runtime] for runtime in ("ctranslate2-int8", "pytorch-fp32"))
    same = float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)]))
    return {"student": student.name, "documents": len(texts), "rows": rows, "same_summaries_as_pytorch": same}


def dynamic_int8(study: Study, documents: int = 64) -> dict:
    """PyTorch's own dynamic quantization of the teacher's matrices to int8, against float32: summaries a second, and ROUGE."""
    from distill_utils.rouge import rouge_scores

    (teacher, tokenizer), (other, _) = load_teacher(study), load_model(teacher_folder(study))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is going to move to another package
        quantized = torch.ao.quantization.quantize_dynamic(other, {torch.nn.Linear}, dtype=torch.qint8)
    limit = study.corpus.max_source_tokens
    systems = {"float32": PyTorch(teacher, tokenizer, limit), "int8": PyTorch(quantized, tokenizer, limit)}
    test = load_corpus(study)["test"]
    sources = sorted(systems["float32"].encode(test["document"][:documents]), key=len)
    settings = generation_settings(study, teacher)
    forced = {**settings, "min_new_tokens": study.speed.tokens, "max_new_tokens": study.speed.tokens}
    rows = []
    with freed_memory_kept():
        for size in (1, 16, 64):
            batches = [sources[i : i + size] for i in range(0, 16 if size == 1 else documents, size)]
            seconds: dict[str, list[float]] = {name: [] for name in systems}
            for turn, name in progress(
                list(itertools.product(range(ROUNDS + 1), systems)), desc=f"batches of {size}", unit="run"
            ):
                started = time.perf_counter()
                list(systems[name].write(batches, **forced))
                if turn:
                    seconds[name].append(time.perf_counter() - started)
            rows.append({"batch_size": size, "documents": sum(map(len, batches)), "seconds": seconds})
    scores = {}
    for name, system in systems.items():
        told = progress(
            system.summarize(test["document"], **settings), desc=f"summaries in {name}", total=len(test), unit="summary"
        )
        scores[name] = rouge_scores(list(told), test["summary"])["rougeL"]
    change = compare("int8", "float32", "rougeL", scores["int8"], scores["float32"])
    return {"rows": rows, "rougeL_change": change.delta, "rougeL_change_ci": list(change.ci)}
