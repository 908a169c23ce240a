"""Start worker processes that end with the process that started them."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")


def worker_pool(workers: int, start: str | None = None) -> ProcessPoolExecutor:
    """Return a pool whose workers end when this process does, even if it is killed.

    Args:
        start: ``spawn`` for workers that use PyTorch: its threads and its GPUs do not survive a fork.
    """
    context = get_context(start)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with, initargs=(os.getpid(),))


def apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process of its own, whose memory ends with it."""
    with worker_pool(1, "spawn") as pool:
        return pool.submit(work, *args, **kwargs).result()


def _end_with(parent: int) -> None:
    # A forked worker must not free what its parent left in cycles: a CTranslate2 model would wait for threads it has not got.
    gc.freeze()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
