"""Distribute work between the processes of ``torchrun``; only the main process writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from distill_utils.system.artefacts import is_current, read_json, whole_folder, write_json
from distill_utils.system.errors import UserError

Item = TypeVar("Item")

#: Timeout of collective operations: the main process may build a corpus or download a teacher meanwhile.
PATIENCE = timedelta(hours=12)


def world_size() -> int:
    """Return the number of processes, which torchrun sets in the environment."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def is_main() -> bool:
    """Return whether this process is the one that writes and prints."""
    return rank() == 0


def _state() -> PartialState:
    # The Trainer shares this state: the first call decides the backend.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process first; the others follow and find its output on disk.

    All processes must enter it, and it must not be nested: use it in commands, not in what they call.
    """
    if world_size() == 1:
        yield
        return
    with _state().main_process_first():
        yield


def wait_for_all() -> None:
    if world_size() > 1:
        _state().wait_for_everyone()


def as_main_says(value: Item) -> Item:
    """Return the main process's value in every process."""
    if world_size() == 1:
        return value
    _state()
    return broadcast_object_list([value])[0]


def my_share(items: list[Item]) -> list[Item]:
    """Return every ``world_size``-th item, starting at this process's rank."""
    return items[rank() :: world_size()]


def gather(items: list[Item]) -> list[Item]:
    """Return the items of all processes in every process, ordered by rank."""
    if world_size() == 1:
        return items
    _state()
    return gather_object(items)


def reuse(path: Path, key: str, compute: Callable[[], dict]) -> dict:
    """Read a JSON file in a folder of its own, and write it first where it is not current.

    All processes compute, since they share the work, and the main one writes.
    """
    if not as_main_says(is_current(path.parent, key)):
        content = compute()
        if is_main():
            with whole_folder(path.parent, key) as folder:
                write_json(folder / path.name, content)
        wait_for_all()
    return read_json(path)


def share_of_batch(batch_size: int, setting: str) -> int:
    """Return the batch size per process for a global batch size.

    Raises UserError if it is not a multiple of the number of processes.
    """
    if batch_size % world_size():
        raise UserError(f"setting {setting!r}: {batch_size} is not a multiple of the {world_size()} processes")
    return batch_size // world_size()
