"""Artefacts on disk: written whole or not at all, and reused only for what they were made from."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill_utils.errors import UserError

#: Beside (or inside) every artefact: the fingerprint of what it was made from.
KEY_FILE = "made_from.json"


@contextmanager
def whole_folder(folder: Path, key: str) -> Iterator[Path]:
    """Write into a temporary sibling that takes ``folder``'s place only when everything succeeded.

    ``key`` is the fingerprint of what the content depends on; see :func:`is_current`.
    """
    with _mendable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield temporary
            write_json(temporary / KEY_FILE, {"key": key})
            temporary.chmod(0o755)
            if folder.exists():  # moved aside in one step, so that no half-deleted folder can pass for a finished one
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
                folder.rename(old / folder.name)
                temporary.rename(folder)
                shutil.rmtree(old)
            else:
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write to a temporary sibling that is synced and renamed to ``path`` on success."""
    with _mendable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, data: object) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text("utf-8"))


def is_current(folder: Path, key: str) -> bool:
    """Whether ``folder`` was finished, and from the things that ``key`` stands for."""
    try:
        return read_json(folder / KEY_FILE) == {"key": key}
    except (OSError, ValueError):
        return False


@contextmanager
def _mendable(path: Path) -> Iterator[None]:
    """A full disk or a folder that cannot be written is the user's to mend: say so in one line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"the disk is full: {path} could not be written; free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"{path} cannot be written ({error.strerror}); make its folder writable") from error
        raise
