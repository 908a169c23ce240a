"""Check this project on a GPU, and measure it at BART-large's size: `make gpu TOKENIZER=DIR CORPUS=PATH`.

`check` runs the tests in `tests/gpu`, each against the CPU's values; with two GPUs those of two processes, too. `measure` times training and serving of
BART-large's shapes with random weights. Both need no network and write every result as soon as they have it, to
`runs/gpu/check.jsonl` and `runs/gpu/measure.json`; a part that is cut off keeps what it wrote. Without a GPU, everything
runs on the CPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.run import Sides, _pairs
from distill_utils.evaluation.shape_speeds import PUBLISHED_SPEEDUPS, WHOLE, measure_shapes
from distill_utils.evaluation.speed import Load, measure_speed
from distill_utils.models.backends import Batch, PyTorch, usable_backends
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student
from distill_utils.studies.loading import load_study
from distill_utils.studies.settings import Study, parse_shape
from distill_utils.system.artefacts import write_json
from distill_utils.system.environment import environment, free_accelerator, training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.memory import peak_memory
from distill_utils.system.paths import ROOT, home

#: Seconds of each part, so that both fit into a short loan.
SECONDS = 480
BATCH, STEPS = 16, 12
TINY = {
    "teacher.d_model": 16, "teacher.attention_heads": 2, "teacher.encoder_layers": 2, "teacher.decoder_layers": 2,
    "distillation.student": "2-1", "distillation.batch_size": 2, "generation.min_new_tokens": 4, "generation.max_new_tokens": 4,
    "generation.num_beams": 2,
}  # fmt: skip
LENGTHS = (512, 1024)
RUNTIMES = (
    ("pytorch-bf16", "ctranslate2-float16") if torch.cuda.is_available() else ("pytorch-fp32", "ctranslate2-float32")
)
SERVED = {1: 8, 32: 64}  # documents by batch size


class Report:
    """The measurements so far; written after each, and no new one begins after the deadline."""

    def __init__(self, file: Path, seconds: float) -> None:
        self.file, self._ends = file, time.monotonic() + seconds
        self.found: dict[str, object] = {"environment": environment(), "rows": [], "failed": {}, "not_begun": []}

    def add(self, name: str, work: Callable[[], dict]) -> dict | None:
        if time.monotonic() > self._ends:
            self.found["not_begun"].append(name)
            self._write()
            return None
        print(f"{name} …", file=sys.stderr, flush=True)
        started, row = time.perf_counter(), None
        try:
            row = work()
            self.found["rows"].append({"name": name, **row, "seconds": round(time.perf_counter() - started, 1)})
            print(f"  {self.found['rows'][-1]}", file=sys.stderr, flush=True)
        except Exception as error:  # the others are measured all the same
            self.found["failed"][name] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            print(f"  failed: {self.found['failed'][name]}", file=sys.stderr, flush=True)
        self._write()
        free_accelerator()
        return row

    def _write(self) -> None:
        write_json(self.file, self.found)


def matrix_speed(size: int) -> dict:
    """Measure the fastest product of two square matrices in the precision of training, in operations per second."""
    precision = training_precision("auto", "bart")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    a, b = (torch.randn(size, size, device=_device(), dtype=dtype) for _ in range(2))
    times = []
    for _ in range(8):
        _synchronize()
        started = time.perf_counter()
        for _ in range(5):
            a @ b
        _synchronize()
        times.append((time.perf_counter() - started) / 5)
    return {"precision": precision, "size": size, "flops_per_s": 2 * size**3 / sorted(times[3:])[2]}


def training(report: Report, given: dict, peak: float, lengths: tuple[int, ...]) -> None:
    """Measure steps of the textbook's trainer and of ours, encoder frozen and all trained, plain and compiled."""
    for tokens in lengths:
        study = load_study("full_size", {"distillation.batch_size": BATCH, **given, "corpus.max_source_tokens": tokens})
        sides = Sides(study, _longest(study, STEPS * study.distillation.batch_size))
        for frozen in (True, False):
            for way, settings in (("textbook", {}), ("ours", {}), ("ours", {"torch_compile": True})):
                name = f"training {tokens} tokens, {'encoder frozen' if frozen else 'all trained'}, {way}"
                name += ", compiled" if settings else ""
                if settings and not torch.cuda.is_available():
                    continue  # minutes, to no end
                report.add(name, lambda: _steps(sides, way, peak, frozen=frozen, **settings))  # noqa: B023


def _steps(sides: Sides, way: str, peak: float, **settings) -> dict:
    sides.examples_per_second(way, max_steps=2, **settings)  # warm up, compile
    counter = FlopCounterMode(display=False)
    with counter:
        sides.trainer(way, max_steps=1, **{k: v for k, v in settings.items() if k != "torch_compile"}).train()
    per_pair = counter.get_total_flops() / sides.study.distillation.batch_size
    speeds: list[float] = []
    memory = peak_memory(lambda: speeds.append(sides.examples_per_second(way, **settings)))
    return {
        "way": way, **settings, "pairs_per_s": speeds[0], "peak_bytes": memory, "flops_per_pair": per_pair,
        "share_of_matrix_speed": per_pair * speeds[0] / peak,
    }  # fmt: skip


