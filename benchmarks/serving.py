"""Time the command line and inference backends, and measure the repeatability of the speed notebook.

Requires the results of ``make study``.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from distill_utils.data.corpus import load_corpus, rouge_words
from distill_utils.data.tables import references
from distill_utils.evaluation.backends_speed import best_student
from distill_utils.evaluation.results import load_results
from distill_utils.evaluation.speed import Load, measure_speed
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.metrics.significance import compare
from distill_utils.models.backends import Backend, CTranslate2, PyTorch, import_ctranslate2
from distill_utils.models.checkpoint import load_model
from distill_utils.models.drafting import Drafted
from distill_utils.models.export import export
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.run_study import execute, notebook_paths
from distill_utils.studies.plan import planned, timed
from distill_utils.studies.settings import Study
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.system.progress import progress

ROUNDS = 5
#: Optional sections of ``make bench``; all but ``compare_files`` require a finished study.
SECTIONS = ("summarize", "repeats", "beside", "dynamic_int8", "draft", "compare_files")
#: Tokens that a student proposes before each pass of its teacher: the usual number, and others for one student of each shape.
DRAFTED, DRAFTED_ALSO = 4, (2, 6)
#: Documents a batch, when their summaries are scored.
SCORED = 64


def repeats(study: Study, runs: int = 2) -> dict:
    """Run the speed notebook ``runs`` more times and return all speed-ups; the study's own results are restored."""
    first, kept = load_results(study), study.results_file.read_bytes()
    again = []
    with tempfile.TemporaryDirectory() as temporary:
        drawn = Path(temporary) / "figures"
        shutil.copytree(study.figures_folder, drawn)
        try:
            for _ in range(runs):
                execute(notebook_paths()[3], Path(temporary) / "executed.ipynb", study, {})
                again.append(_speedups(load_results(study)))
        finally:
            study.results_file.write_bytes(kept)
            shutil.copytree(drawn, study.figures_folder, dirs_exist_ok=True)
    names = ("batch_size", "num_beams", "tokens")
    rows = [
        {"system": system, "load": dict(zip(names, load, strict=True)), "first": speedup, "again": [run[system, load] for run in again]}
        for (system, load), speedup in _speedups(first).items()
    ]  # fmt: skip
    return {"first": first["environment"]["commit"], "rows": rows}


def _speedups(results: dict) -> dict:
    return {
        (system["name"], (load["batch_size"], load["num_beams"], load["tokens"])): load["speedup"]
        for system in results["systems"]
        for load in system.get("speeds", [])
        if system["name"] != "teacher"
    }


def summarize(study: Study, documents: int = 10_000) -> dict:
    """Time ``distill summarize``, loading included: teacher and student in PyTorch, and the student's int8 export."""
    student = best_student(Prepared(study))
    if student is None:
        raise UserError("there is no trained student; run: make study")
    texts = list(itertools.islice(load_corpus(study)["train"]["document"], documents))
    rows, written = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "documents.jsonl"
        file.write_text("".join(json.dumps({"document": text}) + "\n" for text in texts), "utf-8")
        int8 = export(student.folder, Path(temporary) / "int8", "int8")
        systems = {
            ("student", "ctranslate2-int8"): int8,
            ("student", "pytorch-fp32"): student.folder,
            ("teacher", "pytorch-fp32"): Prepared(study).teacher_folder,
        }
        for (system, runtime), folder in progress(systems.items(), desc="summarizing", unit="system"):
            command = [sys.executable, "-m", "distill_utils", "summarize", str(Path(folder).resolve()), str(file)]
            started = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - started
            if done.returncode:
                raise UserError(f"distill summarize failed with {folder}: {done.stderr.splitlines()[-1]}")
            written[system, runtime] = done.stdout.split("\n")[:-1]
            rows.append(
                {"system": system, "runtime": runtime, "seconds": seconds, "documents_per_s": len(texts) / seconds}
            )
    ours, theirs = (written["student", runtime] for runtime in ("ctranslate2-int8", "pytorch-fp32"))
    same = float(np.mean([a == b for a, b in zip(ours, theirs, strict=True)]))
    return {"student": student.name, "documents": len(texts), "rows": rows, "same_summaries_as_pytorch": same}


