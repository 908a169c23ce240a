"""Teachers and students: a checkpoint's folder or id enters, a loaded model or a smaller copy of it leaves."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
from transformers.utils import logging

from distill_utils.artefacts import read_json
from distill_utils.bart import random_teacher
from distill_utils.environment import device
from distill_utils.errors import UserError
from distill_utils.generation import set_length
from distill_utils.hub import fetch_checkpoint, is_hub_id
from distill_utils.losses import Projected
from distill_utils.study import Study, fingerprint, is_shape, located, parse_shape

logging.disable_progress_bar()  # a bar per loaded checkpoint says nothing in a study that loads dozens

LAYER = re.compile(r"^(.*\b(encoder|decoder)\.layers\.)(\d+)(\..*)$")

#: Files of which a tokenizer has one; without any, the library makes an empty tokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


def load_model(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A summarizer in float32, on the accelerator where there is one, and its tokenizer; safetensors only.

    Args:
        source: a folder, or an id on the Hub (owner/name).

    Raises:
        UserError: there is no such checkpoint, or it is no encoder–decoder.
    """
    folder = checkpoint_folder(source)
    _check_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not config.is_encoder_decoder or type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise UserError(
                f"{source} is a {config.model_type}, which is no encoder–decoder; a summarizer here reads with an encoder and "
                "writes with a decoder, as BART does"
            )
        model, loading = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except SafetensorError as error:
        raise UserError(f"the weights in {folder} are damaged or incomplete ({error}); copy them again") from None
    except UserError:
        raise
    except Exception as error:  # a library may raise anything over a checkpoint's contents
        raise UserError(f"the checkpoint in {folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    if loading["mismatched_keys"]:
        name, found, wanted = min(loading["mismatched_keys"])
        raise UserError(
            f"the checkpoint in {folder} has {name} of shape {tuple(found)}, and its config.json says {tuple(wanted)}; one of the two is "
            "another model's"
        )
    # Positions that are computed, as Pegasus' are; its published checkpoints lack them.
    fixed = {f"{name}.weight" for name, part in model.named_modules() if "Sinusoidal" in type(part).__name__}
    if missing := sorted(loading["missing_keys"] - fixed):  # the library would fill them with random numbers
        raise UserError(
            f"the weights in {folder} lack {len(missing)} tensors that its config.json asks for, {missing[0]} for one; one of the two is "
            "another model's, or a part of the weights was not copied"
        )
    beyond = [
        name
        for name in sorted(loading["unexpected_keys"])
        if (match := LAYER.match(name)) and int(match[3]) >= getattr(config, f"{match[2]}_layers", math.inf)
    ]
    if beyond:
        raise UserError(
            f"the weights in {folder} have more layers than its config.json, {beyond[0]} for one; one of the two is another model's"
        )
    if len(tokenizer) < 256 and not [file for pattern in VOCABULARIES for file in folder.glob(pattern)]:
        raise UserError(
            f"the checkpoint in {folder} has no tokenizer ({', '.join(VOCABULARIES)}); add its files, which save_pretrained of the "
            "tokenizer writes"
        )
    if not hasattr(config, "vocab_size"):
        raise UserError(
            f"{source} is a {config.model_type}, which is put together from two models; a summarizer here is one, as BART is"
        )
    _check_generation(folder, model)
    # The published fine-tuned BARTs have no row for <mask>, their tokenizers' last token.
    if len(tokenizer) > config.vocab_size + 1:
        raise UserError(
            f"{source} has {len(tokenizer):,} tokens in its tokenizer, but its model knows {config.vocab_size:,}; one of the two is another's"
        )
    if len(tokenizer) > config.vocab_size:
        tokenizer.split_special_tokens = True  # a text that says "<mask>" is spelt out, not looked up
    return model.to(device()).eval(), tokenizer


def _check_files(folder: Path) -> None:
    """Refuse a folder that lacks a part of a checkpoint, or has one that is no JSON: the library makes do with others."""
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"the checkpoint in {folder} has no *.safetensors file; other formats are not loaded, since they can run code: where you trust "
            "it, load it with transformers and save_pretrained it to a new folder"
        )
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        try:
            content = read_json(folder / name) if (folder / name).is_file() else {}
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{folder / name} is no JSON ({error}): it is damaged or incomplete; copy it again"
            ) from None
        if not isinstance(content, dict):
            raise UserError(f"{folder / name} is no JSON object: it is not a checkpoint's; copy it again")
        kind = content.get("model_type") if name == "config.json" else "bart"
        if kind not in CONFIG_MAPPING:
            own = " and is code of its own (auto_map), which is never run" if "auto_map" in content else ""
            raise UserError(
                f"the model in {folder} is of the type {kind!r} (model_type in config.json), which transformers does not have{own}; "
                "take one that it has, such as a bart"
            )


