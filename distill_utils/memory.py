"""Memory that a training step frees is kept for the next one: a context enters, fewer page faults leave."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
# mallopt(3): a threshold that was ever set no longer adjusts itself. These are where it ends in a process that has freed tensors
# of many sizes: the greatest that it takes by itself on 64 bits, and trimming at twice as much.
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it is open, glibc's ``malloc`` gives no memory back to the system; afterwards what is free goes back.

    By default every tensor of more than 32 MB is a mapping of its own: the system clears its pages when it is made and takes
    them back when it is freed, at every step again. Where the C library is another one nothing changes.
    """
    library = _glibc()
    if library is None:
        yield
        return
    for parameter, value in KEPT.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
