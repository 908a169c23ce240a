"""Check this project on a GPU, and measure it at BART-large's size: `make gpu TOKENIZER=DIR CORPUS=PATH TEXT=DIR`.

`check` runs the tests in `tests/gpu`, each against the CPU's values; with two GPUs those of two processes, too. `measure`
times training and serving of BART-large's shapes with random weights; with the folder that `benchmarks.gpu_teacher` wrote,
it also trains the compact teacher. Both need no network and write every result as soon as they have it, to
`runs/gpu/check.jsonl` and `runs/gpu/measure.json`; a part that is cut off keeps what it wrote. Without a GPU, everything
runs on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from benchmarks.gpu_teacher import TEXT, compact_teacher, shipped_teacher
from benchmarks.run import Sides, _pairs
from distill_utils.evaluation.shape_speeds import PUBLISHED_SPEEDUPS, WHOLE, measure_shapes
from distill_utils.evaluation.speed import Load, measure_speed
from distill_utils.models.backends import Backend, Batch
from distill_utils.models.generation import generate
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student
from distill_utils.studies.loading import load_study
from distill_utils.studies.settings import Study, parse_shape
from distill_utils.system.artefacts import write_json
from distill_utils.system.environment import bf16_supported, environment, free_accelerator, training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.memory import peak_memory
from distill_utils.system.paths import ROOT, home

PARTS = ("check", "measure")
#: Seconds of each part, so that both fit into a short loan.
SECONDS = 480
BATCH, STEPS = 16, 12
TINY = {
    "teacher.d_model": 16, "teacher.attention_heads": 2, "teacher.encoder_layers": 2, "teacher.decoder_layers": 2,
    "distillation.student": "2-1", "distillation.batch_size": 2, "generation.min_new_tokens": 4, "generation.max_new_tokens": 4,
    "generation.num_beams": 2,
}  # fmt: skip
LENGTHS = (512, 1024)
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
GPU = torch.cuda.is_available()
RUNTIMES = (
    "pytorch-bf16" if GPU and bf16_supported() else "pytorch-fp32",
    "ctranslate2-float16" if GPU else "ctranslate2-float32",
)
#: Documents that are summarized one at a time, and documents of a batch.
ALONE, TOGETHER = 8, 32


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
            json.dumps(row, allow_nan=False)  # a value that JSON lacks fails here, not while the file is written
            self.found["rows"].append({"name": name, **row, "seconds": round(time.perf_counter() - started, 1)})
            print(f"  {self.found['rows'][-1]}", file=sys.stderr, flush=True)
        except Exception as error:  # the others are measured all the same
            row = None
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
    a, b = (torch.randn(size, size, device=_device(), dtype=TYPES[precision]) for _ in range(2))
    times = []
    for _ in range(8):
        _synchronize()
        started = time.perf_counter()
        for _ in range(5):
            a @ b
        _synchronize()
        times.append((time.perf_counter() - started) / 5)
    return {"precision": precision, "size": size, "flops_per_s": 2 * size**3 / sorted(times[3:])[2]}


def training(report: Report, given: dict, peak: float | None, lengths: tuple[int, ...]) -> None:
    """Measure steps of the textbook's trainer and of ours, encoder frozen and all trained, plain and compiled."""
    for tokens in lengths:
        sides = functools.cache(
            functools.partial(_sides, given, tokens)
        )  # built by the first measurement that needs it
        for frozen in (True, False):
            for way, settings in (("textbook", {}), ("ours", {}), ("ours", {"torch_compile": True})):
                name = f"training {tokens} tokens, {'encoder frozen' if frozen else 'all trained'}, {way}"
                name += ", compiled" if settings else ""
                if settings and not GPU:
                    continue  # minutes, to no end
                report.add(name, lambda: _steps(sides(), way, peak, frozen=frozen, **settings))  # noqa: B023


def _sides(given: dict, tokens: int) -> Sides:
    study = load_study("full_size", {"distillation.batch_size": BATCH, **given, "corpus.max_source_tokens": tokens})
    return Sides(study, _longest(study, STEPS * study.distillation.batch_size))


class LastEpoch(TrainerCallback):
    """Measure the wall time of the last epoch, and count the graphs that ``torch.compile`` compiled in it."""

    def on_epoch_begin(self, *args, **kwargs) -> None:
        _synchronize()
        self.started, self._graphs = time.perf_counter(), counters["stats"]["unique_graphs"]

    def on_epoch_end(self, *args, **kwargs) -> None:
        _synchronize()
        self.seconds = time.perf_counter() - self.started
        self.new_graphs = counters["stats"]["unique_graphs"] - self._graphs


