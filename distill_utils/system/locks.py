"""Lock a folder for one process at a time, and name a lock's owner."""

from __future__ import annotations

import fnmatch
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from distill_utils.system.artefacts import TEMPORARY, read_json, remove_stale, user_errors, write_json
from distill_utils.system.errors import UserError

#: Files in a locked folder: the lock and the description of its owner.
LOCK_FILE, OWNER_FILE = ".lock", ".lock_owner.json"


@contextmanager
def locked(folder: Path, what: str, wait: float = 5) -> Iterator[None]:
    """Lock ``folder`` for this process, and remove stale temporaries below it. A process that dies releases its lock.

    Args:
        what: what this process does, for the error that other processes raise.
        wait: seconds to wait for the lock: a killed process takes a moment to end.

    Raises UserError if another process owns the lock; the message names it.
    """
    owner = folder / OWNER_FILE
    with user_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise UserError(f"{folder} is in use{_described(owner)}; wait until that is done, or stop it") from None
    try:
        for place, names, _ in os.walk(folder):
            remove_stale(Path(place) / name for name in fnmatch.filter(names, TEMPORARY))
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(owner, {"what": what, "process": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _described(owner: Path) -> str:
    try:
        who = read_json(owner)
        return f": {who['what']}, process {who['process']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError):  # not written yet
        return ""