def _check_generation(folder: Path, model: PreTrainedModel) -> None:
    """Refuse generation settings that fail only while a summary is written."""
    config, settings = model.config, model.generation_config
    most = {"num_beams": math.inf, "num_beam_groups": 1}
    most |= dict.fromkeys(("max_length", "max_new_tokens"), getattr(config, "max_position_embeddings", math.inf))
    tokens = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id")
    most |= dict.fromkeys(tokens, config.vocab_size - 1)
    for name, limit in most.items():
        value, least = getattr(settings, name, None), 0 if name in tokens else 1
        given = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(number, int) and least <= number <= limit for number in given):
            upper = f"to {limit:,}" if limit < math.inf else "or more"
            raise UserError(
                f"the generation config in {folder} has {name} = {value!r}; it takes {least} {upper}; set it there"
            )


def checkpoint_folder(source: str | Path, revision: str = "", record: Path | None = None, setting: str = "") -> Path:
    """The local folder of a checkpoint, which is fetched where ``source`` is an id on the Hub.

    Args:
        source: a folder, absolute or relative to the working folder or the repository; or an id.
        revision, record, setting: see :func:`distill_utils.hub.fetch_checkpoint`.

    Raises:
        UserError: there is none.
    """
    if not str(source):
        raise UserError("no checkpoint is named; give its folder, or its id on the Hub (owner/name)")
    for folder in (Path(source), located(source)):
        if (folder / "config.json").is_file():
            return folder
    if is_hub_id(str(source)):
        return fetch_checkpoint(str(source), revision, record, setting)
    what = (
        "it has no config.json"
        if Path(source).is_dir()
        else "there is no such folder, and no id on the Hub (owner/name)"
    )
    raise UserError(f"there is no checkpoint in {source}: {what}")


def teacher_folder(study: Study) -> Path:
    """The folder of the study's teacher: a local one, one fetched from the Hub, or one with random weights.

    Raises:
        UserError: it is not there.
    """
    if not study.teacher.path:
        return random_teacher(study)
    *preferred, last = study.teacher.path
    for path in preferred:
        if (located(path) / "config.json").is_file():
            return located(path)
    if not located(last).is_dir() and not is_hub_id(last):
        raise UserError(f"there is no teacher in {last}; make one: distill teacher {study.file}")
    return checkpoint_folder(last, study.teacher.revision, study.hub_record, "teacher.path")


def load_teacher(study: Study) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The study's teacher.

    Raises:
        UserError: it is not there, or cannot be this study's teacher.
    """
    model, tokenizer = load_model(teacher_folder(study))
    check_lengths(study, model)
    set_length(study, model)
    return model, tokenizer


def load_student(
    study: Study, student: str, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """A student before training: layers copied from the teacher, or a ready checkpoint.

    Args:
        student: ``"E-D"``, or a checkpoint's folder or id.

    Raises:
        UserError: a shape that the teacher cannot give, or a checkpoint that does not fit it.
    """
    if is_shape(student):
        return make_student(teacher, *parse_shape(student))
    ready, its_tokenizer = load_model(
        checkpoint_folder(student, record=study.hub_record, setting="distillation.student")
    )
    check_pair(teacher, tokenizer, ready, its_tokenizer, student)
    check_lengths(study, ready)
    ready.generation_config = copy.deepcopy(teacher.generation_config)  # all systems write by the same rules
    return ready


def check_pair(
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    student_tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> None:
    """Refuse a student whose tokens are not the teacher's: the soft loss compares them one by one.

    Raises:
        UserError: another vocabulary, or other special tokens.
    """
    ours, theirs = teacher.config.vocab_size, student.config.vocab_size
    if ours != theirs:
        raise UserError(
            f"{name} does not fit its teacher: its vocabulary has {theirs:,} entries, the teacher's {ours:,}"
        )
    vocabularies = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if vocabularies[0] != vocabularies[1]:
        first = min(
            t for t in vocabularies[0].keys() | vocabularies[1].keys() if len({v.get(t) for v in vocabularies}) > 1
        )
        raise UserError(
            f"{name} does not fit its teacher: their tokenizers number tokens differently, {first!r} for one"
        )
    for token in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
        theirs, ours = getattr(student.config, token), getattr(teacher.config, token)
        if theirs != ours:
            raise UserError(f"{name} does not fit its teacher: its {token} is {theirs}, the teacher's {ours}")


def check_hidden(teacher: PreTrainedModel, student: PreTrainedModel, name: str) -> None:
    """Refuse a student whose hidden states cannot be compared with its teacher's, layer by layer.

    Raises:
        UserError: it is wider, narrower or deeper.
    """
    ours, theirs = teacher.config, student.config
    if theirs.d_model != ours.d_model:
        raise UserError(f"{name} has states of width {theirs.d_model}, its teacher of {ours.d_model}: no method hidden")
    for part in ("encoder_layers", "decoder_layers"):
        if getattr(theirs, part) > getattr(ours, part):
            raise UserError(f"{name} has more {part.replace('_', ' ')} than its teacher: no method hidden")


def check_lengths(study: Study, model: PreTrainedModel) -> None:
    """Refuse texts longer than the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    lengths = {
        "corpus.max_source_tokens": study.corpus.max_source_tokens,
        "corpus.max_target_tokens": study.corpus.max_target_tokens,
        "generation.max_new_tokens": study.generation.max_new_tokens,
        "speed.tokens": study.speed.tokens if study.speed.runtimes else None,
    }
    for key, length in lengths.items():
        if positions is not None and length is not None and length > positions:
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


