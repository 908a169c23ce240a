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

#: The manifest in every artefact: the fingerprint of its inputs, and the checksum of each file.
KEY_FILE = "made_from.json"
#: The key of a record's checksum.
CHECKSUM = "checksum"
#: Temporary siblings are called ``.name.abcdefgh.unfinished``.
UNFINISHED = ".unfinished"
TEMPORARY = f".*.????????{UNFINISHED}"
#: Seconds after the last write from which a temporary is stale. Processes under other locks (`distill train`
#: beside `distill run`) may write below the same folder; none takes this long between two writes.
STALE = 3600


@contextmanager
def whole_folder(folder: Path, key: str) -> Iterator[Path]:
    """Write to a temporary sibling that replaces ``folder`` on success.

    Compute before entering: a temporary that is not written to for :data:`STALE` seconds may be removed.

    Args:
        key: the fingerprint of the content's inputs; see :func:`is_current`.
    """
    with user_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(folder.parent.glob(TEMPORARY))
        with _temporary(folder) as temporary:
            yield temporary
            write_manifest(temporary, key)
            temporary.chmod(0o755)
            if folder.exists():  # move it aside in one step: a half-deleted folder could pass for a complete one
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
    """Create a temporary folder beside ``path``, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(temporaries: Iterable[Path]) -> None:
    """Remove the temporaries left by killed processes."""
    for folder in temporaries:
        try:
            written = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
        except OSError:  # another process is writing to it
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
    """Write a JSON file that contains its own checksum."""
    write_json(path, {**data, CHECKSUM: _checksum(data)})


def read_record(path: Path, fix: str) -> dict:
    """Read a file of :func:`write_record`.

    Args:
        fix: the remedy that the error message gives.

    Raises:
        UserError: if the content does not match its checksum.
    """
    try:
        data = read_json(path)
        if CHECKSUM not in data:
            raise UserError(f"{path} has no checksum: an earlier version wrote it, or it was edited; {fix}")
        if data.pop(CHECKSUM) == _checksum(data):
            return data
    except (ValueError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is damaged (its content does not match its checksum); {fix}")


def _checksum(data: dict) -> str:
    plain = json.loads(json.dumps(data))  # as read back
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, key: str) -> None:
    """Sync every file, and write the folder's key and the checksums of its files."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / KEY_FILE):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(folder / KEY_FILE, {"key": key, "files": files})


def write_key(folder: Path, key: str) -> None:
    """Write a manifest without checksums, for a folder whose files still change."""
    write_json(folder / KEY_FILE, {"key": key, "files": {}})


def is_current(folder: Path, key: str) -> bool:
    """Return whether ``folder`` is complete, undamaged and made from ``key``'s inputs.

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
    """Return whether a folder's files match its manifest; damage is reported on standard error."""
    damaged = _damage(folder)
    if damaged:
        _say_damaged(folder, damaged)
    return not damaged


def _damage(folder: Path) -> str | None:
    """Return the first file that does not match the manifest."""
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
    """Hash a file, once per process: a teacher cache may have many."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _say_damaged(folder: Path, name: str) -> None:
    message = f"WARNING: {folder} is damaged ({name} does not match its checksum); it is not used"
    print(message, file=sys.stderr, flush=True)


def _sync(folder: Path) -> None:
    """Sync a folder's entries, where the system supports it."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Raise a one-line UserError if the disk is full or ``path`` cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"the disk is full: {path} could not be written; free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"{path} cannot be written ({error.strerror}); make its folder writable") from error
        raise
