"""What a training needs to go on, besides weights: optimizer, learning rate and random numbers as safetensors, which run no code when read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

STRUCTURE = "structure"


def save_states(path: Path, states: object) -> None:
    """Write dicts, lists and tuples of tensors, arrays, numbers, strings and None, nested at will.

    Tensors and arrays stand in the file bit by bit, all else as JSON in its header; floats come back exactly.

    Raises:
        TypeError: something else is among them.
    """
    tensors: dict[str, Tensor] = {}

    def told(value: object) -> object:
        if isinstance(value, Tensor | np.ndarray):
            name, array = str(len(tensors)), isinstance(value, np.ndarray)
            tensors[name] = torch.from_numpy(value).clone() if array else value.detach().cpu().contiguous().clone()
            return {"array" if array else "tensor": name}
        if isinstance(value, dict):  # whose keys may be numbers, as an optimizer's are
            return {"dict": [[told(key), told(item)] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [told(item) for item in value]}
        if isinstance(value, list):
            return [told(item) for item in value]
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise TypeError(f"a {type(value).__name__} cannot be saved as a training's state")

    structure = json.dumps(told(states))
    save_file(tensors, path, metadata={STRUCTURE: structure})


def load_states(path: Path) -> object:
    """What :func:`save_states` wrote; tensors on the CPU."""
    with safe_open(path, "pt") as file:

        def meant(value: object) -> object:
            if isinstance(value, list):
                return [meant(item) for item in value]
            if not isinstance(value, dict):
                return value
            ((kind, content),) = value.items()
            if kind == "dict":
                return {meant(key): meant(item) for key, item in content}
            if kind == "tuple":
                return tuple(meant(item) for item in content)
            tensor = file.get_tensor(content)
            return tensor.numpy() if kind == "array" else tensor

        return meant(json.loads(file.metadata()[STRUCTURE]))


def random_states() -> dict[str, object]:
    """Where the generators of Python, NumPy, PyTorch and, where there is one, this process's accelerator stand."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        states[torch.accelerator.current_accelerator().type] = torch.get_device_module().get_rng_state()
    return states


def set_random_states(states: dict[str, object]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if torch.accelerator.is_available() and (own := torch.accelerator.current_accelerator().type) in states:
        torch.get_device_module().set_rng_state(states[own])