def supervised_layers(total: int, kept: int) -> list[int]:
    """Whose output each of a student's ``kept`` layers is to reproduce, of its teacher's ``total``.

    A copied layer stands for itself and for the dropped ones up to the next copied one: the last of them is the one
    whose output that next layer was made for. 12→6 gives 1 3 6 8 10 11.
    """
    return [layer - 1 for layer in spaced_layers(total, kept)[1:]] + [total - 1]


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


def random_weights(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape with the random weights that its kind begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            int(fingerprint("random weights", seed), 16) >> 1
        )  # the teacher may have begun from the seed itself
        fresh = type(model)(copy.deepcopy(model.config))
    fresh.generation_config = copy.deepcopy(model.generation_config)
    return fresh.to(model.device).eval()


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


def check_student(study: Study) -> None:
    """Refuse students that the study's teacher cannot have."""
    teacher, tokenizer = load_teacher(study)
    student, shapes = study.distillation.student, [*study.evidence.shapes, *study.evidence.longer_shapes]
    if is_shape(student):
        shapes.append(student)
    else:
        load_student(study, student, teacher, tokenizer)
    for shape in shapes:
        encoder, decoder = parse_shape(shape)
        _chosen(teacher, "encoder", encoder)
        _chosen(teacher, "decoder", decoder)


def freeze_encoder(model: PreTrainedModel) -> None:
    """Take the encoder and all embeddings, which both sides share, out of training."""
    model.get_encoder().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    model.get_decoder().embed_positions.requires_grad_(False)


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules have the same parameters, compared in the second one's precision."""
    ours, theirs = dict(module.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(p.to(theirs[n]), theirs[n]) for n, p in ours.items())


@contextmanager
def without_head(model: PreTrainedModel) -> Iterator[None]:
    """While it is open, the model's ``logits`` are what its head would make logits from: the last states.

    Swapping the head keeps whatever is wrapped around the model (DDP, compilation, autocast) in the call.
    """
    head, bias = model.get_output_embeddings(), getattr(model, "final_logits_bias", None)
    model.set_output_embeddings(torch.nn.Identity())
    if bias is not None:
        model.final_logits_bias = torch.zeros((), dtype=bias.dtype, device=bias.device)
    try:
        yield
    finally:
        model.set_output_embeddings(head)
        if bias is not None:
            model.final_logits_bias = bias


def projected(model: PreTrainedModel, states: torch.Tensor | None = None) -> Projected:
    """A model's last states with the projection that would make logits of them, or the projection alone."""
    head = model.get_output_embeddings()
    if head.bias is not None and head.bias.requires_grad:
        raise ValueError("a projection with a trainable bias is not supported: its gradient would be lost")
    biases = [b for b in (head.bias, getattr(model, "final_logits_bias", None)) if b is not None]
    return Projected(states, head.weight, sum(b.flatten() for b in biases) if biases else None)


def for_inference(model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
    """The model itself, frozen, in eval mode and, where it is wanted, in bfloat16 for good."""
    return model.to(torch.bfloat16 if bf16 else model.dtype).eval().requires_grad_(False)


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters, with tied weights counted once."""
    return sum(p.numel() for p in model.parameters())


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 over a checkpoint's weights, settings and tokenizer; the first 16 digits."""
    names = (
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    )  # fmt: skip
    files = sorted([*folder.glob("*.safetensors"), *(folder / name for name in names if (folder / name).is_file())])
    return _hash_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Read once in a process: a full-size teacher has 1.6 GB."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """The precision in which a checkpoint's weights are stored."""
    config = read_json(folder / "config.json")
    return getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")  # new and old name


def size_bytes(folder: Path) -> int:
    """Bytes on disk of a checkpoint's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
