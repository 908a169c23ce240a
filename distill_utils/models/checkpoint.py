"""Load and check a summarizer's checkpoint, and identify it by a hash of its weights."""

from __future__ import annotations

import hashlib
import math
import re
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
from transformers.utils import logging

from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import read_json
from distill_utils.system.environment import device
from distill_utils.system.errors import UserError
from distill_utils.system.hub import fetch_checkpoint, is_hub_id
from distill_utils.system.paths import located

logging.disable_progress_bar()  # a bar per loaded checkpoint says nothing in a study that loads dozens


LAYER = re.compile(r"^(.*\b(encoder|decoder)\.layers\.)(\d+)(\..*)$")
#: Files of which a tokenizer has one; without any, the library makes an empty tokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


def load_model(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A summarizer in float32, on the accelerator where there is one, and its tokenizer; safetensors only.

    Args:
        source: a folder, or an id on the Hub (owner/name).

    Raises UserError if there is none or it is no encoder–decoder.
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
        source: a folder, absolute or relative to the working folder or the workspace; or an id.
        revision, record, setting: see :func:`distill_utils.system.hub.fetch_checkpoint`.

    Raises UserError if there is none.
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
