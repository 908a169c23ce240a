"""Load and check a summarizer's checkpoint, and identify it by a hash of its files."""

from __future__ import annotations

import copy
import hashlib
import math
import re
import sys
from collections.abc import Mapping, Set
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
from transformers.utils import logging

from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import read_json
from distill_utils.system.environment import device
from distill_utils.system.errors import UserError
from distill_utils.system.hub import fetch_checkpoint, is_hub_id
from distill_utils.system.paths import located

logging.disable_progress_bar()  # a study loads dozens of checkpoints

MIXED = "the weights and the config are of different models: copy both again"
#: Half precisions of a training, and their types.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: A tensor of one layer: beginning, part, layer, rest. T5 calls its layers blocks.
LAYER = re.compile(r"^(.*\b(encoder|decoder)\.(?:layers|block)\.)(\d+)(\..*)$")
#: Where a config has its numbers of encoder and decoder layers: BART and its like, T5 and its like.
DEPTHS = (("encoder_layers", "decoder_layers"), ("num_layers", "num_decoder_layers"))

#: Generation settings that are taken over from a checkpoint.
KEPT_SETTINGS = {
    "num_beams", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "early_stopping", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "repetition_penalty", "encoder_repetition_penalty", "bad_words_ids",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "sequence_bias",
    "exponential_decay_length_penalty", "remove_invalid_values", "renormalize_logits", "pad_token_id", "bos_token_id",
    "eos_token_id", "decoder_start_token_id", "_from_model_config", "transformers_version",
}  # fmt: skip
#: Settings without an effect unless tokens are sampled, and beginnings of those that do not change the summary.
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
HARMLESS = (
    "output_", "return_dict", "use_cache", "cache_", "compile", "disable_compile", "assistant_", "num_assistant", "low_memory",
    "is_assistant", "max_matching", "target_lookbehind", "do_sample",
)  # fmt: skip
#: A tokenizer has one of these files; without any, transformers creates an empty tokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")


