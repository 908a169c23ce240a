"""Peak memory is what a computation needs beyond what is held, freed again or not."""

from pathlib import Path

import pytest
import torch

from distill_utils.system.memory import peak_memory


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peak memory")
def test_peak_memory_sees_what_was_given_back():
    peak = peak_memory(lambda: torch.ones(50_000_000).sum())
    assert 190e6 < peak < 260e6
