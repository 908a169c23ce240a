"""Compare this project's trainer with the textbook trainer (``make bench``).

Writes ``benchmarks/results/<section>.json`` and ``summary.json`` (name → ratio and spread, higher is better). A ratio
is the median over rounds that alternate both trainers on the same pairs; the spread is minimum and maximum.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, concatenate_datasets
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.utils import logging

from benchmarks import serving
from benchmarks.encoders import encoder
from benchmarks.growth import documents_growth, pairs_growth
from benchmarks.peers import peers
from benchmarks.shortlists import large_shortlist, shortlist
from benchmarks.textbook import TextbookTrainer
from distill_utils.data.corpus import load_corpus
from distill_utils.data.tokenization import tokenize
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.metrics.significance import compare
from distill_utils.models.checkpoint import for_inference, load_model
from distill_utils.models.generation import generate, summarize
from distill_utils.models.output_head import Projected, projected
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import freeze_encoder, keeps_encoder, make_student
from distill_utils.studies.loading import load_study
from distill_utils.studies.settings import Study, parse_shape
from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.environment import bf16_supported, environment, training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.memory import peak_memory
from distill_utils.system.progress import progress
from distill_utils.training.attention import use_fastest_attention
from distill_utils.training.batching import Collator
from distill_utils.training.fused_loss import projected_loss
from distill_utils.training.losses import distillation_loss
from distill_utils.training.teacher_cache import encoder_states, teacher_states
from distill_utils.training.trainer import DistillationTrainer, DistillationTrainingArguments

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
BF16 = bf16_supported()
FP16 = training_precision("auto", "bart") == "fp16"  # a GPU without bfloat16
ON_CPU = not torch.accelerator.is_available()


# -- clocks and scales -----------------------------------------------------------------------------------


class Clock(TrainerCallback):
    """Measure the wall time from the first to the last step, including data loading."""

    def on_train_begin(self, *args, **kwargs) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *args, **kwargs) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started


def ratio(ours: list[float], theirs: list[float]) -> dict:
    """Return the median and the range of ours / theirs over rounds."""
    by_round = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"ratio": statistics.median(by_round), "spread": [min(by_round), max(by_round)]}


def save(name: str, results: dict) -> None:
    write_json(RESULTS / f"{name}.json", {"environment": environment(), **results})


# -- both sides ------------------------------------------------------------------------------------------


class Sides:
    """Build and run both trainers on pairs of a study, with a new student for every run."""

    def __init__(self, study: Study, pairs: Dataset) -> None:
        self.study, self.pairs = study, pairs
        self.alpha, self.temperature = study.distillation.alpha, study.distillation.temperature
        self.theirs, self.tokenizer = Prepared(study).load_teacher()  # float32, as tutorials load it
        self.source, _ = load_model(Prepared(study).teacher_folder)
        self.ours = for_inference(load_model(Prepared(study).teacher_folder)[0], training_precision("auto", "bart"))
        for model in (self.theirs, self.source, self.ours):  # load memory-mapped weights now
            for p in model.parameters():
                p.data = p.data.clone()

    def trainer(self, way: str, data: Dataset | None = None, *, frozen: bool, bf16: bool = BF16, **settings):
        student = make_student(self.source, *parse_shape(self.study.distillation.student))
        if frozen:
            if not keeps_encoder(student, self.source):
                raise UserError(
                    "rows with a frozen encoder need a study whose student keeps all of it, such as docstrings"
                )
            freeze_encoder(student)
        usual = {
            "output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "per_device_train_batch_size": self.study.distillation.batch_size,
            "bf16": bf16, "fp16": FP16, "use_cpu": ON_CPU, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
            "learning_rate": 1e-4, "logging_steps": 10**6, "dataloader_pin_memory": not ON_CPU, **settings,
        }  # fmt: skip
        alpha = usual.pop("alpha", self.alpha)
        data, clock = self.pairs if data is None else data, Clock()
        if way in ("textbook", "plain"):
            known = {
                "train_dataset": data, "data_collator": DataCollatorForSeq2Seq(self.tokenizer, model=student),
                "processing_class": self.tokenizer, "callbacks": [clock],
            }  # fmt: skip
            args = Seq2SeqTrainingArguments(**usual)
            if way == "textbook":
                known |= {"teacher": self.theirs, "alpha": alpha, "temperature": self.temperature}
            trainer = (TextbookTrainer if way == "textbook" else Seq2SeqTrainer)(student, args, **known)
        else:
            use_fastest_attention(student)
            args = DistillationTrainingArguments(
                alpha=alpha, temperature=self.temperature, train_sampling_strategy="group_by_length", **usual
            )
            teacher = None if alpha == 1 else self.ours if bf16 or FP16 else self.theirs
            if "teacher_states" in data.column_names:
                teacher, projection = None, projected(teacher)
            else:
                projection = None
            trainer = DistillationTrainer(
                student, args, teacher=teacher, teacher_projection=projection, train_dataset=data, data_collator=Collator(self.tokenizer, student),
                processing_class=self.tokenizer, callbacks=[clock],
            )  # fmt: skip
        trainer.clock = clock
        return trainer

    def examples_per_second(self, way: str, data: Dataset | None = None, **settings) -> float:
        trainer = self.trainer(way, data, **settings)
        trainer.train()
        return len(trainer.train_dataset) / trainer.clock.seconds  # of an epoch; warm-up runs are shorter

    def take_turns(self, variants: dict[str, tuple], rounds: int = ROUNDS) -> tuple[dict, dict]:
        """Return examples per second by variant and round, after a warm-up round, and the last round's peak memory."""
        speeds: dict[str, list[float]] = {name: [] for name in variants}
        memory = {}
        for turn in progress(range(rounds + 1), desc="rounds", unit="round"):
            for name, (way, data, settings) in variants.items():
                if not turn:
                    self.examples_per_second(way, data, max_steps=2, **settings)
                    continue
                measured: list[float] = []
                memory[name] = peak_memory(lambda: measured.append(self.examples_per_second(way, data, **settings)))  # noqa: B023
                speeds[name] += measured
        return speeds, memory

    def rouge_l(self, model, count: int) -> np.ndarray:
        """Return ROUGE-L of greedy summaries of ``count`` validation documents that were not used for tuning."""
        pairs = load_corpus(self.study)["validation"].select(range(TRIED_ON, TRIED_ON + count))
        was = model.config._attn_implementation
        model.set_attn_implementation("sdpa")
        texts = summarize(
            model, self.tokenizer, pairs["document"], max_source_tokens=self.study.corpus.max_source_tokens, batch_size=100,
            num_beams=1, max_new_tokens=self.study.corpus.max_target_tokens,
        )  # fmt: skip
        model.set_attn_implementation(was)
        return rouge_scores(texts, pairs["summary"])["rougeL"]


