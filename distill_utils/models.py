"""Teachers and students: a checkpoint enters, a loaded model or a smaller copy of it leaves."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from distill_utils.artefacts import read_json
from distill_utils.environment import device
from distill_utils.errors import UserError
from distill_utils.study import Study, parse_shape
from distill_utils.teacher import random_teacher

logging.disable_progress_bar()  # a bar per loaded checkpoint says nothing in a study that loads dozens

LAYER = re.compile(r"^(.*\b(encoder|decoder)\.layers\.)(\d+)(\..*)$")


def load_model(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A summarizer in float32, on the accelerator where there is one, and its tokenizer; safetensors only.

    Raises:
        UserError: there is no such folder or no such checkpoint in it.
    """
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no checkpoint in {folder}: it has no config.json")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"the checkpoint in {folder} has no *.safetensors file; other formats are not loaded")
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the checkpoint in {folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    return model.to(device()).eval(), tokenizer


def load_teacher(study: Study) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The study's teacher.

    Raises:
        UserError: it is not there.
    """
    if not study.teacher.path:
        random_teacher(study)
    if not study.teacher_folder.is_dir():
        raise UserError(f"there is no teacher in {study.teacher.path}; make one: distill teacher {study.name}")
    model, tokenizer = load_model(study.teacher_folder)
    check_lengths(study, model)
    return model, tokenizer


def check_lengths(study: Study, model: PreTrainedModel) -> None:
    """Refuse texts longer than the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    lengths = {
        "corpus.max_source_tokens": study.corpus.max_source_tokens,
        "corpus.max_target_tokens": study.corpus.max_target_tokens,
        "generation.max_new_tokens": study.generation.max_new_tokens,
    }
    for key, length in lengths.items():
        if positions is not None and length > positions:
            raise UserError(f"setting {key!r} is {length}, but the model has {positions} positions")


def spaced_layers(total: int, kept: int) -> list[int]:
    """Which ``kept`` of ``total`` layers to copy: first and last, and the rest evenly between.

    Layer i is ``i·(total−1)/(kept−1)`` rounded half up; a single layer is the first. It gives the
    published 12→6 (0 2 4 7 9 11) and 12→3 (0 6 11) of Shleifer & Rush 2020 (arXiv 2010.13002).
    """
    if not 1 <= kept <= total:
        raise UserError(f"a student can keep 1 to {total} of its teacher's {total} layers, not {kept}")
    if kept == 1:
        return [0]
    return [(2 * i * (total - 1) + (kept - 1)) // (2 * (kept - 1)) for i in range(kept)]


def make_student(
    teacher: PreTrainedModel, encoder_layers: int | Sequence[int], decoder_layers: int | Sequence[int]
) -> PreTrainedModel:
    """A smaller model of the teacher's kind whose weights are copies of the teacher's.

    Args:
        teacher: any BART-like model (its layers are named ``…encoder.layers.N.…``).
        encoder_layers, decoder_layers: how many to keep, spaced by :func:`spaced_layers`, or which.

    Returns:
        The student, in eval mode, with the teacher's embeddings and generation settings.

    Raises:
        UserError: more layers than the teacher has, or a teacher of another kind.
    """
    chosen = {
        part: _chosen(teacher, part, wanted)
        for part, wanted in (("encoder", encoder_layers), ("decoder", decoder_layers))
    }
    config = copy.deepcopy(teacher.config)
    config.encoder_layers = config.num_hidden_layers = len(chosen["encoder"])
    config.decoder_layers = len(chosen["decoder"])
    weights = {}
    for name, tensor in teacher.state_dict().items():
        if match := LAYER.match(name):
            prefix, part, layer, rest = match.groups()
            if int(layer) not in chosen[part]:
                continue
            name = f"{prefix}{chosen[part].index(int(layer))}{rest}"
        weights[name] = tensor.detach().clone()
    with torch.device("meta"):
        student = type(teacher)(config)
    student.load_state_dict(weights, assign=True)
    student.tie_weights()
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval()


def _chosen(teacher: PreTrainedModel, part: str, wanted: int | Sequence[int]) -> list[int]:
    total = getattr(teacher.config, f"{part}_layers", None)
    if total is None or not any(LAYER.match(name) for name, _ in teacher.named_parameters()):
        raise UserError(f"a student can be copied from BART-like models, not from {type(teacher).__name__}")
    if isinstance(wanted, int):
        return spaced_layers(total, wanted)
    layers = list(wanted)
    if not layers or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= total:
        raise UserError(f"{part} layers are given in rising order and lie in 0 to {total - 1}, not {layers}")
    return layers


def check_shape(study: Study) -> tuple[int, int]:
    """The student's (encoder, decoder) layers, which its teacher must be able to give."""
    encoder, decoder = parse_shape(study.distillation.student)
    teacher, _ = load_teacher(study)
    spaced_layers(teacher.config.encoder_layers, encoder)
    spaced_layers(teacher.config.decoder_layers, decoder)
    return encoder, decoder


def freeze_encoder(model: PreTrainedModel) -> None:
    """Take the encoder and all embeddings, which both sides share, out of training."""
    model.get_encoder().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    model.get_decoder().embed_positions.requires_grad_(False)


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters, with tied weights counted once."""
    return sum(p.numel() for p in model.parameters())


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 over a checkpoint's weights, settings and tokenizer; the first 16 digits."""
    digest = hashlib.sha256()
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    for path in sorted(
        [*folder.glob("*.safetensors"), *(folder / name for name in names if (folder / name).is_file())]
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """The precision in which a checkpoint's weights are stored."""
    return getattr(torch, read_json(folder / "config.json").get("dtype", "float32"))


def size_bytes(folder: Path) -> int:
    """Bytes on disk of a checkpoint's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
