"""Artefacts on disk: written whole or not at all, reused only for what they were made from and as long as they are as they were written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from distill_utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: Inside every artefact: the fingerprint of what it was made from, and the checksum of each of its files.
KEY_FILE = "made_from.json"
#: Inside a record: what its content has to give.
CHECKSUM = "checksum"
#: Inside a folder that one process at a time may work in, and who that is.
LOCK_FILE, HOLDER_FILE = ".lock", ".holder.json"
#: What a folder is called in which something is written until it is finished: ``.name.abcdefgh@host.unfinished``. Locks on folders may be
#: a machine's own, so that only what has this machine's name can be a leftover.
UNFINISHED = f"@{socket.gethostname()}.unfinished"
LEFTOVER = re.compile(rf"\.(.+)\.[a-z0-9_]{{8}}{re.escape(UNFINISHED)}")


@contextmanager
def whole_folder(folder: Path, key: str) -> Iterator[Path]:
    """Write into a temporary sibling that takes ``folder``'s place only when everything succeeded.

    ``key`` is the fingerprint of what the content depends on; see :func:`is_current`.
    """
    with _mendable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder.parent.iterdir())
        with _unfinished(folder) as temporary:
            yield temporary
            seal(temporary, key)
            temporary.chmod(0o755)
            if folder.exists():  # moved aside in one step, so that no half-deleted folder can pass for a finished one
                with _unfinished(folder) as aside:
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
    with _mendable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(path) as folder:
            temporary = folder / path.name
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write in; as long as its process lives nobody takes it for a leftover."""
    lock = None
    while lock is None:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):  # taken for a leftover before it was locked
            continue
        except OSError:  # a file system without locks: there nothing is taken for a leftover
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder, whichever process of this machine asks for it next.

    Raises:
        OSError: somebody holds it, it is gone, or it cannot be locked here.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks on folders")
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()  # still there
    except OSError:
        os.close(opened)
        raise
    return opened


def clear_leftovers(folders: Iterable[Path]) -> None:
    """Remove what processes that are dead were writing; what is complete, and only had to take its place, does so now."""
    for folder in folders:
        if not (made := LEFTOVER.fullmatch(folder.name)):
            continue
        try:
            lock = _lock(folder)
        except OSError:
            continue
        try:
            target, aside = folder.with_name(made[1]), folder / made[1]
            if not target.exists() and aside.is_dir():  # killed while another was to take its place
                aside.rename(target)
            elif not target.exists() and (folder / KEY_FILE).is_file():
                clear_leftovers(list(folder.iterdir()))
                folder.chmod(0o755)
                folder.rename(target)
            shutil.rmtree(folder, ignore_errors=True)  # what is left of it
        except OSError:  # somebody else's, or somebody was faster
            continue
        finally:
            os.close(lock)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_json(path: Path, data: object) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text("utf-8"))


def write_record(path: Path, data: dict) -> None:
    """A JSON file that stands alone and is read again, with a checksum of its content."""
    write_json(path, {**data, CHECKSUM: _checksum(data)})


def read_record(path: Path, mend: str) -> dict:
    """What :func:`write_record` wrote.

    Args:
        mend: what to do where it is not as it was written, in words.

    Raises:
        UserError: it is not.
    """
    try:
        data = read_json(path)
        if CHECKSUM not in data:
            raise UserError(f"{path} has no checksum: an earlier version wrote it, or it was changed since; {mend}")
        if data.pop(CHECKSUM) == _checksum(data):
            return data
    except (ValueError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is damaged (it is not as it was written); {mend}")


def _checksum(data: dict) -> str:
    plain = json.loads(json.dumps(data))  # as it will be read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def seal(folder: Path, key: str) -> None:
    """Send every file to the disk, and write what the folder was made from and what its files contain."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / KEY_FILE):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(folder / KEY_FILE, {"key": key, "files": files})


def mark(folder: Path, key: str) -> None:
    """Write what a folder is made from whose files are still to change."""
    write_json(folder / KEY_FILE, {"key": key, "files": {}})


def is_current(folder: Path, key: str) -> bool:
    """Whether ``folder`` was finished, from the things that ``key`` stands for, and is as it was written.

    One that is damaged is named on standard error; the caller makes it anew.
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
    """Whether a folder's files are as they were written; damage is named on standard error."""
    harmed = _damage(folder)
    if harmed:
        _say_damaged(folder, harmed)
    return not harmed


def _damage(folder: Path) -> str | None:
    """The first file of a sealed folder that is not as it was written."""
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


@contextmanager
def held(folder: Path, what: str, wait: float = 5) -> Iterator[None]:
    """Nobody else holds ``folder`` meanwhile. A holder that dies, however it dies, holds it no longer.

    Args:
        what: what the holder does, in words.
        wait: seconds that a holder is given to finish: a process that was killed takes a moment to end.

    Raises:
        UserError: somebody else holds it; the message says who.
    """
    holder = folder / HOLDER_FILE
    with _mendable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise UserError(f"{folder} is in use{_told(holder)}; wait until that is done, or stop it") from None
    try:
        for place, names, _ in os.walk(folder, topdown=False):
            clear_leftovers(Path(place) / name for name in names)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(holder, {"what": what, "process": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _told(holder: Path) -> str:
    try:
        who = read_json(holder)
        return f": {who['what']}, process {who['process']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError):  # it has just begun
        return ""


def _sync(folder: Path) -> None:
    """Send a folder's names to the disk, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


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