# -- sections --------------------------------------------------------------------------------------------


def speed(study: Study) -> dict:
    """Measure examples per second at the docstring study's size: all trained and encoder frozen, online and cached."""
    study = load_study(study.file, {"name": "bench", "corpus.max_train": 2048})  # a small cache
    sides = Sides(study, _pairs(study))
    found = teacher_states(Prepared(study), sides.ours, sides.tokenizer)
    states = encoder_states(Prepared(study), sides.ours, sides.tokenizer)
    teacher = concatenate_datasets([sides.pairs, found], axis=1).with_format("numpy")
    both = concatenate_datasets([sides.pairs, found, states], axis=1).with_format("numpy")
    encoder = concatenate_datasets([sides.pairs, states], axis=1).with_format("numpy")
    variants = {
        "textbook_full": ("textbook", None, {"frozen": False}),
        "full_online": ("ours", None, {"frozen": False}),
        "full_cached": ("ours", teacher, {"frozen": False}),
        "textbook_frozen": ("textbook", None, {"frozen": True}),
        "frozen_online": ("ours", None, {"frozen": True}),
        "frozen_cached": ("ours", teacher, {"frozen": True}),
        "frozen_encoder_cached": ("ours", both, {"frozen": True}),
        "plain_frozen": ("plain", None, {"frozen": True}),
        "sft_frozen": ("ours", None, {"frozen": True, "alpha": 1.0}),
        "sft_encoder_cached": ("ours", encoder, {"frozen": True, "alpha": 1.0}),
    }
    speeds, memory = sides.take_turns(variants)
    summary = {}
    for name in variants:
        if not name.startswith(("textbook", "plain")):
            against = {"full": "textbook_full", "froz": "textbook_frozen", "sft_": "plain_frozen"}[name[:4]]
            summary[name] = ratio(speeds[name], speeds[against])
            if memory[name]:
                summary[f"{name}_memory"] = ratio([memory[against]], [memory[name]])
    save(
        "speed",
        {
            "study": study.name,
            "pairs": len(sides.pairs),
            "batch": study.distillation.batch_size,
            "examples_per_s": speeds,
            "peak_bytes": memory,
        },
    )
    return summary


