"""One progress bar for everything that takes more than a few seconds, wherever somebody waits for it.

In JupyterLab that is the notebook, in a shell the terminal. A notebook that is executed headless has a terminal, too: that of whoever
runs papermill; nobody reads a bar in the executed copy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from IPython import get_ipython
from tqdm.auto import tqdm as of_notebook_or_terminal
from tqdm.std import tqdm

#: Seconds between two states of a bar in a terminal, and in a file that a terminal's output is kept in.
TERMINAL, LOG = 1.0, 30.0


def interactive() -> bool:
    """Whether a person runs the cell: JupyterLab tells the kernel which cell it executes, papermill does not."""
    kernel = _kernel()
    return kernel is not None and "cellId" in (kernel.get_parent("shell").get("metadata") or {})


def progress(
    items: Iterable | None = None, *, desc: str, total: int | None = None, unit: str = "it", initial: int = 0
) -> tqdm:
    """Iterate with a bar that shows rate and time left; without ``items`` the caller updates and closes it.

    Args:
        initial: how many were done before.
    """
    settings = {
        "iterable": items, "desc": desc, "total": total, "unit": f" {unit}", "initial": initial, "leave": False,
        "dynamic_ncols": True, "mininterval": TERMINAL,
    }  # fmt: skip
    if _kernel() is None or interactive():
        return of_notebook_or_terminal(**settings)
    terminal = _terminal()
    if terminal is None:
        return tqdm(**settings, disable=True)
    if terminal.isatty():  # below the bar of papermill's cells
        return tqdm(**settings, file=terminal, position=1)
    return tqdm(**settings | {"mininterval": LOG}, maxinterval=LOG, file=terminal, delay=LOG)


def _kernel():
    return getattr(get_ipython(), "kernel", None)


def _terminal() -> TextIO | None:
    """The standard error that the kernel was started with; the kernel keeps it and sends what a cell writes elsewhere."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w")
    except (OSError, ValueError):  # the kernel kept none
        return None
