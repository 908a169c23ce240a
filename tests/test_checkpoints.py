"""What a training goes on from comes back bit by bit, and nothing else can be written."""

import math
import random

import numpy as np
import pytest
import torch

from distill_utils.checkpoints import load_states, random_states, save_states, set_random_states


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return (
            type(a) is type(b)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and bytes(memoryview_of(a)) == bytes(memoryview_of(b))
        )
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def memoryview_of(value):
    return value.contiguous().reshape(-1).view(torch.uint8).numpy() if isinstance(value, torch.Tensor) else value


def test_states_come_back_as_they_were(tmp_path):
    shared = torch.arange(6.0)
    states = {
        0: {"step": torch.tensor(3.0), "half": torch.randn(2, 3).bfloat16(), "turned": torch.randn(2, 3).T, "none": torch.zeros(0, 2)},
        "shared": [shared, shared[2:]], "tuple": (1, (2.5, None), [True, "x"]), "array": np.arange(4, dtype=np.uint32),
        "numbers": [0.1 + 0.2, 1e-300, math.inf, math.nan, 2**70, -0.0], "empty": {}, None: [], ("a", 1): {},
    }  # fmt: skip
    save_states(tmp_path / "states.safetensors", states)
    assert same(load_states(tmp_path / "states.safetensors"), states)


def test_what_is_neither_numbers_nor_text_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a function cannot be saved"):
        save_states(tmp_path / "states.safetensors", {"f": [same]})
    assert not list(tmp_path.iterdir())


def test_random_numbers_go_on(tmp_path):
    def drawn():
        return random.random(), np.random.standard_normal(), torch.rand(3).tolist()

    np.random.standard_normal()  # leaves another one behind, which is a part of the state
    save_states(tmp_path / "random.safetensors", random_states())
    first = drawn()
    assert drawn() != first
    set_random_states(load_states(tmp_path / "random.safetensors"))
    assert drawn() == first