def precision(study: Study) -> dict:
    """Compare bfloat16 with float32, both with this trainer; skipped where bfloat16 would be emulated."""
    if not BF16:
        print("bf16_over_fp32 is skipped: no hardware for bfloat16 (AVX512-BF16 or AMX)", file=sys.stderr)
        return {"bf16_over_fp32": None}
    sides = Sides(study, _pairs(study).select(range(512)))
    variants = {name: ("ours", None, {"frozen": True, "bf16": name == "bf16"}) for name in ("fp32", "bf16")}
    speeds, _ = sides.take_turns(variants)
    save("precision", {"study": study.name, "examples_per_s": speeds})
    return {"bf16_over_fp32": ratio(speeds["bf16"], speeds["fp32"])}


def full_size(study: Study) -> dict:
    """Distil BART-large to 12-6 with random weights on real articles, encoder frozen, online and cached."""
    sides = Sides(study, _pairs(study))
    found = teacher_states(Prepared(study), sides.ours, sides.tokenizer)
    states = encoder_states(Prepared(study), sides.ours, sides.tokenizer)
    variants = {
        "textbook": ("textbook", None, {"frozen": True}),
        "ours": ("ours", None, {"frozen": True}),
        "cached": ("ours", concatenate_datasets([sides.pairs, found], axis=1).with_format("numpy"), {"frozen": True}),
        "encoder_cached": (
            "ours", concatenate_datasets([sides.pairs, found, states], axis=1).with_format("numpy"), {"frozen": True},
        ),
    }  # fmt: skip
    speeds, memory = sides.take_turns(variants)
    # Add the teacher's weights, which both sides held before the measurement; with a cache, only its projection.
    width = 2 if BF16 or FP16 else 4
    size, head = sum(p.numel() for p in sides.source.parameters()), sides.source.get_output_embeddings().weight.numel()
    weights = {"textbook": 4 * size, "ours": width * size, "cached": width * head, "encoder_cached": width * head}
    save(
        "full_size",
        {
            "study": study.name,
            "pairs": len(sides.pairs),
            "batch": study.distillation.batch_size,
            "examples_per_s": speeds,
            "peak_bytes": memory,
            "teacher_bytes": weights,
        },
    )
    summary = {}
    for name, row in {
        "ours": "full_size",
        "cached": "full_size_cached",
        "encoder_cached": "full_size_encoder_cached",
    }.items():
        summary[f"{row}_examples"] = ratio(speeds[name], speeds["textbook"])
        if memory[name]:
            totals = {n: [memory[n] + weights[n]] for n in ("textbook", name)}
            summary[f"{row}_memory"] = ratio(totals["textbook"], totals[name])
    return summary


