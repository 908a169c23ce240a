"""Show a progress bar in the notebook (JupyterLab) or the terminal (commands, notebooks run by papermill)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

from IPython import get_ipython
from tqdm.auto import tqdm as of_notebook_or_terminal
from tqdm.std import tqdm

#: Seconds between updates of a bar in a terminal and in a log file.
TERMINAL, LOG = 1.0, 30.0


def interactive() -> bool:
    """Return whether a person runs the cell: JupyterLab sends the kernel the cell's id, papermill does not."""
    kernel = _kernel()
    return kernel is not None and "cellId" in (kernel.get_parent("shell").get("metadata") or {})


def progress(
    items: Iterable | None = None, *, desc: str, total: int | None = None, unit: str = "it", initial: int = 0
) -> tqdm:
    """Iterate with a bar that shows rate and remaining time; without ``items`` the caller updates and closes it.

    Args:
        initial: number of items already done.
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
    if terminal.isatty():  # below papermill's own bar
        return tqdm(**settings, file=terminal, position=1)
    return tqdm(**settings | {"mininterval": LOG}, maxinterval=LOG, file=terminal, delay=LOG)


def say_below_bars(line: str) -> None:
    """Print a line to the terminal that the command, or the notebook's process, was started from."""
    terminal = sys.stderr if _kernel() is None else _terminal()
    if terminal is not None:
        with suppress(OSError, ValueError):  # a terminal that is gone stops no run
            tqdm.write(line, file=terminal)
            terminal.flush()


def _kernel():
    return getattr(get_ipython(), "kernel", None)


def _terminal() -> TextIO | None:
    """Return the standard error that the kernel was started with; the kernel redirects what cells write."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w")
    except (OSError, ValueError):  # the kernel has none
        return None