def _longest(study: Study, count: int):
    """Return pairs of the corpus, those with the longest documents first, each as often as needed."""
    pairs = _pairs(study)
    order = sorted(range(len(pairs)), key=lambda i: -pairs[i]["length"])
    return pairs.select([order[i % len(order)] for i in range(count)])


class Static(PyTorch):
    """PyTorch with a key-value cache of fixed size, which lets the library compile a decoding step."""

    @torch.inference_mode()
    def write(self, batches: list[Batch], **settings) -> Iterator[list[list[int]]]:
        for batch in batches:
            length = self.max_source_tokens
            inputs = self.tokenizer.pad(
                {"input_ids": list(batch)}, padding="max_length", max_length=length, return_tensors="pt"
            )
            outputs = self.model.generate(**inputs.to(self.model.device), cache_implementation="static", **settings)
            yield outputs[:, 1:].tolist()


def serving(report: Report, given: dict, shapes: tuple[str, ...]) -> None:
    """Time shapes at equal lengths in each backend, at batch 1 and in batches, and the whole model with a static cache."""
    most = max(SERVED.values())
    study = load_study("full_size", {**given, "corpus.max_test": most, "name": "gpu_shapes"})
    prepared = Prepared(study)
    for runtime in usable_backends(RUNTIMES):
        for size, documents in SERVED.items():
            name = f"serving {runtime}, batch {size}"

            def timed(runtime: str = runtime, size: int = size, documents: int = documents) -> dict:
                found = measure_shapes(prepared, shapes, [runtime], documents=documents, batch_size=size, repeats=3)
                published = {shape: PUBLISHED_SPEEDUPS.get(shape) for shape in shapes}
                return {"published_speedups": published, "shapes": found["rows"]}

            report.add(name, timed)
    for shape in (WHOLE, shapes[0]):
        for size, documents in SERVED.items():
            report.add(
                f"serving {shape} with a static cache, batch {size}",
                lambda: _static(prepared, shape, size, documents),  # noqa: B023
            )


def _static(prepared: Prepared, shape: str, size: int, documents: int) -> dict:
    study, (teacher, tokenizer) = prepared.study, prepared.load_teacher()
    model = teacher if shape == WHOLE else make_student(teacher, *parse_shape(shape))
    if torch.cuda.is_available():
        model = model.to(torch.bfloat16)
    limit = study.corpus.max_source_tokens
    systems = {"dynamic": PyTorch(model, tokenizer, limit), "static": Static(model, tokenizer, limit)}
    sources = systems["dynamic"].encode(prepared.corpus["test"]["document"][:documents])
    settings = {k: v for k, v in study.generation.arguments().items() if not k.endswith("_new_tokens")}
    load = Load(size, study.generation.num_beams, documents, study.generation.max_new_tokens)
    measured = measure_speed(systems, sources, [load], reference="dynamic", repeats=3, **settings)
    return {"shape": shape, **{name: loads[0] for name, loads in measured.items()}}


def check(folder: Path, seconds: float) -> int:
    """Run the tests marked ``gpu``; each writes its result (``tests/gpu/conftest.py``)."""
    results = folder / "check.jsonl"
    results.unlink(missing_ok=True)
    tests = ["tests/gpu"] + (["tests/system/test_distributed.py"] if torch.cuda.device_count() > 1 else [])
    command = [sys.executable, "-m", "pytest", *tests, "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "DISTILL_GPU_RESULTS": str(results), "HF_HUB_OFFLINE": "1"},
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s; results so far: {results}", file=sys.stderr)
        return 1
    print(f"results: {results}")
    return done.returncode


def measure(folder: Path, seconds: float, given: dict, tiny: bool) -> int:
    report = Report(folder / "measure.json", seconds)
    found = report.add("matrix product", lambda: matrix_speed(256 if tiny else 8192))
    lengths = (24,) if tiny else LENGTHS
    shapes = ("2-1",) if tiny else ("12-6", "12-3", "6-6", "12-1")
    training(report, given, found["flops_per_s"] if found else float("nan"), lengths[:1])
    serving(report, given, shapes)
    training(report, given, found["flops_per_s"] if found else float("nan"), lengths[1:])
    print(f"results: {report.file}")
    return 1 if report.found["failed"] else 0


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=["check", "measure"], default=["check", "measure"])
    parser.add_argument("--tokenizer", default="", metavar="DIR", help="folder with BART's vocab.json and merges.txt")
    parser.add_argument("--corpus", default="", metavar="PATH", help="articles and summaries: a file or a folder")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for each part; no measurement begins after them"
    )
    parser.add_argument("--tiny", action="store_true", help="a dry run with tiny models")
    options = parser.parse_args(arguments)
    if "measure" in options.parts and not (options.tokenizer and options.corpus):
        parser.error("measure needs both: make gpu TOKENIZER=DIR CORPUS=PATH")
    folder = home() / "runs" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "name": "gpu", "corpus.path": str(Path(options.corpus).resolve()), "teacher.tokenizer": str(Path(options.tokenizer).resolve()),
    }  # fmt: skip
    if options.tiny:
        given |= TINY
    try:
        worst = check(folder, options.seconds) if "check" in options.parts else 0
        if "measure" in options.parts:
            worst = max(worst, measure(folder, options.seconds, given, options.tiny))
    except UserError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    return worst


if __name__ == "__main__":
    sys.exit(main())