def loss(study: Study, rows: int = 2048, vocabulary: int = 50_265, width: int = 1024) -> dict:
    """Compare the loss, projections included, with the plain one and with other installed libraries, on the CPU.

    The student's projection is frozen (as when a student keeps its teacher's embeddings) or trained (Liger Kernel only
    supports this case).
    """
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    states, weight = draw(rows, width).requires_grad_(), draw(vocabulary, width) * 0.05
    theirs = (draw(rows, width), draw(vocabulary, width) * 0.05)
    theirs = tuple(t.bfloat16() for t in theirs) if BF16 else theirs
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    alpha, temperature = 0.5, 2.0

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        return F.linear(states, weight), F.linear(theirs[0], theirs[1])

    def ours() -> torch.Tensor:
        student, teacher = Projected(states, weight), Projected(*theirs)
        return projected_loss(student, teacher, labels, alpha=alpha, temperature=temperature).total

    def plain() -> torch.Tensor:
        return distillation_loss(*logits(), labels, alpha=alpha, temperature=temperature).total

    others, left_out = _other_libraries(states, weight, theirs, labels, logits, alpha, temperature)

    def run(way: Callable) -> float:
        states.grad = weight.grad = None
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            value = way()
        value.backward()
        return time.perf_counter() - started

    results, summary = {}, {}
    for trained in (False, True):
        weight.requires_grad_(trained)
        ways = {"plain": plain, "ours": ours, **others}
        if not trained:
            ways.pop("liger", None)  # it always computes the weight's gradient
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        memory = {}
        for turn in progress(range(ROUNDS + 1), desc="loss", unit="round"):
            for name, way in ways.items():
                took: list[float] = []
                memory[name] = peak_memory(lambda: took.append(run(way)))  # noqa: B023
                seconds[name] += took if turn else []
        label = "loss_trained" if trained else "loss"
        results[label] = {"seconds": seconds, "peak_bytes": memory}
        summary[f"{label}_time"] = ratio(seconds["plain"], seconds["ours"])
        if memory["ours"]:
            summary[f"{label}_memory"] = ratio([memory["plain"]], [memory["ours"]])
        for name in others.keys() & ways.keys():
            summary[f"{label}_time_against_{name}"] = ratio(seconds[name], seconds["ours"])
            if memory["ours"]:
                summary[f"{label}_memory_against_{name}"] = ratio([memory[name]], [memory["ours"]])
        for name in left_out:  # not those of an earlier run
            summary |= {f"{label}_{what}_against_{name}": None for what in ("time", "memory")}
    save("loss", {"rows": rows, "vocabulary": vocabulary, "width": width, **results, "left_out": left_out})
    return summary


def _other_libraries(
    states, weight, theirs, labels, logits, alpha, temperature
) -> tuple[dict[str, Callable], dict[str, str]]:
    ways: dict[str, Callable] = {}
    left_out = {}
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        fused = LigerFusedLinearJSDLoss(alpha, 1 - alpha, beta=0.0, temperature=temperature, compiled=False)
        cast = (lambda t: t.bfloat16()) if BF16 else (lambda t: t)
        ways["liger"] = lambda: fused(cast(states), cast(weight), *theirs, labels)
    except Exception as error:  # it may not fit this version of transformers
        left_out["liger"] = _why(error)
    try:
        from torchdistill.losses.mid_level import KDLoss

        kd = KDLoss(".", "output", ".", "output", temperature=temperature, alpha=alpha)

        def torchdistill() -> torch.Tensor:
            student, teacher = logits()
            return kd({".": {"output": student}}, {".": {"output": teacher}}, labels)

        ways["torchdistill"] = torchdistill
    except Exception as error:  # it may not fit this version of transformers
        left_out["torchdistill"] = _why(error)
    try:
        from trl.experimental.gkd import GKDTrainer

        def trl() -> torch.Tensor:
            """β = 0 is the divergence of ours; TRL has no loss on references."""
            student, teacher = logits()
            soft = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=0.0, temperature=temperature)
            return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * soft

        ways["trl"] = trl
    except Exception as error:  # it may not fit this version of transformers
        left_out["trl"] = _why(error)
    return ways, left_out


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def growth(study: Study) -> dict:
    """Measure time and memory of a step over batch size, source and target length and vocabulary."""
    usual = {"batch": 32, "source": 96, "target": 20, "vocabulary": 8000}
    axes = {
        "batch": (8, 16, 32, 64),
        "source": (32, 64, 128),
        "target": (10, 20, 40),
        "vocabulary": (8000, 25_000, 50_265),
    }
    rows = []
    for axis, values in axes.items():
        for value in progress(values, desc=axis, unit="size"):
            at = {**usual, axis: value}
            for way in ("textbook", "ours"):
                sides = _synthetic(study, at)
                run = lambda: sides.examples_per_second(way, frozen=True, per_device_train_batch_size=at["batch"])  # noqa: B023, E731
                memory = peak_memory(run)
                steps = [at["batch"] / run() for _ in range(3)]
                rows.append({"axis": axis, "value": value, "way": way, "step_seconds": steps, "peak_bytes": memory})
    save("growth", {"usual": usual, "rows": rows})
    return {}


