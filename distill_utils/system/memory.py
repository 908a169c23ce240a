"""Measure the peak memory of a computation, on the CPU or the GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def process_peak() -> int:
    """Return the most memory that this process has had, in bytes; 0 where the system does not report it.

    ``getrusage`` would include what the process was before ``exec``: the memory of the process that started it.
    """
    return _status("VmHWM") if Path("/proc/self/status").exists() else 0


def give_back() -> None:
    """Return freed memory to the system: glibc keeps hundreds of megabytes after a training."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def peak_memory(work: Callable[[], object]) -> int | None:
    """Return the peak memory of ``work()`` in bytes above the current use; None if the system does not report it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        work()
        return None
    give_back()  # glibc reuses freed memory, which would then not be counted
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024
