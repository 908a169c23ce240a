"""Memory on the CPU and the GPU: what a training step frees is kept for the next one, and what some work takes is measured."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
# mallopt(3): a threshold that was ever set no longer adjusts itself. These are where it ends in a process that has freed tensors
# of many sizes: the greatest that it takes by itself on 64 bits, and trimming at twice as much.
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}

_open = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it is open, glibc's ``malloc`` gives no memory back to the system; afterwards what is free goes back.

    By default every tensor of more than 32 MB is a mapping of its own: the system clears its pages when it is made and takes
    them back when it is freed, at every step again. Where the C library is another one nothing changes. Several may be open at
    once: the last one that is closed gives back.
    """
    global _open
    library = _glibc()
    if library is None:
        yield
        return
    _open += 1
    for parameter, value in KEPT.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        _open -= 1
        if not _open:
            for parameter, value in USUAL.items():
                library.mallopt(parameter, value)
            library.malloc_trim(0)


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
    if library := _glibc():
        library.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
