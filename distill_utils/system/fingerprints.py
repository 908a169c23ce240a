"""Hash plain data and source files, to decide whether an output can be reused."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from distill_utils.system.paths import PACKAGE


def fingerprint(*parts: object) -> str:
    """Return a short hash of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


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
