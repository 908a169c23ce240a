"""One progress bar for everything that takes more than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, desc: str, total: int | None = None, unit: str = "it") -> Iterable[Item]:
    """Iterate with a bar that shows rate and time left, in a terminal and in a notebook alike."""
    return tqdm(items, desc=desc, total=total, unit=f" {unit}", mininterval=1.0, leave=False, dynamic_ncols=True)