def load_model(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder–decoder from safetensors, in float32 on the accelerator if there is one, and its tokenizer.

    Args:
        source: a folder, or an id on the Hub (owner/name).

    Raises UserError if the checkpoint does not exist, is incomplete or inconsistent, or is not an encoder–decoder.
    """
    folder = checkpoint_folder(source)
    _check_weights(folder)
    check_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not config.is_encoder_decoder or type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise UserError(f"{source} is a {config.model_type}, which is not an encoder–decoder; use one such as BART")
        model, loading = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
        _check_sentencepiece(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except SafetensorError as error:
        raise UserError(f"the weights in {folder} are damaged or incomplete ({error}); copy them again") from None
    except UserError:
        raise
    except Exception as error:  # the libraries may raise anything for invalid contents
        raise UserError(f"the checkpoint in {folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    if loading["mismatched_keys"]:
        name, found, wanted = min(loading["mismatched_keys"])
        shapes = f"{name} of shape {tuple(found)}, but its config.json requires {tuple(wanted)}"
        raise UserError(f"the checkpoint in {folder} has {shapes}; {MIXED}")
    check_complete(folder, model, loading)
    beyond = [
        name
        for name in sorted(loading["unexpected_keys"])
        if (match := LAYER.match(name)) and int(match[3]) >= depth(config).get(match[2], math.inf)
    ]
    if beyond:
        raise UserError(f"the weights in {folder} have more layers than its config.json, such as {beyond[0]}; {MIXED}")
    if len(tokenizer) < 256 and not [file for pattern in VOCABULARIES for file in folder.glob(pattern)]:
        add = "add its files with the tokenizer's save_pretrained"
        raise UserError(f"the checkpoint in {folder} has no tokenizer ({', '.join(VOCABULARIES)}); {add}")
    if not hasattr(config, "vocab_size"):
        two = "which combines two models; use a single one such as BART"
        raise UserError(f"{source} is a {config.model_type}, {two}")
    _check_generation(folder, model)
    _settle_generation(folder, model)
    # The published fine-tuned BARTs have no embedding of <mask>, their tokenizers' last token.
    if len(tokenizer) > config.vocab_size + 1:
        sizes = f"has {len(tokenizer):,} tokens in its tokenizer, but {config.vocab_size:,} in its model"
        raise UserError(f"{source} {sizes}; copy the model's own tokenizer")
    if len(tokenizer) > config.vocab_size:
        tokenizer.split_special_tokens = True  # tokenize a literal "<mask>" as text
    return model.to(device()).eval(), tokenizer


def check_complete(folder: Path, model: PreTrainedModel, loading: Mapping[str, Set[str]]) -> None:
    """Raise UserError if weights lacked tensors, which transformers initializes at random; ``loading``: its loading info."""
    # Computed position embeddings, which Pegasus' published checkpoints lack.
    fixed = {f"{name}.weight" for name, part in model.named_modules() if "Sinusoidal" in type(part).__name__}
    if missing := sorted(loading["missing_keys"] - fixed):
        lack = f"lack {len(missing)} tensors that its config.json requires, such as {missing[0]}"
        raise UserError(f"the weights in {folder} {lack}; a file is missing, or {MIXED}")


def _check_sentencepiece(folder: Path) -> None:
    """Raise UserError if the vocabulary is SentencePiece's and nothing here can read it."""
    models = [file.name for file in folder.glob("*.model")]
    if models and not (folder / "tokenizer.json").is_file() and not find_spec("sentencepiece"):
        raise UserError(
            f"the tokenizer in {folder} is SentencePiece's ({models[0]}), without a tokenizer.json; to read it: pip install sentencepiece protobuf"
        )


def _check_weights(folder: Path) -> None:
    if not list(folder.glob("*.safetensors")):
        command = (
            f"if you trust it, convert it first: distill convert {folder} DIR"
            if list(folder.glob("*.bin"))
            else "copy it again"
        )
        raise UserError(
            f"the checkpoint in {folder} has no *.safetensors file, and other formats can run code; {command}"
        )


def check_files(folder: Path) -> None:
    """Raise UserError if a file is invalid, which transformers would replace by defaults."""
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        try:
            content = read_json(folder / name) if (folder / name).is_file() else {}
        except (ValueError, RecursionError) as error:
            raise UserError(f"{folder / name} is not JSON ({error}); copy it again") from None
        if not isinstance(content, dict):
            raise UserError(f"{folder / name} is not a JSON object; copy it again")
        kind = content.get("model_type") if name == "config.json" else "bart"
        if kind not in CONFIG_MAPPING:
            own = "; its own code (auto_map) is never run" if "auto_map" in content else ""
            raise UserError(
                f"the model in {folder} is of the type {kind!r} (model_type in config.json), which transformers does not have{own}; "
                "use another type, such as bart"
            )


def _check_generation(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError for generation settings that would fail only during generation."""
    config, settings = model.config, model.generation_config
    most = {"num_beams": math.inf, "num_beam_groups": 1}
    most |= dict.fromkeys(("max_length", "max_new_tokens"), getattr(config, "max_position_embeddings", math.inf))
    tokens = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id")
    most |= dict.fromkeys(tokens, config.vocab_size - 1)
    for name, limit in most.items():
        value, least = getattr(settings, name, None), 0 if name in tokens else 1
        given = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(number, int) and least <= number <= limit for number in given):
            valid = f"{least} to {limit:,}" if limit < math.inf else f"{least} or more"
            raise UserError(f"the generation config in {folder} has {name} = {value!r}; it should be {valid}")


def _settle_generation(folder: Path, model: PreTrainedModel) -> None:
    """Keep the generation settings that greedy or beam search knows, and say which others would change the summaries.

    A study's summaries are deterministic, are written with the key-value cache and are tensors of token ids.
    """
    settings = model.generation_config
    others = [name for name in settings.to_dict() if name not in KEPT_SETTINGS]
    given = [name for name in others if getattr(settings, name) not in (None, False, 0, 1, [], {})]
    told = sorted(n for n in given if not n.startswith(HARMLESS) and (settings.do_sample or n not in SAMPLING))
    if settings.do_sample:
        told.insert(0, "do_sample")
    for name in others:
        setattr(settings, name, None)
    settings.do_sample, settings.use_cache = False, True
    if told:
        _say_ignored(folder, ", ".join(told))


@cache
def _say_ignored(folder: Path, names: str) -> None:
    message = f"WARNING: the generation config in {folder} has {names}, which is ignored: summaries are written by greedy or beam search"
    print(message, file=sys.stderr, flush=True)


def checkpoint_folder(source: str | Path, revision: str = "", record: Path | None = None, setting: str = "") -> Path:
    """Return the local folder of a checkpoint, downloading it from the Hub if ``source`` is an id.

    Args:
        source: a folder, absolute or relative to the working folder or the workspace; or an id.
        revision, record, setting: see :func:`distill_utils.system.hub.fetch_checkpoint`.

    Raises UserError if there is no checkpoint.
    """
    if not str(source):
        raise UserError("the checkpoint's name is empty; give its folder, or its id on the Hub (owner/name)")
    for folder in (Path(source), located(source)):
        if (folder / "config.json").is_file():
            return folder
    if is_hub_id(str(source)):
        return fetch_checkpoint(str(source), revision, record, setting)
    neither = "it is neither a folder nor an id on the Hub (owner/name)"
    why = "it has no config.json" if Path(source).is_dir() else neither
    raise UserError(f"there is no checkpoint in {source}: {why}")


def check_lengths(study: Study, model: PreTrainedModel) -> None:
    """Raise UserError if a length of the study exceeds the model's positions."""
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


def for_inference(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """Freeze the model in place, in eval mode and in the precision of a training (fp32: its own), and return it."""
    return model.to(DTYPES.get(precision, model.dtype)).eval().requires_grad_(False)


def depth(config: PretrainedConfig) -> dict[str, int]:
    """Return the numbers of layers of ``encoder`` and ``decoder``; empty for a family whose config names them otherwise."""
    for names in DEPTHS:
        if all(hasattr(config, name) for name in names):
            return dict(zip(("encoder", "decoder"), (getattr(config, name) for name in names), strict=True))
    return {}


def with_depth(config: PretrainedConfig, encoder: int, decoder: int) -> PretrainedConfig:
    """Return a copy of a config with other numbers of layers."""
    config = copy.deepcopy(config)
    names = next(names for names in DEPTHS if all(hasattr(config, name) for name in names))
    for name, count in zip((*names, "num_hidden_layers"), (encoder, decoder, encoder), strict=True):
        setattr(config, name, count)
    return config


def parameter_count(model: PreTrainedModel) -> int:
    """Count the parameters, tied weights once."""
    return sum(p.numel() for p in model.parameters())


def checkpoint_hash(folder: Path) -> str:
    """Return the first 16 digits of the SHA-256 of a checkpoint's weights, configuration and tokenizer."""
    names = (
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    )  # fmt: skip
    files = sorted(
        [
            *folder.glob("*.safetensors"),
            *folder.glob("*.model"),
            *(folder / name for name in names if (folder / name).is_file()),
        ]
    )
    return _hash_files(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash files, once per process: a full-size teacher has 1.6 GB."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """Return the precision of a checkpoint's stored weights."""
    config = read_json(folder / "config.json")
    return getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")  # new and old name


def size_bytes(folder: Path) -> int:
    """Return the size in bytes of a checkpoint's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
