"""Read the documents of ``distill summarize`` from text files, JSONL files or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from distill_utils.data.files import KINDS, Number, ending, json_lines, json_values, unpacked
from distill_utils.system.errors import UserError

COLUMN = "document"
STANDARD_INPUT = "standard input"
JSONL = (".jsonl", ".ndjson")


def is_jsonl(name: str) -> bool:
    return ending(Path(name)) in JSONL


def check_files(names: Sequence[str], column: str | None = None) -> None:
    """Raise UserError if a file cannot be opened, has another format or has no columns, before a model is loaded."""
    for name in names:
        if column and not is_jsonl(name):
            raise UserError(f"--column {column} names the text in .jsonl files; {name} is not a .jsonl file")
        kind = ending(Path(name))
        if not is_jsonl(name) and (kind in KINDS or kind.startswith(".json")):
            raise UserError(
                f"{name} is neither a text nor .jsonl; write one document per line as .jsonl, or one per text file"
            )
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
        with _readable(STANDARD_INPUT):
            yield from _documents(sys.stdin.buffer, STANDARD_INPUT, column or None)
    for name in names:
        with _opened(name) as file:
            yield from _documents(file, name, column or COLUMN if is_jsonl(name) else None)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{name or 'a file without a name'} cannot be read: {error.strerror}") from None


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if "\0" in name:
        raise UserError(f"{name!r} is not a valid file name")
    with _readable(name), unpacked(Path(name)) as file:
        yield file


def _documents(file: BinaryIO, name: str, column: str | None) -> Iterator[tuple[str, str]]:
    if column is None:
        try:
            text = file.read().decode("utf-8-sig")  # some editors write a byte order mark
        except UnicodeDecodeError:
            raise UserError(f"{name} is not UTF-8 text; save the file as UTF-8") from None
        if "\0" in text:
            raise UserError(f"{name} contains NUL bytes, so it is not UTF-8 text; save it as UTF-8")
        yield name, text
        return
    for place, row in json_lines(file, name):
        yield place, _text(json_values(place, row, [column.strip()]), place, column)


def _text(values: dict[str, object], place: str, column: str) -> str:
    if column.strip() not in values:
        raise UserError(
            f"{place} has no {column!r} (it has {', '.join(sorted(values)) or 'nothing'}); name the text's key with --column"
        )
    value = values[column.strip()]
    if value is None or value != value:  # NaN: a missing value
        return ""
    if not isinstance(value, str) or isinstance(value, Number):
        kind = {list: "a list", tuple: "an object"}.get(type(value), "a number or a truth value")
        raise UserError(f"{place} has {kind} instead of text in {column!r}")
    return value.replace("\0", " ").removeprefix("\ufeff")  # as in a corpus