def parts(study: Study) -> dict:
    """Measure the time breakdown of a step of both trainers."""
    sides = Sides(study, _pairs(study).select(range(512)))
    shares = {}
    for way in ("textbook", "ours"):
        for frozen in (True, False):
            by_round = []
            for _ in progress(range(ROUNDS + 1), desc=f"parts of {way}", unit="round"):
                by_round.append(_parts_of_a_step(sides.trainer(way, frozen=frozen)))
            shares[f"{way}_{'frozen' if frozen else 'full'}"] = {
                name: statistics.median(r[name] for r in by_round[1:]) for name in by_round[0]
            }
    save("parts", {"study": study.name, "seconds_per_step": shares})
    return {}


def _parts_of_a_step(trainer) -> dict[str, float]:
    """Return the mean seconds of a step's parts; the teacher's encoder counts as encoder."""
    from distill_utils.training import trainer as trainer_module

    spent: dict[str, float] = {}

    def timed(owner, name: str, label: str) -> Callable[[], None]:
        function, had = getattr(owner, name), name in vars(owner)

        def wrapper(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[label] = spent.get(label, 0.0) + time.perf_counter() - started

        setattr(owner, name, wrapper)
        return lambda: setattr(owner, name, function) if had else delattr(owner, name)

    teacher, student = trainer.teacher, trainer.model
    undo = [
        timed(module, "forward", label)
        for module, label in (
            (student.get_encoder(), "encoder"), (teacher.get_encoder(), "encoder"), (teacher.get_decoder(), "teacher decoder"),
            (student.get_decoder(), "student decoder"),
        )
    ]  # fmt: skip
    undo += [
        timed(trainer_module, "projected_loss", "loss"), timed(trainer.accelerator, "backward", "backward"),
        timed(trainer, "get_batch_samples", "data"), timed(trainer, "training_step", "all"), timed(trainer, "compute_loss", "forward"),
    ]  # fmt: skip
    trainer.train()
    for back in undo:
        back()
    steps = trainer.state.global_step
    spent["loss"] = spent["forward"] - sum(spent.get(n, 0) for n in ("encoder", "teacher decoder", "student decoder"))
    rest = trainer.clock.seconds - spent.pop("all") - spent["data"]
    del spent["forward"]
    return {name: value / steps for name, value in {**spent, "optimizer and rest": rest}.items()}


#: Operations by kind, by the beginning of their names in PyTorch's profiler; the first that fits counts.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "mkldnn::_linear", "aten::mkldnn"),
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product", "aten::_flash"),
    "optimizer": ("aten::_fused_adam", "aten::_foreach"),
    "copies and casts": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous", "aten::cat", "aten::fill_", "aten::zero"),
}  # fmt: skip
#: Ranges of PyTorch's profiler whose own time is Python's.
RANGES = ("enumerate(DataLoader)", "Optimizer.", "_ProjectedLoss")


class Profile(TrainerCallback):
    """Record the operations of the steps after the first ``skipped`` ones, or their time alone."""

    def __init__(self, skipped: int, operations: bool) -> None:
        self.skipped = skipped
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) if operations else None

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.skipped:
            if self.profiler:
                self.profiler.start()
            self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.seconds = (time.perf_counter() - self.started) / (state.global_step - self.skipped)
        if self.profiler:
            self.profiler.stop()
            self.steps = state.global_step - self.skipped

    def by_kind(self) -> dict[str, float]:
        """Return the seconds of a step by kind of operation; ``Python`` is the rest."""
        spent = dict.fromkeys((*KINDS, "other operations"), 0.0)
        for event in self.profiler.key_averages():
            if event.key.startswith(RANGES):
                continue
            kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), "other operations")
            spent[kind] += event.self_cpu_time_total / 1e6 / self.steps
        return spent | {"Python": self.seconds - sum(spent.values())}


