"""Measure memory, time and speed-up of BART-large's shape on this machine.

With random weights, BART-large performs the same operations as the published model (without dropout), so all measurements
but ROUGE are meaningful. The study ``full_size`` creates it, copies a 12-6 student, distils a few steps, stops, resumes,
evaluates, and times both models at equal summary lengths (``make full-size``). For an estimate on other machines, the
operations and the memory of a training step of the study ``xsum`` are counted.
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from distill_utils.data.corpus import corpus_name, load_corpus
from distill_utils.data.tokenization import token_lengths, tokenize
from distill_utils.evaluation.evaluate import evaluate_model
from distill_utils.evaluation.speed import headline, measure_speed, natural_loads
from distill_utils.models.backends import PyTorch
from distill_utils.models.checkpoint import (
    DTYPES,
    checkpoint_hash,
    load_model,
    parameter_count,
    size_bytes,
)
from distill_utils.models.generation import generation_settings
from distill_utils.models.output_head import projected, without_head
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import freeze_encoder, make_student
from distill_utils.report.publish import PAGES, generated, published_results
from distill_utils.report.sentences import machine_sentence
from distill_utils.report.tables import markdown_table
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import single_run
from distill_utils.studies.settings import Study, parse_shape
from distill_utils.system.artefacts import write_json, write_text
from distill_utils.system.environment import environment, training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.progress import progress
from distill_utils.training.fused_loss import ROWS_ON_ACCELERATOR, projected_loss
from distill_utils.training.train_student import train_student, training_report

METHOD = "kd"
FILE = "results.json"
GB = 1e9
#: Published: sizes of XSum's training and test split, and milliseconds per summary from DistilBART's model cards.
TRAINING_PAIRS, TEST_PAIRS = 204_045, 11_334
#: Of one GPU: an assumption.
TFLOPS = 30.0
PUBLISHED_HOURS = 13  # of xsum 12-6, from a comment in DistilBART's training script
PUBLISHED_BEAMS = 6  # bart-large-xsum's generation config
PUBLISHED_MS = {"teacher": 229, "copy": 137, "sft": 137, "kd": 137}


def measure(study: Study) -> dict:
    """Delete ``runs/<study>``, run all stages once and return the measurements, without the meaningless ROUGE."""
    shutil.rmtree(study.folder, ignore_errors=True)
    prepared = Prepared(study)
    shape = study.distillation.student
    run = single_run(study, shape, METHOD)
    seconds: dict[str, float] = {}
    with _timed(seconds, "random weights and corpus"):
        teacher, tokenizer = prepared.load_teacher()
    parameters = {"teacher": parameter_count(teacher)}
    with _timed(seconds, "teacher summarizes"):
        evaluate_model(prepared, "teacher", teacher, tokenizer, prepared.teacher_hash)
    recipe = _xsum_step(study, teacher, tokenizer)
    del teacher
    clock = StepClock(stop_after=study.distillation.steps // study.distillation.validations)
    with _timed(seconds, "training, stopped and resumed"):
        try:
            train_student(prepared, run, [clock])
        except Stopped:
            clock.stop_after = None
        folder = train_student(prepared, run, [clock])
    report = training_report(prepared, run)
    student, _ = load_model(folder)
    parameters["student"] = parameter_count(student)
    with _timed(seconds, "student summarizes"):
        evaluate_model(prepared, run.name, student, tokenizer, checkpoint_hash(folder))
    teacher, _ = load_model(prepared.teacher_folder)
    settings = generation_settings(study, teacher)
    with _timed(seconds, "speed"):
        limit, beams = study.corpus.max_source_tokens, settings["num_beams"]
        systems = {"teacher": PyTorch(teacher, tokenizer, limit), run.name: PyTorch(student, tokenizer, limit)}
        sources = systems["teacher"].encode(prepared.corpus["test"]["document"])
        measured = measure_speed(
            systems, sources, natural_loads(study.speed, beams), reference="teacher", repeats=study.speed.repeats,
            **study.generation.arguments(),
        )  # fmt: skip
        speeds = {system: headline(loads, study.speed, beams) for system, loads in measured.items()}
    d = study.distillation
    return {
        "study": study.name,
        "environment": environment(),
        "corpus": {"name": corpus_name(study), "source_tokens": study.corpus.max_source_tokens},
        "parameters": parameters,
        "checkpoint_bytes": {"teacher": size_bytes(prepared.teacher_folder), "student": size_bytes(folder)},
        "generation": settings,
        "summaries": study.corpus.max_test,
        "training": {
            "shape": shape, "steps": report["steps"], "pairs_per_step": report["pairs_per_step"],
            "pairs_per_forward": d.batch_size, "precision": report["precision"], "encoder_frozen": report["encoder_frozen"],
            "step_seconds": clock.steps, "resumed_at_step": clock.resumed_at,
            "losses": [[e["step"], e["hard_loss"], e["soft_loss"]] for e in report["log"] if "hard_loss" in e],
        },
        "speeds": speeds,
        "seconds": seconds,
        "peak_memory_bytes": _peak_memory(),
        "xsum_step": recipe,
    }  # fmt: skip


class Stopped(Exception):
    """Stops the training after a checkpoint."""


class StepClock(TrainerCallback):
    """Record the seconds of every optimizer step; raise :class:`Stopped` at the checkpoint ``stop_after``."""

    def __init__(self, stop_after: int | None) -> None:
        self.stop_after, self.steps, self.resumed_at = stop_after, [], None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.resumed_at = state.global_step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.steps.append(round(time.perf_counter() - self.started, 2))

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.stop_after:
            raise Stopped


def _xsum_step(study: Study, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Count operations and memory of a forward and backward pass of the study ``xsum``.

    Operations are counted on pairs of this corpus, truncated as in ``xsum``, with eager attention, because the counter
    does not support fused kernels. Memory is what a batch of maximum length saves for the backward pass, with fused attention.
    """
    xsum = load_study("xsum")
    student = make_student(teacher, *parse_shape(xsum.distillation.student)).train()
    freeze_encoder(student)
    collate = DataCollatorForSeq2Seq(tokenizer, model=student)
    pairs = load_corpus(study)["train"]
    counted = token_lengths(pairs, tokenizer)
    lengths = np.minimum(counted["document"], xsum.corpus.max_source_tokens)
    # The median pair of each octile by length.
    chosen = np.argsort(lengths)[(np.arange(8) * 2 + 1) * len(lengths) // 16]
    encoded = tokenize(pairs.select(chosen.tolist()), tokenizer, xsum.corpus).remove_columns("length")
    flops = {"step": 0, "teacher": 0, "encoder": 0}
    _set_attention(student, teacher, "eager")
    for pair in progress(encoded, desc="counting operations", unit="pair"):
        batch = collate([pair])
        works = {
            "teacher": lambda: _states(teacher, batch),  # noqa: B023
            "encoder": lambda: teacher.get_encoder()(batch["input_ids"], attention_mask=batch["attention_mask"]),  # noqa: B023
            "step": lambda: _step(student, teacher, batch, xsum),  # noqa: B023
        }
        for name, work in works.items():
            with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(name == "step"):
                work()
            flops[name] += counter.get_total_flops() / len(chosen)
    size, source, target = xsum.distillation.batch_size, xsum.corpus.max_source_tokens, xsum.corpus.max_target_tokens
    longest = {"input_ids": [4] * source, "attention_mask": [1] * source, "labels": [4] * target}
    _set_attention(student, teacher, "sdpa")
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for model in (student, teacher) for p in model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _step(student, teacher, collate([longest] * size), xsum)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    logits = min(size * target, ROWS_ON_ACCELERATOR) * student.config.vocab_size * 4
    _set_attention(student, teacher, "eager")
    return {
        "pairs_per_forward": size,
        "forwards": xsum.distillation.steps * xsum.distillation.gradient_accumulation_steps,
        "mean_source_tokens": float(lengths.mean()),
        "mean_target_tokens": float(np.minimum(counted["summary"], xsum.corpus.max_target_tokens).mean()),
        "flops_per_pair": flops["step"],
        "teacher_flops_per_pair": flops["teacher"],
        "encoder_flops_per_pair": flops["encoder"],
        "width": teacher.config.d_model,
        "trained_parameters": trained,
        "weights_bytes": 4 * parameter_count(student) + 2 * parameter_count(teacher),
        "gradients_and_moments_bytes": 12 * trained,
        "kept_for_backward_bytes": sum(kept.values()),
        "logits_bytes": logits,
        "cache_bytes": _cache_bytes(teacher, xsum, PUBLISHED_BEAMS),
    }


def _cache_bytes(model: PreTrainedModel, study: Study, beams: int) -> int:
    """Compute the float32 bytes of the key-value cache for a batch of maximum length."""
    tokens = study.corpus.max_source_tokens + study.corpus.max_target_tokens
    return study.generation.batch_size * beams * model.config.decoder_layers * 2 * model.config.d_model * tokens * 4


def _states(teacher: PreTrainedModel, batch: dict) -> None:
    """Compute what a teacher cache stores; the output projection runs in each training step."""
    with without_head(teacher):
        teacher(**{name: tensor for name, tensor in batch.items() if name != "labels"})


def _step(student: PreTrainedModel, teacher: PreTrainedModel, batch: dict, xsum: Study) -> None:
    d = xsum.distillation
    precision = training_precision(d.precision, student.config.model_type)
    with torch.autocast(student.device.type, DTYPES.get(precision), enabled=precision in DTYPES):
        labels = batch.pop("labels")
        with torch.no_grad(), without_head(teacher):
            encoded = teacher.get_encoder()(batch.pop("input_ids"), attention_mask=batch["attention_mask"])
            wanted = teacher(encoder_outputs=encoded, **batch).logits
        with without_head(student):
            states = student(encoder_outputs=encoded, **batch).logits
        loss = projected_loss(
            projected(student, states), projected(teacher, wanted), labels, alpha=d.alpha, temperature=d.temperature
        )
    loss.total.backward()
    student.zero_grad()


def _set_attention(student: PreTrainedModel, teacher: PreTrainedModel, kind: str) -> None:
    for model in (student, teacher):
        model.set_attn_implementation(kind)


def _peak_memory() -> int:
    """Return this process's peak memory: of the GPU if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    print(f"{what} …", file=sys.stderr, flush=True)
    started = time.perf_counter()
    yield
    seconds[what] = round(time.perf_counter() - started, 1)


# -- the page --------------------------------------------------------------------------------------------


def table(results: dict) -> str:
    """Render the measurements."""
    t, s = results["training"], results["speeds"]
    student = next(name for name in s if name != "teacher")
    parameters, fast = results["parameters"], s[student]
    low, high = min(t["step_seconds"]), max(t["step_seconds"])
    rows = [
        ("what", "measured"),
        ("---", "---"),
        ("parameters, teacher", f"{parameters['teacher']:,}"),
        (
            "parameters, student",
            f"{parameters['student']:,} ({parameters['teacher'] / parameters['student']:.2f}× fewer)",
        ),
        (
            f"time for {results['summaries']} summaries by the teacher, {results['generation']['num_beams']} beams",
            f"{results['seconds']['teacher summarizes']:.0f} s",
        ),
        (
            f"time per step of {t['pairs_per_step']} pairs, {results['corpus']['source_tokens']} source tokens, micro-batches of {t['pairs_per_forward']}",
            f"{np.median(t['step_seconds']):.1f} s ({low:.1f} to {high:.1f}, {len(t['step_seconds'])} steps)",
        ),
        ("training stopped and resumed", f"at step {t['resumed_at_step']} of {t['steps']}"),
        ("peak memory", f"{results['peak_memory_bytes'] / GB:.1f} GB"),
        (
            f"speed-up of {student} at batch 1, {fast['num_beams']} beams, {fast['summary_tokens']:.0f} tokens per summary",
            f"{fast['speedup']:.2f}× ({fast['speedup_spread'][0]:.2f} to {fast['speedup_spread'][1]:.2f})",
        ),
        ("speed-up in batches", f"{fast['batch_speedup']:.2f}×"),
        ("ROUGE", "not reported: the weights are random"),
        ("total time", f"{sum(results['seconds'].values()) / 60:.0f} min"),
    ]
    return markdown_table(rows)


def estimate(results: dict, tflops: float = TFLOPS) -> str:
    """Estimate memory and hours of the study ``xsum`` on one GPU that sustains ``tflops`` (an assumption)."""
    s = results["xsum_step"]
    memory = (
        s["weights_bytes"] + s["gradients_and_moments_bytes"] + s["kept_for_backward_bytes"] + 4 * s["logits_bytes"]
    )
    flops = s["flops_per_pair"] * s["pairs_per_forward"] * s["forwards"]
    hours = flops / tflops / 1e12 / 3600
    writing = TEST_PAIRS * sum(PUBLISHED_MS.values()) / 1000 / 3600
    models = 4 * (results["parameters"]["teacher"] + 3 * results["parameters"]["student"])
    return (
        f"**Memory: {(models + s['cache_bytes']) / GB:.0f} GB**, plus the allocator's overhead. This is computed, not measured on a GPU.\n\n"
        f"- Training holds {memory / GB:.0f} GB: {s['weights_bytes'] / GB:.1f} GB of weights (student in float32, teacher in bfloat16), "
        f"{s['gradients_and_moments_bytes'] / GB:.1f} GB of gradients and optimizer state for {s['trained_parameters'] / 1e6:.0f} M trained parameters, "
        f"{s['kept_for_backward_bytes'] / GB:.1f} GB of activations for {s['pairs_per_forward']} pairs of the maximum length, and "
        f"{4 * s['logits_bytes'] / GB:.1f} GB for four copies of a chunk of logits.\n"
        f"- Generation holds more: {s['cache_bytes'] / GB:.1f} GB of keys and values for a batch of the longest articles at {PUBLISHED_BEAMS} beams, and "
        f"{models / GB:.1f} GB for the teacher and three students. To reduce it: `--set generation.batch_size=8 --set speed.batch_size=8`.\n\n"
        f"**Time: {2 * hours + writing:.0f} to {2 * PUBLISHED_HOURS + writing:.0f} hours.**\n\n"
        f"- A forward and backward pass takes {s['flops_per_pair'] / 1e12:.2f} TFLOP per pair on average ({s['mean_source_tokens']:.0f} source tokens). All "
        f"{s['forwards']:,} batches of {s['pairs_per_forward']} take {flops / 1e15:,.0f} PFLOP.\n"
        f"- Training a student takes {hours:.1f} hours if the GPU sustains {tflops:g} TFLOP/s, which is an assumption. The authors of DistilBART report "
        f"{PUBLISHED_HOURS} hours on a V100, with validation and a second encoder pass (published, not measured here).\n"
        f"- Summarizing the {TEST_PAIRS:,} test articles with the teacher and three students takes {writing:.1f} hours at the published times per summary.\n"
        f"- The study trains two students: 2 × {hours:.1f} + {writing:.1f} hours at best, 2 × {PUBLISHED_HOURS} + {writing:.1f} hours at the published speed."
    )


def stages(results: dict, tflops: float = TFLOPS) -> str:
    """Compute what each stage of the study ``xsum`` takes with all training pairs, on one GPU that sustains ``tflops``."""
    s, xsum = results["xsum_step"], load_study("xsum").distillation
    passes = xsum.steps * xsum.batch_size * xsum.gradient_accumulation_steps
    hours = lambda flops: f"{flops / tflops / 1e12 / 3600:.1f} h"  # noqa: E731
    stored = lambda tokens: f"{TRAINING_PAIRS * tokens * s['width'] * 2 / GB:.0f} GB"  # noqa: E731
    holds = s["weights_bytes"] + s["gradients_and_moments_bytes"] + s["kept_for_backward_bytes"] + 4 * s["logits_bytes"]
    teacher = 4 * results["parameters"]["teacher"]
    states = 24 * results["parameters"]["student"]
    cached = s["flops_per_pair"] - s["teacher_flops_per_pair"]
    written = TRAINING_PAIRS * PUBLISHED_MS["teacher"] / 1000 / 3600
    rows = [
        ("stage", "time", "disk", "GPU memory"),
        ("---", "---:", "---:", "---:"),
        ("teacher's weights", "a download", f"{results['checkpoint_bytes']['teacher'] / GB:.1f} GB", f"{teacher / GB:.1f} GB"),
        ("pseudo-labels, at the published time per summary", f"{written:.1f} h", "text", f"{(teacher + s['cache_bytes']) / GB:.0f} GB"),
        ("teacher cache: the decoder's last states", hours(s["teacher_flops_per_pair"] * TRAINING_PAIRS), stored(s["mean_target_tokens"]), f"{teacher / GB:.1f} GB"),
        ("encoder cache, beside it", hours(s["encoder_flops_per_pair"] * TRAINING_PAIRS), stored(s["mean_source_tokens"]), "the same"),
        (f"a training online, {passes / TRAINING_PAIRS:.0f} passes", hours(s["flops_per_pair"] * passes), f"{states / GB:.0f} GB of checkpoints", f"{holds / GB:.0f} GB"),
        ("a training from both caches", hours(cached * passes), "the same", f"less by the teacher, {teacher / 2 / GB:.1f} GB"),
    ]  # fmt: skip
    return (
        f"Computed for XSum's {TRAINING_PAIRS:,} training pairs from the operations that were counted, on a GPU that sustains "
        f"{tflops:g} TFLOP/s (an assumption), and from tokens and widths for the disk; not measured.\n\n{markdown_table(rows)}"
    )


def results_page(results: dict) -> str:
    """Render ``docs/results/full_size.md``."""
    return generated(
        "Results at full size",
        "Memory, time and speed-up of BART-large's shape with random weights on real articles, and an estimate for the study `xsum`.",
        "make full-size TOKENIZER=DIR CORPUS=PATH PUBLISH=1",
        [
            "## Measurements",
            table(results),
            "## Estimate for one GPU",
            estimate(results),
            "## Each stage",
            stages(results),
        ],
        f"{machine_sentence(results['environment'])}. All numbers: [results.json](../../figures/full_size/results.json).",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make full-size", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--tokenizer", required=True, metavar="DIR", help="folder with BART's vocab.json and merges.txt"
    )
    parser.add_argument(
        "--corpus", required=True, metavar="PATH", help="XSum's rows: a file, a folder, or an id on the Hub"
    )
    parser.add_argument(
        "--publish", action="store_true", help="write figures/full_size/results.json and docs/results/full_size.md"
    )
    options = parser.parse_args(arguments)
    if not options.tokenizer or not options.corpus:
        parser.error("give both: make full-size TOKENIZER=DIR CORPUS=PATH")
    given = {"teacher.tokenizer": options.tokenizer, "corpus.path": options.corpus}
    given = {key: str(Path(path).resolve()) if path and Path(path).exists() else path for key, path in given.items()}
    try:
        study = load_study("full_size", given)
        results = measure(study)
    except UserError as error:
        print(f"full-size: {error}", file=sys.stderr)
        return 2
    path = study.folder / FILE
    write_json(path, results)
    print(f"\n{table(results)}\n\n{estimate(results)}\n\nresults: {path}")
    if options.publish:
        write_json(published_results(study.name), results)
        write_text(PAGES / "full_size.md", results_page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
