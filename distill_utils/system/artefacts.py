"""Write files and folders atomically, and reuse them while their inputs and contents are unchanged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from distill_utils.system.errors import UserError

#: The manifest in every artefact: the fingerprint of what it was made from, and the checksum of each file.
KEY_FILE = "made_from.json"
#: The key of a record's checksum.
CHECKSUM = "checksum"
#: Temporary siblings are called ``.name.abcdefgh.unfinished``.
UNFINISHED = ".unfinished"
TEMPORARY = f".*.????????{UNFINISHED}"
#: Seconds after the last write to a temporary from which it is stale. Several processes may write below one folder
#: under different locks or none (`distill train` beside `distill run`); none takes as long between two writes.
STALE = 3600


@contextmanager
def whole_folder(folder: Path, key: str) -> Iterator[Path]:
    """Write into a temporary sibling that replaces ``folder`` when everything succeeded.

    Compute before entering: a temporary that is not written to for :data:`STALE` seconds may be removed.

    Args:
        key: the fingerprint of what the content depends on; see :func:`is_current`.
    """
    with user_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(folder.parent.glob(TEMPORARY))
        with _temporary(folder) as temporary:
            yield temporary
            write_manifest(temporary, key)
            temporary.chmod(0o755)
            if folder.exists():  # moved aside in one step, so that no half-deleted folder can pass for a finished one
                with _temporary(folder) as aside:
                    folder.rename(aside / folder.name)
                    try:
                        temporary.rename(folder)
                    except BaseException:
                        (aside / folder.name).rename(folder)
                        raise
            else:
                temporary.rename(folder)
            _sync(folder.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write to a temporary file that is synced and renamed to ``path`` on success."""
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as folder:
            temporary = folder / path.name
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside ``path``, and remove what is left of it."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(temporaries: Iterable[Path]) -> None:
    """Remove the temporaries that killed processes left."""
    for folder in temporaries:
        try:
            written = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
        except OSError:  # somebody is at work in it
            continue
        if time.time() - written > STALE:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, data: object) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text("utf-8"))


def write_record(path: Path, data: dict) -> None:
    """Write a JSON file with a checksum of its content."""
    write_json(path, {**data, CHECKSUM: _checksum(data)})


def read_record(path: Path, fix: str) -> dict:
    """Read what :func:`write_record` wrote. Raises UserError if the content does not match its checksum.

    Args:
        fix: how to fix a damaged record, in words.
    """
    try:
        data = read_json(path)
        if CHECKSUM not in data:
            raise UserError(f"{path} has no checksum: an earlier version wrote it, or it was changed since; {fix}")
        if data.pop(CHECKSUM) == _checksum(data):
            return data
    except (ValueError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is damaged (it is not as it was written); {fix}")


def _checksum(data: dict) -> str:
    plain = json.loads(json.dumps(data))  # as it will be read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, key: str) -> None:
    """Sync every file, and write what the folder was made from and the checksums of its files."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / KEY_FILE):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(folder / KEY_FILE, {"key": key, "files": files})


def write_key(folder: Path, key: str) -> None:
    """Write a manifest without checksums: what a folder is made from whose files still change."""
    write_json(folder / KEY_FILE, {"key": key, "files": {}})


def is_current(folder: Path, key: str) -> bool:
    """Whether ``folder`` is complete, was made from what ``key`` stands for, and is undamaged.

    Damage is reported on standard error; the caller regenerates the folder.
    """
    try:
        made = read_json(folder / KEY_FILE)
        if made["key"] != key or "files" not in made:
            return False
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        _say_damaged(folder, KEY_FILE)
        return False
    return intact(folder)


def intact(folder: Path) -> bool:
    """Whether a folder's files match its manifest; damage is reported on standard error."""
    damaged = _damage(folder)
    if damaged:
        _say_damaged(folder, damaged)
    return not damaged


def _damage(folder: Path) -> str | None:
    """The first file that does not match the manifest."""
    try:
        made = read_json(folder / KEY_FILE)["files"].items()
    except (OSError, ValueError, KeyError, TypeError):
        return KEY_FILE
    for name, digest in made:
        path = folder / name
        try:
            stat = path.stat()
            if _digest(path, stat.st_size, stat.st_mtime_ns) != digest:
                return name
        except OSError:
            return name
    return None


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Read once in a process: a teacher's outputs may be many."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _say_damaged(folder: Path, name: str) -> None:
    print(
        f"WARNING: {folder} is damaged ({name} is not as it was written); it is not used", file=sys.stderr, flush=True
    )


def _sync(folder: Path) -> None:
    """Sync a folder's entries where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Raise UserError, one line, if the disk is full or ``path`` cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"the disk is full: {path} could not be written; free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"{path} cannot be written ({error.strerror}); make its folder writable") from error
        raise
