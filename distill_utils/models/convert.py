"""Convert a checkpoint whose weights are PyTorch's pickles, as many older ones on the Hub, to safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from distill_utils.models.checkpoint import check_complete, check_files, load_model
from distill_utils.system.artefacts import read_json, whole_folder, write_json
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint
from distill_utils.system.hub import fetch_pickles, is_hub_id

#: One file, or the shards of a larger model.
WEIGHTS = "pytorch_model*.bin"
#: Configuration and tokenizer, which are copied.
OTHER_FILES = ("*.json", "*.txt", "*.model")


def convert(source: str, folder: Path) -> Path:
    """Write a checkpoint's weights to a new folder as safetensors, and copy its configuration and tokenizer.

    The pickles are read with ``weights_only=True``, which builds tensors alone and runs no code of theirs.

    Args:
        source: a folder, or an id on the Hub (owner/name).

    Raises:
        UserError: if there are no such weights, they hold anything but tensors, or they do not fit their config.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists; give a new folder")
    original = Path(source) if not is_hub_id(source) else fetch_pickles(source, WEIGHTS)
    files = sorted(original.glob(WEIGHTS))
    if not files:
        raise UserError(f"there is no {WEIGHTS} in {source}; safetensors need no conversion")
    check_files(original)
    try:
        config = AutoConfig.from_pretrained(original, trust_remote_code=False)
    except Exception as error:  # the library may raise anything for invalid contents
        raise UserError(f"the checkpoint in {source} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise UserError(f"{source} is a {config.model_type}, which is not an encoder–decoder")
    state = {name: tensor for file in files for name, tensor in _tensors(file).items()}
    kind = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)]
    dtype = next(iter(state.values())).dtype
    model, loading = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    check_complete(original, model, loading)
    with whole_folder(folder, fingerprint("converted", source)) as temporary:
        model.save_pretrained(temporary)
        for file in temporary.glob("*.json"):  # of the model as it was created; those of the original have all settings
            if "index" not in file.name:
                file.unlink()
        for file in (file for pattern in OTHER_FILES for file in original.glob(pattern) if "index" not in file.name):
            shutil.copy(file, temporary)
        given = read_json(temporary / "config.json")
        write_json(temporary / "config.json", given | {"dtype": str(dtype).removeprefix("torch.")})
        load_model(temporary)  # raises if the weights do not fit the config
    return folder


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises various errors for invalid contents
        why = f"it is damaged, or holds more than tensors ({' '.join(str(error).split())[:120]})"
        raise UserError(f"{file} is not loaded: {why}") from None
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()) or not found:
        raise UserError(f"{file} is not loaded: it is no table of tensors")
    return found
