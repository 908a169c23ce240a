"""Load and check a summarizer's checkpoint, and identify it by a hash of its files."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Set
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

from distill_utils.models.decoding import check_generation, settle_generation, warn_once
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import read_json
from distill_utils.system.environment import device
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import files_hash
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

#: Where a config has the widths of its feed-forward layers: BART and its like, T5 and its like.
INNER_WIDTHS = ("encoder_ffn_dim", "decoder_ffn_dim", "d_ff")

#: Families whose generation fails in transformers 5.23 itself.
BROKEN = ("prophetnet",)
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
        if not hasattr(config, "vocab_size"):
            two = "which combines two models; use a single one such as BART"
            raise UserError(f"{source} is a {config.model_type}, {two}")
        if config.model_type in BROKEN:
            raise UserError(
                f"{source} is a {config.model_type}, which this transformers cannot run; use one such as BART"
            )
        check_generation(folder, config, positions(config, "decoder"))
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
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer in {folder} has no padding token; set pad_token in tokenizer_config.json")
    _cut_at_the_end(folder, tokenizer)
    settle_generation(folder, model, tokenizer)
    check_generation(folder, config, positions(config, "decoder"), model.generation_config.to_dict())
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


def _cut_at_the_end(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad and truncate on the right, whatever the tokenizer's file says: a summary does not depend on its batch."""
    if tokenizer.truncation_side != "right":
        warn_once(f"the tokenizer in {folder} truncates on the left, which is ignored: long documents lose their end")
    tokenizer.padding_side = tokenizer.truncation_side = "right"


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
    lengths = {
        "corpus.max_source_tokens": (study.corpus.max_source_tokens, "encoder"),
        "corpus.max_target_tokens": (study.corpus.max_target_tokens, "decoder"),
        "generation.max_new_tokens": (study.generation.max_new_tokens, "decoder"),
        "speed.tokens": (study.speed.tokens if study.speed.runtimes else None, "decoder"),
    }
    for key, (length, part) in lengths.items():
        most = positions(model.config, part)
        if most is not None and length is not None and length > most:
            raise UserError(f"setting {key!r} is {length}, but the model has {most} positions")


def for_inference(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """Freeze the model in place, in eval mode and in the precision of a training (fp32: its own), and return it."""
    return model.to(DTYPES.get(precision, model.dtype)).eval().requires_grad_(False)


def positions(config: PretrainedConfig, part: str) -> int | None:
    """Return the number of positions of ``encoder`` or ``decoder``, which LED names apart; None: any."""
    own = getattr(config, f"max_{part}_position_embeddings", None)
    return own or getattr(config, "max_position_embeddings", None)


def depth(config: PretrainedConfig) -> dict[str, int]:
    """Return the numbers of layers of ``encoder`` and ``decoder``; empty for a family whose config names them otherwise."""
    for names in DEPTHS:
        if all(hasattr(config, name) for name in names):
            return dict(zip(("encoder", "decoder"), (getattr(config, name) for name in names), strict=True))
    return {}


def with_shape(config: PretrainedConfig, encoder: int, decoder: int, width: int | None = None) -> PretrainedConfig:
    """Return a copy of a config with other numbers of layers and, if given, another width of the feed-forward layers."""
    config = copy.deepcopy(config)
    names = next(names for names in DEPTHS if all(hasattr(config, name) for name in names))
    for name, count in zip((*names, "num_hidden_layers"), (encoder, decoder, encoder), strict=True):
        setattr(config, name, count)
    for name in INNER_WIDTHS:
        if width is not None and hasattr(config, name):
            setattr(config, name, width)
    return config


def inner_width(config: PretrainedConfig) -> int | None:
    """Return the units of the narrowest feed-forward layer; None if the config has them under another name."""
    return min((getattr(config, name) for name in INNER_WIDTHS if hasattr(config, name)), default=None)


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
    return files_hash({file.name: file for file in files})[:16]


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """Return the precision of a checkpoint's stored weights."""
    config = read_json(folder / "config.json")
    return getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")  # new and old name


def size_bytes(folder: Path) -> int:
    """Return the size in bytes of a checkpoint's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
