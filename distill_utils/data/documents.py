"""Read the documents of ``distill summarize`` from text files, JSONL files or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from distill_utils.system.errors import UserError

COLUMN = "document"
STANDARD_INPUT = "standard input"


def is_jsonl(name: str) -> bool:
    return Path(name).suffix == ".jsonl"


def check_files(names: Sequence[str], column: str | None = None) -> None:
    """Raise UserError if a file cannot be opened or has no columns, before a model is loaded."""
    for name in names:
        if column and not is_jsonl(name):
            raise UserError(f"--column {column} names the text in .jsonl files; {name} is not a .jsonl file")
        with _opened(name):
            pass


def read_documents(names: Sequence[str], column: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the place and text of every document, reading lazily.

    Args:
        names: text files with one document each, and .jsonl files with one per line; empty: standard input.
        column: the key of the text in JSONL, by default ``document``. If given, standard input is JSONL.

    Raises UserError if a file cannot be read or a line has no such text.
    """
    if not names:
        yield from _documents(sys.stdin.buffer, STANDARD_INPUT, column if column else None)
    for name in names:
        with _opened(name) as file:
            yield from _documents(file, name, column or COLUMN if is_jsonl(name) else None)


def _opened(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UserError(f"{name or 'a file without a name'} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise UserError(f"{name!r} is not a valid file name") from None


def _documents(file: BinaryIO, name: str, column: str | None) -> Iterator[tuple[str, str]]:
    try:
        if column is None:
            text = _decoded(file.read(), name)
            if "\0" in text:
                raise UserError(f"{name} contains NUL bytes, so it is not UTF-8 text; save it as UTF-8")
            yield name, text
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{name}, line {number},"
                yield place, _text(_decoded(line, place), place, column)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError:
        raise UserError(f"{place} is not UTF-8 text; save the file as UTF-8") from None


def _text(line: str, place: str, column: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{place} is not JSON; a line of a .jsonl file is one object") from None
    if not isinstance(row, dict) or column not in row:
        has = f"it has {', '.join(sorted(row)) or 'nothing'}" if isinstance(row, dict) else "it is not an object"
        raise UserError(f"{place} has no {column!r} ({has}); name the text's key with --column")
    if not isinstance(row[column], str | None):
        raise UserError(f"{place} has {type(row[column]).__name__} instead of text in {column!r}")
    text = (row[column] or "").replace("\0", " ")  # as in a corpus
    return text.encode("utf-8", "replace").decode("utf-8")  # without lone surrogates
