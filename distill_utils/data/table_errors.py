"""Find the file, line and column of what is wrong with a table, for a one-line error."""

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


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),  # else the word "null" is no text
    ".parquet": ("parquet", {}),
}


@contextmanager
def readable_table(name: str, path: Path) -> Iterator[None]:
    """Say in one line which file of ``path`` cannot be read, which line of it, and why."""
    try:
        yield
    except StopIteration:
        raise UserError(f"{name} is empty; it needs rows with a document and a summary") from None
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # what datasets raises for bad content
        cause = error.__cause__ or error
        if disk_is_full(str(cause)) or getattr(cause, "errno", None) in (errno.EROFS, errno.EACCES):
            raise cause from None  # the disk's fault, not the data's
        why = _fault(path) or f"{name} cannot be read: {' '.join(str(cause).split())[:300]}"
        if "column names don't match" in str(cause):
            why = f"{name} cannot be read: its files have different columns; give all of them the same"
        raise UserError(why) from error


def _fault(path: Path) -> str:
    """The first thing that is wrong with a file, or with the files of a folder; empty where nothing is found."""
    for file in [path] if path.is_file() else _files(path):
        try:
            if file.suffix == ".parquet":
                parquet.read_metadata(file)
            elif not file.stat().st_size:
                return f"{file} is empty; it needs rows with a document and a summary"
            else:
                (_check_csv if file.suffix == ".csv" else _check_json)(file)
        except (pyarrow.ArrowException, OSError):
            return f"{file} cannot be read: it is no Parquet file, or only a part of one; copy or make it again"
        except UserError as error:
            return str(error)
    return ""


def _files(folder: Path) -> list[Path]:
    return [file for file in visible_files(folder) if file.suffix in READERS]


def visible_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not _hidden(p.relative_to(folder))]


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
            raise UserError(f"{file} is a list that is not JSON: {line}{_json_fault(error)}; mend it there") from None
        return
    for number, line in enumerate(text.splitlines(True) if file.suffix == ".json" else lines, 1):
        place = f"{file}, line {number},"
        try:
            row = json.loads(line) if line.strip() else {}
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(f"{place} has half a character (\\ud800 to \\udfff); take it out") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON ({_json_fault(error)}); each line holds one object") from None
        if not isinstance(row, dict):
            raise UserError(f'{place} is no object; each line is one, such as {{"document": …, "summary": …}}')


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
                raise UserError(
                    f"{file}, line {begins}, has {len(row)} fields and the header {len(header)}; put texts with commas into double quotes"
                )
            header, begins = header or row, rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{file}, line {begins}: a quoted text begins there that does not end well ({error}); double the quotes inside of it"
        ) from None
    if count < 2:
        raise UserError(f"{file} has no rows below its header; it needs some with a document and a summary")


def check_words(settings: CorpusSettings, pairs: Dataset) -> None:
    """Refuse columns of numbers and codes, and what ROUGE cannot count.

    ROUGE here counts words of a to z and digits; in another script everything would score nothing.
    """
    for side in ("document", "summary"):
        texts = pairs[side][:1000]
        letters = [letter for text in texts for letter in text[:1000] if letter.isalpha()]
        if texts and not letters:
            column = getattr(settings, side)
            raise UserError(
                f"column {column!r} of {settings.path} holds no words (first row: {texts[0][:40]!r}); set corpus.{side} to the column that does"
            )
    if letters and sum(letter.isascii() for letter in letters) < len(letters) / 2:
        raise UserError(
            f"the summaries in {settings.path} are not written in Latin letters, which is all that ROUGE counts here: every score would be 0"
        )


def warn_of_rows(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


def row_place(pairs: Dataset, chosen: Callable[[str], bool]) -> Dataset:
    """Those pairs whose split by hash is chosen."""
    return pairs.select([i for i, summary in enumerate(pairs["summary"]) if chosen(split_of(summary))])


def sample_row(pairs: Dataset, limit: int) -> Dataset:
    """At most ``limit`` pairs, drawn by a hash of the pair, in the order they came."""
    if not limit or len(pairs) <= limit:
        return pairs
    keys = [digest(f"{i}\0{normalized(s)}") for i, s in zip(pairs["id"], pairs["summary"], strict=True)]
    return pairs.select(sorted(sorted(range(len(pairs)), key=keys.__getitem__)[:limit]))
