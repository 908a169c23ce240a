"""Measure the peak memory of a computation, on the CPU or the GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch


def peak_memory(work: Callable[[], object]) -> int | None:
    """Do ``work``; bytes that it needs beyond what is held already, None where the system does not say."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        work()
        return None
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc keeps freed memory, which would be used again and not be counted
        library.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024
