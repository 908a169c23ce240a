"""Find the file and line of an error in a table, for a one-line message."""

from __future__ import annotations

import csv
import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
from datasets import Dataset
from datasets.exceptions import DatasetsError
from pyarrow import parquet

from distill_utils.data.splits import digest, normalized, split_of
from distill_utils.studies.settings import CorpusSettings
from distill_utils.system.errors import UserError, disk_is_full

READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),  # else the word "null" becomes empty
    ".parquet": ("parquet", {}),
}


@contextmanager
def readable_table(name: str, path: Path) -> Iterator[None]:
    """Raise the libraries' errors as one-line UserErrors that name the file, the line and the reason."""
    try:
        yield
    except StopIteration:
        raise UserError(f"{name} is empty; it needs rows with a document and a summary") from None
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # raised by datasets for invalid content
        cause = error.__cause__ or error
        if disk_is_full(str(cause)) or getattr(cause, "errno", None) in (errno.EROFS, errno.EACCES):
            raise cause from None  # the disk's fault, not the data's
        why = _fault(path) or f"{name} cannot be read: {' '.join(str(cause).split())[:300]}"
        if "column names don't match" in str(cause):
            why = f"{name} cannot be read: its files have different columns; give all of them the same"
        raise UserError(why) from error


def _fault(path: Path) -> str:
    """Return the first error in a file or in the files of a folder; empty if none is found."""
    for file in [path] if path.is_file() else (file for file in visible_files(path) if file.suffix in READERS):
        try:
            if file.suffix == ".parquet":
                parquet.read_metadata(file)
            elif not file.stat().st_size:
                return f"{file} is empty; it needs rows with a document and a summary"
            else:
                (_check_csv if file.suffix == ".csv" else _check_json)(file)
        except (pyarrow.ArrowException, OSError):
            return f"{file} cannot be read: it is not a complete Parquet file; copy or create it again"
        except UserError as error:
            return str(error)
    return ""


def visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, without hidden ones and those in hidden folders."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _lines(file: Path) -> Iterator[str]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{file}, line {number}, is not UTF-8 text; save the file as UTF-8") from None


def _check_json(file: Path) -> None:
    lines = _lines(file)
    if file.suffix == ".json" and (text := "".join(lines)).lstrip().startswith("["):  # one list of rows
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            line = f"line {error.lineno}, " if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{file} is not a valid JSON list: {line}{_json_fault(error)}; fix it there") from None
        return
    for number, line in enumerate(text.splitlines(True) if file.suffix == ".json" else lines, 1):
        place = f"{file}, line {number},"
        try:
            row = json.loads(line) if line.strip() else {}
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(f"{place} has a lone surrogate (\\ud800 to \\udfff); remove it") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON ({_json_fault(error)}); write one object per line") from None
        if not isinstance(row, dict):
            raise UserError(f'{place} is not an object; write one per line, such as {{"document": …, "summary": …}}')


def _json_fault(error: Exception) -> str:
    return f"character {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deep"


def _check_csv(file: Path) -> None:
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(_lines(file), strict=True)
    header, begins, count = [], 1, 0
    try:
        for row in rows:
            count += bool(row)
            if header and len(row) > len(header):
                fields = f"{len(row)} fields, but the header has {len(header)}"
                raise UserError(f"{file}, line {begins}, has {fields}; put texts with commas into double quotes")
            header, begins = header or row, rows.line_num + 1
    except csv.Error as error:
        why = f"a quoted text that starts there does not end correctly ({error}); double the quotes inside it"
        raise UserError(f"{file}, line {begins}: {why}") from None
    if count < 2:
        raise UserError(f"{file} has no rows below its header; it needs rows with a document and a summary")


def check_words(settings: CorpusSettings, pairs: Dataset) -> None:
    """Raise UserError if a column has no words, or the summaries are mostly not in Latin letters.

    This ROUGE counts words of a to z and digits only, so texts in other scripts would score 0.
    """
    for side in ("document", "summary"):
        texts = pairs[side][:1000]
        letters = [letter for text in texts for letter in text[:1000] if letter.isalpha()]
        if texts and not letters:
            column = getattr(settings, side)
            why = f"has no words (first row: {texts[0][:40]!r}); set corpus.{side} to a column of text"
            raise UserError(f"column {column!r} of {settings.path} {why}")
    if letters and sum(letter.isascii() for letter in letters) < len(letters) / 2:
        why = "are not written in Latin letters, the only ones that ROUGE counts here; use a corpus that is written in them"
        raise UserError(f"the summaries in {settings.path} {why}")


def warn_of_rows(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


def row_place(pairs: Dataset, chosen: Callable[[str], bool]) -> Dataset:
    """Return the pairs whose split by hash is chosen."""
    return pairs.select([i for i, summary in enumerate(pairs["summary"]) if chosen(split_of(summary))])


def sample_row(pairs: Dataset, limit: int) -> Dataset:
    """Return at most ``limit`` pairs, drawn by a hash, in their original order."""
    if not limit or len(pairs) <= limit:
        return pairs
    keys = [digest(f"{i}\0{normalized(s)}") for i, s in zip(pairs["id"], pairs["summary"], strict=True)]
    return pairs.select(sorted(sorted(range(len(pairs)), key=keys.__getitem__)[:limit]))