def _steps(sides: Sides, way: str, peak: float | None, **settings) -> dict:
    """Measure an epoch, after two steps that warm up; with ``torch_compile``, the second epoch of the same trainer.

    The first epoch compiles graphs for the epoch's lengths; ``new_graphs`` tells whether the second one compiled more.
    """
    plain = {name: value for name, value in settings.items() if name != "torch_compile"}
    sides.examples_per_second(way, max_steps=2, **plain)
    counter = FlopCounterMode(display=False)
    with counter:
        sides.trainer(way, max_steps=1, **plain).train()
    per_pair = counter.get_total_flops() / sides.study.distillation.batch_size
    epoch = LastEpoch()

    def run() -> None:
        torch._dynamo.reset()
        trainer = sides.trainer(way, num_train_epochs=1 if settings == plain else 2, **settings)
        trainer.add_callback(epoch)
        trainer.train()

    memory = peak_memory(run)
    teacher = sides.theirs if way == "textbook" else sides.ours
    row = {
        "way": way, **settings, "precision": training_precision("auto", "bart"), "pairs_per_s": len(sides.pairs) / epoch.seconds,
        "peak_bytes": memory, "teacher_bytes": sum(p.numel() * p.element_size() for p in teacher.parameters()),
        "flops_per_pair": per_pair,
    }  # fmt: skip
    if settings != plain:
        row["new_graphs"] = epoch.new_graphs
    if peak:
        row["share_of_matrix_speed"] = per_pair * row["pairs_per_s"] / peak
    return row


def _longest(study: Study, count: int):
    """Return pairs of the corpus, those with the longest documents first, each as often as needed."""
    pairs = _pairs(study)
    order = sorted(range(len(pairs)), key=lambda i: -pairs[i]["length"])
    return pairs.select([order[i % len(order)] for i in range(count)])


class Padded(Backend):
    """PyTorch with every document padded to the same length, so that all caches do the same work.

    Args:
        cache: ``dynamic``: this project's cache; ``static``: the library's of fixed size.
        compiled: compile a decoding step. transformers 5.23 does so itself for greedy search with a static cache, not for beam
            search, whose step :func:`compile_steps` compiles.
    """

    def __init__(self, model, tokenizer, limit: int, cache: str = "dynamic", compiled: bool = False) -> None:
        self.name, self.model, self.tokenizer = f"pytorch, {cache} cache", model.eval(), tokenizer
        self.max_source_tokens, self._cache, self._compiled = limit, cache, compiled

    @torch.no_grad()
    def write(self, batches: list[Batch], **settings) -> Iterator[list[list[int]]]:
        most, static = self.max_source_tokens, {"cache_implementation": "static", "disable_compile": not self._compiled}
        for batch in batches:
            inputs = self.tokenizer.pad(
                {"input_ids": list(batch)}, padding="max_length", max_length=most, return_tensors="pt"
            ).to(self.model.device)
            if self._cache == "dynamic":
                outputs = generate(self.model, inputs, **settings)
            else:
                outputs = self.model.generate(**inputs, **static, **settings)
            yield outputs[:, 1:].tolist()


def compile_steps(model) -> None:
    """Compile a model's decoding steps, but not the first pass, which creates the cache.

    Without CUDA graphs: beam search moves the cache's tensors in every step.
    """
    forward = model.forward
    compiled = torch.compile(forward, dynamic=False)

    @functools.wraps(forward)
    def step(*args, **kwargs):
        cache = kwargs.get("past_key_values")
        begun = cache is not None and any(cache.is_updated.values())
        return (compiled if begun else forward)(*args, **kwargs)

    model.forward = step


def serving(report: Report, given: dict, shapes: tuple[str, ...]) -> None:
    """Time shapes at equal lengths in each backend, one document at a time and in batches."""
    prepared = _served(given)
    for runtime in RUNTIMES:

        def timed(runtime: str = runtime) -> dict:
            found = measure_shapes(prepared(), shapes, [runtime], documents=ALONE, batch_size=TOGETHER, repeats=3)
            published = {shape: PUBLISHED_SPEEDUPS.get(shape) for shape in shapes}
            return {"published_speedups": published, "shapes": found["rows"]}

        report.add(f"serving {runtime}", timed)


def static_caches(report: Report, given: dict, shapes: tuple[str, ...]) -> None:
    """Time PyTorch's caches, plain and compiled, in greedy and beam search."""
    prepared = _served(given)
    for shape in shapes:
        for greedy in (False, True):
            for size in (1, TOGETHER):
                for compiled in (False, True) if GPU else (False,):
                    name = f"serving {shape} with a static cache, {'greedy' if greedy else 'beams'}, batch {size}"
                    name += ", compiled" if compiled else ""
                    report.add(name, lambda: _static(prepared(), shape, size, greedy, compiled))  # noqa: B023


def _served(given: dict) -> Callable[[], Prepared]:
    """Return what loads the study of the served shapes, once."""
    settings = {**given, "corpus.max_test": max(ALONE, TOGETHER), "name": "gpu_shapes"}
    return functools.cache(lambda: Prepared(load_study("full_size", settings)))