def compare_files(study: Study, pairs: int = 11_334, words: int = 21, runs: int = 3) -> dict:
    """Time ``distill compare`` on two systems' summaries, as many and as long as those of XSum's test split.

    Reference and systems are overlapping parts of training documents: only their number and lengths matter here.
    """
    documents = (text.split() for text in load_corpus(study)["train"]["document"])
    long = list(itertools.islice((text for text in documents if len(text) >= 2 * words), pairs))
    if len(long) < pairs:
        raise UserError(
            f"only {len(long):,} training documents of {study.name} have {2 * words} words; compare_files needs {pairs:,}"
        )
    seconds = []
    with tempfile.TemporaryDirectory() as temporary:
        files = [Path(temporary) / f"{name}.txt" for name in ("references", "teacher", "student")]
        for file, first in zip(files, (0, words // 3, words // 2), strict=True):
            file.write_text("".join(" ".join(text[first : first + words]) + "\n" for text in long), "utf-8")
        command = [sys.executable, "-m", "distill_utils", "compare", *map(str, files)]
        for _ in progress(range(runs), desc="comparing", unit="run"):
            started = time.perf_counter()
            subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
            seconds.append(time.perf_counter() - started)
    return {"pairs": len(long), "words": words, "systems": 2, "seconds": seconds}


def dynamic_int8(study: Study, documents: int = 64) -> dict:
    """Compare PyTorch's dynamic int8 quantization of the teacher with float32: speed and ROUGE."""
    (teacher, tokenizer), (other, _) = Prepared(study).load_teacher(), load_model(Prepared(study).teacher_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation
        quantized = torch.ao.quantization.quantize_dynamic(other, {torch.nn.Linear}, dtype=torch.qint8)
    limit, test = study.corpus.max_source_tokens, load_corpus(study)["test"]
    systems = {"float32": PyTorch(teacher, tokenizer, limit), "int8": PyTorch(quantized, tokenizer, limit)}
    settings = generation_settings(study, teacher)
    loads = [Load(size, settings["num_beams"], documents, study.speed.tokens) for size in (1, 16, 64)]
    sources = systems["float32"].encode(test["document"][:documents])
    speeds = measure_speed(systems, sources, loads, reference="float32", repeats=ROUNDS, **settings)
    scores = {}
    for name, system in systems.items():
        written = progress(
            system.summarize_as_given(test["document"], **settings),
            desc=f"summaries in {name}",
            total=len(test),
            unit="summary",
        )
        scores[name] = rouge_scores(list(written), test["summary"])["rougeL"]
    change = compare("int8", "float32", "rougeL", scores["int8"], scores["float32"])
    return {"speeds": speeds["int8"], "rougeL_change": change.delta, "rougeL_change_ci": list(change.ci)}


def beside(study: Study, documents: int = 16) -> dict:
    """Time the teacher in PyTorch alone, and alternating with CTranslate2 with one and with all threads per summary."""
    teacher, tokenizer = Prepared(study).load_teacher()
    system, settings = PyTorch(teacher, tokenizer, study.corpus.max_source_tokens), generation_settings(study, teacher)
    sources = system.encode(load_corpus(study)["test"]["document"][:documents])
    loads = [Load(size, settings["num_beams"], documents, study.speed.tokens) for size in (1, 16)]
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in sources[:2]]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = export(Prepared(study).teacher_folder, Path(temporary) / "int8", "int8")
        for way, workers in (
            ("alone", 0),
            ("a thread a summary", torch.get_num_threads()),
            ("all threads a summary", 1),
        ):
            others: dict[str, Backend] = {}
            if workers:
                threads = torch.get_num_threads()
                other = import_ctranslate2().Translator(
                    str(folder), inter_threads=workers, intra_threads=threads // workers
                )
                torch.set_num_threads(threads)
                others["other"] = _Turns(other, tokens, study.speed.tokens)
            measured = measure_speed(
                {"teacher": system, **others}, sources, loads, reference="teacher", repeats=ROUNDS, **settings
            )
            rows.append({"way": way, "loads": measured["teacher"]})
    return {"rows": rows}


def draft(study: Study, documents: int = 1000, timed_documents: int = 32) -> dict:
    """Let the first seed of each trained student draft its teacher's greedy summaries, one document at a time.

    Counts how many summaries are the teacher's own, token for token, and which share of the proposed tokens the teacher
    accepts; then times them beside the teacher's greedy and beam search in PyTorch and CTranslate2. Other numbers of
    proposed tokens, and transformers' own assisted generation, are tried with the last student of each shape, on the
    timed documents.
    """
    prepared = Prepared(study)
    teacher, tokenizer = prepared.load_teacher()
    limit, settings = study.corpus.max_source_tokens, generation_settings(study, teacher)
    plain = PyTorch(teacher, tokenizer, limit)
    sources = plain.encode(load_corpus(study)["test"]["document"][:documents])
    singles, greedy = [[ids] for ids in sources], {**settings, "num_beams": 1}
    own = [written[0] for written in progress(plain.write(singles, **greedy), desc="greedy", total=len(singles))]
    runs = [run for run in timed(planned(study)) if run.folder.is_dir()]
    if not runs:
        raise UserError("there is no trained student; run: make study")
    last = {run.student: run for run in runs}
    rows, systems = [], {"teacher": plain, "teacher, own loop": Drafted(teacher, teacher, tokenizer, limit, most=0)}
    for run in runs:
        student, _ = load_model(run.folder)
        is_last = run is last[run.student]
        for most in (DRAFTED, *(DRAFTED_ALSO if is_last else ())):
            name, count = f"{run.name}, {most} tokens", len(own) if most == DRAFTED else min(timed_documents, len(own))
            drafted = systems[name] = Drafted(teacher, student, tokenizer, limit, most)
            written = progress(drafted.write(singles[:count], **greedy), desc=name, total=count)
            same = [found[0] == wanted for found, wanted in zip(written, own[:count], strict=True)]
            rows.append(
                {
                    "student": run.name, "proposed": most, "documents": len(same), "same": sum(same),
                    "accepted_share": drafted.accepted / drafted.proposed, "passes": drafted.passes / len(same),
                }
            )  # fmt: skip
        if is_last:
            systems[f"{run.name}, transformers"] = _Assisted(teacher, student, tokenizer, limit)
    with tempfile.TemporaryDirectory() as temporary:
        served = CTranslate2(export(prepared.teacher_folder, Path(temporary) / "float32", "float32"), limit)
        others = {"teacher": plain, "teacher, CTranslate2": served}
        beams, few = settings["num_beams"], sources[:timed_documents]
        alone = Load(1, 1, len(few))
        speeds = measure_speed(
            {**systems, "teacher, CTranslate2": served}, few, [alone], reference="teacher", repeats=3, **settings
        )
        speeds_beams = measure_speed(
            others, few, [Load(1, beams, len(few))], reference="teacher", repeats=3, **settings
        )
    return {
        "documents": len(own),
        "tokens": float(np.mean([len(ids) for ids in own])),
        "timed": len(few),
        "rows": rows,
        "speeds": speeds,
        "beams": speeds_beams,
    }


def rouge_l(study: Study, system: Backend, pairs: Dataset, settings: dict, batch_size: int = SCORED) -> np.ndarray:
    """Let a system summarize the documents of pairs, and return each one's ROUGE-L."""
    written = system.summarize_as_given(pairs["document"], batch_size, **settings)
    texts = list(progress(written, desc=system.name, total=len(pairs), unit="summary"))
    return rouge_scores(texts, references(pairs), rouge_words(study))["rougeL"]


class _Assisted(PyTorch):
    """The same with transformers' own assisted generation; the student reads each document again."""

    def __init__(self, teacher, student, *rest) -> None:
        super().__init__(teacher, *rest)
        self.student = student

    @torch.inference_mode()
    def write(self, batches, **settings):
        for batch in batches:
            inputs = self.tokenizer.pad({"input_ids": list(batch)}, return_tensors="pt")
            yield self.model.generate(**inputs, assistant_model=self.student, **settings)[:, 1:].tolist()


class _Turns(Backend):
    """A translator that writes two summaries per call."""

    def __init__(self, translator, batch: list[list[str]], tokens: int) -> None:
        self.translator, self.batch, self.tokens = translator, batch, tokens

    def write(self, batches, **settings):
        length = {"min_decoding_length": self.tokens, "max_decoding_length": self.tokens}
        self.translator.translate_batch(self.batch, beam_size=settings["num_beams"], **length)
        yield [[0]]
