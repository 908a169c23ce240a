"""Hash plain data and source files, to decide whether an output can be reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from distill_utils.system.paths import PACKAGE


def fingerprint(*parts: object) -> str:
    """Return a short hash of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def files_hash(files: Mapping[str, Path]) -> str:
    """Return the SHA-256 of files' names and contents. A file is read once per process: a full-size teacher has 1.6 GB."""
    return _files_hash(tuple((n, f, f.stat().st_size, f.stat().st_mtime_ns) for n, f in files.items()))


@cache
def _files_hash(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for name, path, *_ in files:
        total.update(name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@cache
def code_fingerprint(*modules: str) -> str:
    """Hash the sources of modules and sub-packages (``data``, ``metrics.rouge``); of all by default."""
    paths = [path for name in modules or ("",) for path in _sources(PACKAGE / name.replace(".", "/"))]
    return fingerprint(*[(path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")) for path in paths])


def _sources(place: Path) -> list[Path]:
    file = place.with_suffix(".py")
    found = [file] if file.is_file() else sorted(place.rglob("*.py"))
    if not found:  # a name that hashes to nothing would never change
        raise FileNotFoundError(place)
    return found