def _static(prepared: Prepared, shape: str, size: int, greedy: bool, compiled: bool) -> dict:
    study, (teacher, tokenizer) = prepared.study, prepared.load_teacher()
    precision = training_precision("auto", "bart")
    torch._dynamo.reset()

    def model():
        own = copy.deepcopy(teacher) if shape == WHOLE else make_student(teacher, *parse_shape(shape))
        return own.to(TYPES[precision])

    limit, documents = study.corpus.max_source_tokens, ALONE if size == 1 else size
    plain, other = model(), model() if compiled else None
    systems = {
        "dynamic": Padded(plain, tokenizer, limit),
        "static": Padded(plain if other is None else other, tokenizer, limit, "static", compiled),
    }
    beams = 1 if greedy else study.generation.num_beams
    if compiled and not greedy:
        compile_steps(other)
    sources = systems["dynamic"].encode(prepared.corpus["test"]["document"][:documents])
    settings = {k: v for k, v in study.generation.arguments().items() if not k.endswith("_new_tokens")}
    before = counters["stats"]["unique_graphs"]
    load = Load(size, beams, documents, study.generation.max_new_tokens)
    measured = measure_speed(systems, sources, [load], reference="dynamic", repeats=3, **settings)
    graphs = {"graphs": counters["stats"]["unique_graphs"] - before} if compiled else {}
    return {
        "shape": shape, "precision": precision, "compiled": compiled, **graphs,
        **{name: loads[0] for name, loads in measured.items()},
    }  # fmt: skip


def check(folder: Path, seconds: float) -> int:
    """Run the tests marked ``gpu``; each writes its result (``tests/gpu/conftest.py``)."""
    results = folder / "check.jsonl"
    results.unlink(missing_ok=True)
    tests = ["tests/gpu"] + (["tests/system/test_distributed.py"] if torch.cuda.device_count() > 1 else [])
    command = [sys.executable, "-m", "pytest", *tests, "-p", "no:cacheprovider"]
    environ = {**os.environ, "DISTILL_GPU_RESULTS": str(results), "HF_HUB_OFFLINE": "1"}
    running = subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True)
    try:
        code = running.wait(seconds)
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s; results so far: {results}", file=sys.stderr)
        return 1
    finally:
        if running.returncode is None:
            _kill(running)
    print(f"results: {results}")
    return code


def _kill(running: subprocess.Popen) -> None:
    """Kill a process, its group and what it started: torchrun gives its workers sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        started = psutil.Process(running.pid).children(recursive=True)
        os.killpg(running.pid, signal.SIGKILL)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    running.wait()


def teacher(report: Report, text: Path, tiny: bool) -> None:
    """Train the compact teacher, for which a CPU took hours."""
    small = {f"teacher.{phase}.steps": 4 for phase in ("denoising", "finetuning")}
    study, given = ("smoke", small) if tiny else ("docstrings", {})
    report.add("compact teacher", lambda: {**compact_teacher(text, study, given), "shipped": shipped_teacher()})


def measure(folder: Path, seconds: float, given: dict, tiny: bool, text: Path | None) -> int:
    report = Report(folder / "measure.json", seconds)
    found = report.add("matrix product", lambda: matrix_speed(256 if tiny else 8192))
    lengths = (24,) if tiny else LENGTHS
    shapes = ("2-1",) if tiny else ("12-6", "12-3", "6-6", "12-1")
    peak = found["flops_per_s"] if found else None
    training(report, given, peak, lengths[:1])
    serving(report, given, shapes)
    training(report, given, peak, lengths[1:])
    static_caches(report, given, (shapes[0], WHOLE))
    if text:
        teacher(report, text, tiny)
    print(f"results: {report.file}")
    return 1 if report.found["failed"] else 0


def _device() -> str:
    return "cuda" if GPU else "cpu"


def _synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    # Without choices, which argparse also compares with no parts.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' or '.join(PARTS)}; default: both")
    parser.add_argument("--tokenizer", default="", metavar="DIR", help="folder with BART's vocab.json and merges.txt")
    parser.add_argument("--corpus", default="", metavar="PATH", help="articles and summaries: a file or a folder")
    parser.add_argument(
        "--text", default="", metavar="DIR", help="what benchmarks.gpu_teacher wrote; default: no teacher is trained"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for each part; no measurement begins after them"
    )
    parser.add_argument("--tiny", action="store_true", help="a dry run with tiny models")
    options = parser.parse_args(arguments)
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}; choose from: {', '.join(PARTS)}")
    if "measure" in parts and not (options.tokenizer and options.corpus):
        parser.error("measure needs both: make gpu TOKENIZER=DIR CORPUS=PATH")
    text = Path(options.text) if options.text else None
    if text and not (text / TEXT).is_file():
        parser.error(f"{text / TEXT} is missing; write it with: python -m benchmarks.gpu_teacher {text}")
    folder = home() / "runs" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "name": "gpu", "corpus.path": str(Path(options.corpus).resolve()), "teacher.tokenizer": str(Path(options.tokenizer).resolve()),
    }  # fmt: skip
    if options.tiny:
        given |= TINY
    try:
        worst = check(folder, options.seconds) if "check" in parts else 0
        if "measure" in parts:
            worst = max(worst, measure(folder, options.seconds, given, options.tiny, text))
    except UserError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    return worst


if __name__ == "__main__":
    sys.exit(main())
