"""Estimate the peak memory of a study from its settings and the shapes of its models.

The estimate assumes the largest batches that the settings allow, with all texts at maximum length. Building
the corpus is not included. The published full-size run is within 25 % of its estimate, and the constants for a
layer's saved activations are counted on BART's layers (both: ``tests/training/test_memory_estimate.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig, PretrainedConfig

from distill_utils.models.checkpoint import checkpoint_folder, parameter_count, with_shape
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import Run, planned, timed
from distill_utils.studies.settings import METHODS, Study, is_shape, parse_shape
from distill_utils.system.distributed import world_size
from distill_utils.system.environment import training_precision
from distill_utils.training.fused_loss import ROWS_OF_GRADIENT, ROWS_ON_ACCELERATOR

#: Bytes of resident memory of a process without a model, and of a GPU context.
PROCESS, CONTEXT = 1_000_000_000, 500_000_000
#: Bytes that a trained layer saves for the backward pass, by whether bf16 autocast is on: per token and unit of width, per token and
#: unit of inner width and, in a decoder, per document token and unit of width (cross-attention's keys and values).
KEPT = {"decoder": {True: (44, 4, 8), False: (68, 8, 8)}, "encoder": {True: (30, 4.3, 0), False: (44, 8.7, 0)}}
#: Memory limit and usage of a container (Linux, cgroup v2).
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """Peak memory, the phase in which it occurs (such as ``training 12-6 kd``) and the settings that reduce it."""

    bytes: int
    moment: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class _Shape:
    config: PretrainedConfig
    parameters: int
    encoder: int


def memory_needed(prepared: Prepared, runs: Sequence[Run] | None = None) -> Need | None:
    """Estimate the peak memory on the compute device; None for models that are not BART.

    Args:
        runs: the students to train; None: everything that a run of the study does.
    """
    study = prepared.study
    chosen = planned(study) if runs is None else runs
    config = _config(prepared.teacher_folder)
    configs = {run.student: _student(study, run.student, config) for run in chosen if config}
    if config is None or None in configs.values():
        return None
    teacher, students = _shape(config), {student: _shape(own) for student, own in configs.items()}
    needs = [_training(run, students[run.student], teacher) for run in chosen if METHODS[run.method].trained]
    if runs is None:
        needs.append(_writing(prepared, teacher, max(s.parameters for s in students.values())))
        needs.append(_timing(prepared, teacher, [students[shape] for shape in {run.student for run in timed(chosen)}]))
    return max(needs, key=lambda need: need.bytes, default=None)


def memory_sentence(prepared: Prepared, runs: Sequence[Run] | None = None) -> str:
    """Say how much memory is needed and available, with a warning if it may not suffice; empty if unknown."""
    need, free = memory_needed(prepared, runs), available_memory()
    if need is None:
        return ""
    told = f"{prepared.study.name} needs about {need.bytes / 1e9:.1f} GB of memory ({need.moment}), and {free / 1e9:.1f} GB are there for it"
    return told if need.bytes <= free else f"WARNING: {told}; lower {', '.join(need.settings)}"


def available_memory() -> int:
    """Return the available memory in bytes: of the GPU if there is one, else of the machine or container.

    It includes the memory that this process holds, because the estimate does too.
    """
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    free, own = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    try:
        limit, used, parts = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:
        return free + own
    if limit.strip() != "max":
        cached = dict(line.split() for line in parts.splitlines()).get("inactive_file", 0)  # reclaimable
        free = max(0, min(free, int(limit) - int(used) + int(cached)))
    return free + own


def kept_for_backward(
    config: PretrainedConfig, pairs: int, source: int, target: int, *, bf16: bool, encoder: bool
) -> int:
    """Return the bytes that a forward pass of BART's layers saves for the backward pass.

    Args:
        pairs: pairs in the batch, with ``source`` and ``target`` tokens each.
        encoder: whether the encoder is trained, too.
    """
    own, inner, documents = KEPT["decoder"][bf16]
    d, tokens = config.d_model, pairs * target
    total = config.decoder_layers * (
        tokens * (own * d + inner * config.decoder_ffn_dim) + documents * pairs * source * d
    )
    if encoder:
        own, inner, _ = KEPT["encoder"][bf16]
        total += config.encoder_layers * pairs * source * (own * d + inner * config.encoder_ffn_dim)
    return round(total)


def _shape(config: PretrainedConfig) -> _Shape:
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    return _Shape(config, parameter_count(model), parameter_count(model.get_encoder()))


def _config(folder: Path) -> PretrainedConfig | None:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):  # load_model reports the error
        return None
    return config if hasattr(config, "decoder_ffn_dim") else None


def _student(study: Study, student: str, teacher: PretrainedConfig) -> PretrainedConfig | None:
    if not is_shape(student):
        return _config(checkpoint_folder(student, record=study.hub_record))
    return with_shape(teacher, *parse_shape(student))


def _base() -> int:
    return CONTEXT if torch.cuda.is_available() else PROCESS


def _writes(config: PretrainedConfig, documents: int, beams: int, source: int, target: int) -> int:
    """Return the float32 bytes of a batch's key-value cache, encoder states and four copies of a step's logits."""
    rows, d = documents * beams, config.d_model
    cache = rows * config.decoder_layers * 2 * d * (source + target)
    encoder = documents * source * (6 * d + config.encoder_ffn_dim) + rows * source * d
    return 4 * (cache + encoder + 4 * rows * config.vocab_size)


def _writing(prepared: Prepared, teacher: _Shape, student: int) -> Need:
    study, beams = prepared.study, _beams(prepared)
    g, c = study.generation, study.corpus
    writes = _writes(teacher.config, g.batch_size, beams, c.max_source_tokens, c.max_target_tokens)
    settings = (f"generation.batch_size ({g.batch_size})", f"generation.num_beams ({beams})", _source(study))
    return Need(_base() + 4 * (teacher.parameters + student) + writes, "writing summaries", settings)


def _timing(prepared: Prepared, teacher: _Shape, students: list[_Shape]) -> Need:
    study = prepared.study
    s, c = study.speed, study.corpus
    documents, beams = max(s.batch_size, *s.batch_sizes, 1), max(_beams(prepared), *s.beams, 1)
    writes = _writes(teacher.config, documents, beams, c.max_source_tokens, c.max_target_tokens)
    loaded = 4 * (teacher.parameters + sum(student.parameters for student in students))
    settings = (f"speed.batch_size ({s.batch_size})", f"the number of students ({len(students)})", _source(study))
    return Need(_base() + loaded + writes, "timing all models", settings)


def _training(run: Run, student: _Shape, teacher: _Shape) -> Need:
    study, method = run.study, METHODS[run.method]
    d, c = study.distillation, study.corpus
    half_precision = training_precision(d.precision, teacher.config.model_type) != "fp32"
    frozen = d.freeze_encoder and not method.random and student.encoder == teacher.encoder
    trained = student.parameters - (student.encoder if frozen else 0)
    takes_cached = d.cache_teacher and method.takes_cached_teacher and (frozen or not method.hidden)
    online = method.soft and not takes_cached
    # Both models in float32, gradients and the optimizer's two moments, and the copies in half precision.
    held = 4 * (teacher.parameters + 2 * student.parameters) + 12 * trained + (2 * trained if half_precision else 0)
    half = 2 if half_precision else 4
    held += half * (teacher.parameters if online else student.encoder if frozen else 0)
    source, target = c.max_source_tokens, c.max_target_tokens
    pairs = d.batch_size if not d.batch_tokens else min(d.batch_size, d.batch_tokens // (source + target))
    pairs = max(1, pairs // world_size())
    kept = kept_for_backward(student.config, pairs, source, target, bf16=half_precision, encoder=not frozen)
    if d.gradient_checkpointing:  # inputs of all layers, activations of one
        layers = student.config.decoder_layers + (0 if frozen else student.config.encoder_layers)
        kept = round(kept / layers) + 4 * pairs * (source + target) * student.config.d_model * layers
    read = half * pairs * source * (6 * teacher.config.d_model + teacher.config.encoder_ffn_dim)
    logits = 4 * 4 * min(pairs * target, ROWS_ON_ACCELERATOR) * student.config.vocab_size
    if not frozen:  # the output projection is trained, too
        logits += half * min(pairs * target, ROWS_OF_GRADIENT) * student.config.vocab_size
    writes = (
        _writes(student.config, study.generation.batch_size, d.validation_beams, source, target) if d.validations else 0
    )
    if method.on_policy:
        writes = max(writes, _writes(student.config, pairs, 1, source, target))
    settings = [
        f"distillation.batch_size ({d.batch_size}; raise distillation.gradient_accumulation_steps by as much)",
        _source(study),
    ]
    if writes > kept + read + logits:
        settings.insert(0, f"generation.batch_size ({study.generation.batch_size})")
    elif not d.gradient_checkpointing:
        settings.append("or set distillation.gradient_checkpointing=true")
    # Number of processes that share this memory.
    here = 1 if torch.cuda.is_available() else int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    return Need(here * (_base() + held + max(kept + read + logits, writes)), f"training {run.name}", tuple(settings))


def _beams(prepared: Prepared) -> int:
    if prepared.study.generation.num_beams:
        return prepared.study.generation.num_beams
    try:
        return GenerationConfig.from_pretrained(prepared.teacher_folder).num_beams or 1
    except OSError:  # the checkpoint has no generation config
        return 1


def _source(study: Study) -> str:
    return f"corpus.max_source_tokens ({study.corpus.max_source_tokens})"
