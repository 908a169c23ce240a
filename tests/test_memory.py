"""Freed memory stays with the process while a training runs, and only then."""

import gc
import sys
from pathlib import Path

import pytest
import torch

from distill_utils import memory
from distill_utils.memory import freed_memory_kept

LINUX = sys.platform.startswith("linux") and memory._glibc() is not None
SIZE = 256 << 20


def resident() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def use_and_free(size: int = SIZE) -> None:
    torch.ones(size // 4)
    gc.collect()


@pytest.mark.skipif(not LINUX, reason="the C library is not glibc")
def test_freed_memory_stays_within_and_goes_back_afterwards():
    before = resident()
    use_and_free()
    assert resident() - before < SIZE / 2
    with freed_memory_kept():
        use_and_free()
        assert resident() - before > SIZE / 2
        held = resident()
        use_and_free(SIZE - 65536)  # finds room in what the first one left, less what small things took of it
        assert resident() - held < SIZE / 2
    assert resident() - before < SIZE / 2
    use_and_free()
    assert resident() - before < SIZE / 2


@pytest.mark.skipif(not LINUX, reason="the C library is not glibc")
def test_it_goes_back_after_an_error_too():
    before = resident()
    with pytest.raises(KeyError), freed_memory_kept():
        use_and_free()
        raise KeyError
    assert resident() - before < SIZE / 2


@pytest.mark.skipif(not LINUX, reason="the C library is not glibc")
def test_one_within_another_ends_with_the_outer_one():
    before = resident()
    with freed_memory_kept():
        with freed_memory_kept():
            pass
        use_and_free()
        assert resident() - before > SIZE / 2
    assert resident() - before < SIZE / 2


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with freed_memory_kept():
        assert memory._glibc() is None