def profile(study: Study) -> dict:
    """Divide a step with all caches into kinds of operations and Python; the profiler makes a step longer."""
    study = load_study(study.file, {"name": "bench", "corpus.max_train": 2048})
    sides = Sides(study, _pairs(study))
    cached = [find(Prepared(study), sides.ours, sides.tokenizer) for find in (teacher_states, encoder_states)]
    pairs = concatenate_datasets([sides.pairs, *cached], axis=1).with_format("numpy")
    rounds, usual = [], []
    for _ in progress(range(ROUNDS), desc="profile", unit="round"):
        for operations in (False, True):
            trainer = sides.trainer("ours", pairs, frozen=True)
            trainer.add_callback(watch := Profile(4, operations))
            trainer.train()
            rounds.append(watch.by_kind()) if operations else usual.append(watch.seconds)
    found = {kind: statistics.median(r[kind] for r in rounds) for kind in rounds[0]}
    save(
        "profile",
        {
            "study": study.name,
            "batch": study.distillation.batch_size,
            "seconds_per_step": found,
            "without_profiler": usual,
        },
    )
    return {}


def beams(study: Study, documents: int = 256) -> dict:
    """Compare beam search with this project's key-value cache and with that of transformers."""
    teacher, tokenizer = Prepared(study).load_teacher()
    texts = load_corpus(study)["validation"]["document"][:documents]
    encoded = sorted(tokenizer(texts, max_length=study.corpus.max_source_tokens, truncation=True)["input_ids"], key=len)
    size = study.generation.batch_size
    batches = [
        tokenizer.pad({"input_ids": encoded[i : i + size]}, return_tensors="pt") for i in range(0, len(encoded), size)
    ]
    ways = {
        "library": lambda batch: teacher.generate(**batch, **study.generation.arguments()),
        "ours": lambda batch: generate(teacher, batch, **study.generation.arguments()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    same = True
    for turn in progress(range(ROUNDS + 1), desc="beams", unit="round"):
        written = {}
        for name, way in ways.items():
            started = time.perf_counter()
            written[name] = [way(batch) for batch in (batches if turn else batches[:1])]
            if turn:
                seconds[name].append(time.perf_counter() - started)
        same &= all(torch.equal(a, b) for a, b in zip(*written.values(), strict=True))
    save(
        "beams",
        {
            "study": study.name,
            "documents": len(encoded),
            "num_beams": study.generation.num_beams,
            "seconds": seconds,
            "same": same,
        },
    )
    return {"beams": ratio(seconds["library"], seconds["ours"])}


def quality(study: Study) -> dict:
    """Compare the ROUGE-L of both trainers' students after the study's steps, encoder frozen, one seed."""
    sides, d = Sides(study, _pairs(study)), study.distillation
    scores, seconds = {}, {}
    for way in ("ours", "textbook"):
        trainer = sides.trainer(
            way,
            frozen=True,
            max_steps=d.steps,
            learning_rate=d.learning_rates.get("kd", d.learning_rate),
            warmup_steps=d.warmup_steps,
        )
        trainer.train()
        scores[way], seconds[way] = sides.rouge_l(trainer.model, 1000), trainer.clock.seconds
    verdict = compare("ours", "textbook", "rougeL", scores["ours"], scores["textbook"])
    save(
        "quality",
        {
            "study": study.name, "steps": d.steps, "batch": d.batch_size, "validation_pairs": len(scores["ours"]), "seconds": seconds,
            "rougeL": {way: float(values.mean()) for way, values in scores.items()}, "verdict": verdict.as_dict(),
        },
    )  # fmt: skip
    return {}


def time_to_95(study: Study) -> dict:
    """Measure the seconds of training, without validation, to 95 % of the teacher's validation ROUGE-L; three seeds.

    Both trainers use the study's α and T and validate greedily on the same documents every 1,600 pairs. The mean of two
    consecutive validations must reach the goal. Training stops after :data:`LIMIT` seconds.
    """
    sides = Sides(study, _pairs(study))

    def rouge(model) -> float:
        return float(sides.rouge_l(model, VALIDATION_PAIRS).mean())

    goal = 0.95 * rouge(sides.source)
    runs = []
    for seed in range(3):
        for name, recipe in RECIPES.items():
            watch = UntilGoal(rouge, goal, every=1600 // recipe["per_device_train_batch_size"])
            trainer = sides.trainer(name, seed=seed, lr_scheduler_type="warmup_stable_decay", **recipe)
            trainer.add_callback(watch)
            trainer.train()
            runs.append(
                {"seed": seed, "way": name, "reached": watch.reached, "seconds": watch.seconds, "curve": watch.curve}
            )
            print(runs[-1], file=sys.stderr, flush=True)
    d = study.distillation
    save(
        "time_to_95",
        {
            "goal_rougeL": goal, "validation_pairs": VALIDATION_PAIRS, "limit_seconds": LIMIT, "alpha": d.alpha,
            "temperature": d.temperature, "recipes": RECIPES, "runs": runs,
        },
    )  # fmt: skip
    by_way = {name: [r for r in runs if r["way"] == name] for name in RECIPES}
    if not all(r["reached"] for r in by_way["ours"]):
        print("ours did not reach the goal with every seed; time_to_95 is not reported", file=sys.stderr)
        return {"time_to_95": None}
    result = ratio(*([r["seconds"] for r in by_way[way]] for way in ("textbook", "ours")))
    missed = sum(not r["reached"] for r in by_way["textbook"])
    if missed:
        result["note"] = (
            f"the textbook was stopped short of it with {missed} of {len(by_way['textbook'])} seeds: a lower bound, its time is when it was stopped"
        )
    return {"time_to_95": result}


TRIED_ON = 1000
VALIDATION_PAIRS = 300
LIMIT = 300


def _decay(steps: int) -> dict:
    """Return a schedule that decays the learning rate to a tenth in ``steps`` steps."""
    return {"num_decay_steps": steps, "num_stable_steps": 0, "decay_type": "linear", "min_lr_ratio": 0.1}


#: Settings of each trainer. Both freeze the encoder, which is faster for the textbook, too, and see the same number of pairs
#: during decay. The textbook uses smaller batches, because its time depends on the number of pairs alone.
RECIPES = {
    "ours": {
        "frozen": True, "learning_rate": 2e-3, "per_device_train_batch_size": 64, "max_steps": 800, "warmup_steps": 20, "beta": 30.0,
        "lr_scheduler_kwargs": _decay(160),
    },
    "textbook": {
        "frozen": True, "learning_rate": 2e-3, "per_device_train_batch_size": 32, "max_steps": 1600, "warmup_steps": 40,
        "lr_scheduler_kwargs": _decay(320),
    },
}  # fmt: skip


class UntilGoal(TrainerCallback):
    """Validate every ``every`` steps, outside the timing, and stop the training at the goal."""

    def __init__(self, rouge: Callable, goal: float, every: int) -> None:
        self.rouge, self.goal, self.every = rouge, goal, every
        self.curve, self.seconds, self.reached = [], 0.0, False

    def on_train_begin(self, *args, **kwargs) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step % self.every:
            return
        self.seconds += time.perf_counter() - self.started
        score = self.rouge(model)
        model.train()
        self.curve.append([state.global_step, round(self.seconds, 1), round(score, 2)])
        self.reached = statistics.mean(x[2] for x in self.curve[-2:]) >= self.goal and len(self.curve) > 1
        control.should_training_stop = self.reached or self.seconds > LIMIT
        self.started = time.perf_counter()


# -- data ------------------------------------------------------------------------------------------------


def _pairs(study: Study) -> Dataset:
    _, tokenizer = Prepared(study).load_teacher()
    return tokenize(load_corpus(study)["train"], tokenizer, study.corpus)


def _synthetic(study: Study, at: dict[str, int]) -> Sides:
    """Return pairs of random tokens with fixed lengths, and the study's teacher with another vocabulary size."""
    generator = np.random.default_rng(0)
    count = 4 * at["batch"]
    pairs = Dataset.from_dict({
        "input_ids": generator.integers(4, 8000, (count, at["source"])), "attention_mask": np.ones((count, at["source"]), int),
        "labels": generator.integers(4, 8000, (count, at["target"])), "length": [at["source"]] * count,
    })  # fmt: skip
    sides = Sides(study, pairs)
    for model in (sides.theirs, sides.source, sides.ours):
        model.resize_token_embeddings(at["vocabulary"], mean_resizing=False)
    return sides


# -- the command -----------------------------------------------------------------------------------------


def _finished(measure: Callable[[Study], dict]) -> Callable[[Study], dict]:
    """Wrap a measurement that requires a finished study and has no ratio."""

    def section(study: Study) -> dict:
        save(measure.__name__, {"study": study.name, **measure(study)})
        return {}

    return section


FINISHED = {name: _finished(getattr(serving, name)) for name in serving.SECTIONS}
FINISHED |= {
    section.__name__: _finished(section) for section in (shortlist, peers, encoder, documents_growth, pairs_growth)
}
#: At BART-large's size; they require a tokenizer and articles.
LARGE = {"full_size": full_size, "large_shortlist": _finished(large_shortlist)}


SECTIONS = {
    "loss": loss, "speed": speed, "precision": precision, "growth": growth, "parts": parts, "profile": profile,
    "beams": beams, "quality": quality, "time_to_95": time_to_95,
    **FINISHED, **LARGE,
}  # fmt: skip


def table(summary: dict) -> str:
    rows = ["| name | ours against textbook | spread |", "| --- | ---: | --- |"]
    rows += [
        f"| `{name}` | {r['ratio']:.2f}× | {r['spread'][0]:.2f} to {r['spread'][1]:.2f} |"
        for name, r in summary.items()
    ]
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"one of {', '.join(SECTIONS)}; default: all but {', '.join(FINISHED)}, most of which require a finished study",
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", help=f"for {' and '.join(LARGE)}: folder with BART's vocab.json and merges.txt"
    )
    parser.add_argument(
        "--corpus", metavar="PATH", help="for the same: XSum's rows: a file, a folder, or an id on the Hub"
    )
    parser.add_argument(
        "--study", default="docstrings", help="for those that require a finished study (default: docstrings)"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown section {min(unknown)!r}; choose from: {', '.join(SECTIONS)}")
    given = bool(options.tokenizer and options.corpus)
    if (large := LARGE.keys() & {*options.sections}) and not given:
        parser.error(f"{min(large)} requires both: make bench TOKENIZER=DIR CORPUS=PATH")
    logging.set_verbosity_error()
    summary_file = RESULTS / "summary.json"
    summary = read_json(summary_file) if summary_file.is_file() else {}
    try:
        for name in options.sections or [s for s in SECTIONS if s not in FINISHED and (s not in LARGE or given)]:
            print(f"{name} …", file=sys.stderr, flush=True)
            settings = {}
            if name in LARGE:
                settings = {
                    "teacher.tokenizer": os.path.abspath(options.tokenizer),
                    "corpus.path": os.path.abspath(options.corpus)
                    if os.path.exists(options.corpus)
                    else options.corpus,
                    "name": "bench_full_size",
                    "distillation.batch_size": 64,
                    "corpus.max_train": 192,
                }
            chosen = options.study if name in FINISHED else "docstrings"
            study = load_study("full_size" if name in LARGE else chosen, settings)
            summary |= SECTIONS[name](study)
            summary = {k: v for k, v in summary.items() if v}  # drop what was not reached
            write_json(summary_file, dict(sorted(summary.items())))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(table(dict(sorted(summary.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
