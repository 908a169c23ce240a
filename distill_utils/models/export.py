"""Convert a checkpoint to a CTranslate2 folder with tokenizer and generation config."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data import reading
from distill_utils.models.backends import (
    EXPORT_FILE,
    SHORTLIST_FILE,
    ctranslate2_arguments,
    import_ctranslate2,
    is_export,
)
from distill_utils.models.checkpoint import checkpoint_folder, checkpoint_hash, depth, load_model, positions
from distill_utils.models.shortlist import Shortlist
from distill_utils.system.artefacts import KEY_FILE, read_json, whole_folder, write_json, write_text
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint

#: Precision of the stored weights, and CTranslate2's name for it. CTranslate2 converts what the hardware lacks.
QUANTIZATIONS = {"float32": "float32", "float16": "float16", "int8": "int8_float32"}
#: The possible files of an export.
FILES = {
    "model.bin", "config.json", "shared_vocabulary.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", EXPORT_FILE, SHORTLIST_FILE, KEY_FILE,
}  # fmt: skip
#: Families (``model_type``) that the tests compare with PyTorch, with traits that new configs omit and the conversion needs.
FAMILIES = {
    "bart": {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False, "static_position_embeddings": False},
    "mbart": {"normalize_before": True, "normalize_embedding": True, "add_final_layer_norm": True, "static_position_embeddings": False},
    "pegasus": {"normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True, "static_position_embeddings": True},
    "t5": {},
}  # fmt: skip


def export(
    source: str | Path,
    folder: Path,
    quantization: str = "float32",
    *,
    summaries: Sequence[str] = (),
    shortlist: int = 0,
) -> Path:
    """Convert a checkpoint.

    Args:
        source: a checkpoint's folder, or its id on the Hub.
        folder: new, empty, or an earlier export, which is replaced.
        quantization: one of :data:`QUANTIZATIONS`; int8 applies to the matrices, the rest is float32.
        shortlist: number of the most frequent tokens of ``summaries`` to which decoding is restricted, besides the
            document's own; 0: no restriction. See :class:`Shortlist`.

    Raises:
        UserError: if CTranslate2 is not installed or does not support the model, or the folder has other files.
    """
    import_ctranslate2()
    if quantization not in QUANTIZATIONS:
        raise UserError(f"there is no quantization {quantization!r}; there are: {', '.join(QUANTIZATIONS)}")
    if is_export(source):
        raise UserError(f"{source} is already an export; give its original checkpoint")
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and (is_export(folder) or not any(folder.iterdir()))):
        raise UserError(f"{folder} exists and is not an export; give a new folder")
    if folder == Path.cwd():
        raise UserError(f"{folder} is the working folder; give a new one")
    if folder.is_dir() and (strange := sorted({file.name for file in folder.iterdir()} - FILES)):
        raise UserError(f"{folder} has an export and {strange[0]}, which would be lost; give a new folder")
    original = checkpoint_folder(source)
    model, tokenizer = load_model(original)
    if model.config.model_type not in FAMILIES:
        raise UserError(f"{source} is a {model.config.model_type}: only {', '.join(FAMILIES)} can be exported")
    if not getattr(model.config, "scale_decoder_outputs", True):
        raise UserError(
            f"{source} does not scale its decoder's outputs, as T5 1.1 and Flan-T5; CTranslate2's conversion would"
        )
    arguments = ctranslate2_arguments(model.generation_config.to_dict())
    allowed = Shortlist.of(tokenizer, summaries, shortlist) if shortlist else None
    if allowed and (moving := _moving(allowed, [arguments["first_token"], *arguments["end_token"]])):
        raise UserError(
            f"{source} forces or ends with {tokenizer.convert_ids_to_tokens(moving)}, which CTranslate2 loses with a shortlist; export it without one"
        )
    with whole_folder(folder, export_key(original, quantization, shortlist, allowed)) as temporary:
        _convert(original, temporary, quantization, _changed_tokenizer(tokenizer, model.config.vocab_size, original))
        _set_start(temporary, tokenizer, model)
        tokenizer.save_pretrained(temporary)
        model.generation_config.save_pretrained(temporary)
        if allowed:
            write_text(temporary / SHORTLIST_FILE, allowed.ctranslate2_map())
        write_json(
            temporary / EXPORT_FILE,
            {
                "checkpoint": checkpoint_hash(original),
                "quantization": quantization,
                "shortlist": shortlist,
                "max_source_tokens": positions(model.config, "encoder"),
                **{f"{part}_layers": layers for part, layers in depth(model.config).items()},
                reading.NAME: asdict(reading.recorded_reading(model.config)),
                "ctranslate2": metadata.version("ctranslate2"),
            },
        )
    return folder


def _moving(allowed: Shortlist, tokens: Sequence[int | None]) -> int | None:
    """Return the first token whose place among the candidates depends on the document.

    CTranslate2 4.8 keeps the places of its first call for the first and the end token, and would write others later.
    """
    fixed = set(allowed.fixed)
    return next((token for token in tokens if token is not None and not fixed.issuperset(range(token + 1))), None)


def _set_start(folder: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Let decoding start as in transformers; the conversion sets no start for mBART, or the tokenizer's."""
    start = tokenizer.convert_ids_to_tokens(model.generation_config.decoder_start_token_id)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"decoder_start_token": start})


def export_key(checkpoint: Path, quantization: str, shortlist: int = 0, allowed: Shortlist | None = None) -> str:
    """Return the fingerprint of an export's inputs."""
    import_ctranslate2()
    return fingerprint(
        checkpoint_hash(checkpoint),
        quantization,
        metadata.version("ctranslate2"),
        shortlist,
        allowed.fixed if allowed else [],
        code_fingerprint("models.decoding", "models.export", "models.shortlist"),
    )


def _changed_tokenizer(tokenizer: PreTrainedTokenizerBase, size: int, original: Path) -> PreTrainedTokenizerBase | None:
    """Return a tokenizer with a name for every row of embeddings that were padded to ``size``.

    If they were not, return the tokenizer itself if its file is SentencePiece's, which the conversion does not read, or None.
    """
    if len(tokenizer) >= size:
        return None if (original / "tokenizer.json").is_file() or not list(original.glob("*.model")) else tokenizer
    filled = copy.deepcopy(tokenizer)
    filled.add_tokens([f"<spare_{i}>" for i in range(len(tokenizer), size)])
    return filled


def _convert(original: Path, target: Path, quantization: str, filled: PreTrainedTokenizerBase | None) -> None:
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as linked:
        if filled:
            filled.save_pretrained(linked)
        for file in original.iterdir():
            if (Path(linked) / file.name).exists():
                continue
            if file.name != "config.json" and file.suffix in (".safetensors", ".json", ".txt"):
                (Path(linked) / file.name).symlink_to(file.resolve())
        config = read_json(original / "config.json")
        write_json(Path(linked) / "config.json", FAMILIES[config["model_type"]] | config)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # hide the converter's progress bars
                converter = TransformersConverter(linked, low_cpu_mem_usage=True)
                converter.convert(str(target), quantization=QUANTIZATIONS[quantization], force=True)
        except ValueError as error:
            raise UserError(f"CTranslate2 cannot convert {original}: {' '.join(str(error).split())[:200]}") from None
