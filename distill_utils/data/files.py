"""Read the rows of one local file as they stand in it: JSON, CSV or Parquet, also compressed."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from distill_utils.system.errors import UserError

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: Characters that stand for those after a backslash while a row is split; Unicode has no text with them.
ESCAPED = {'"': "\ufdd0", "\\": "\ufdd1"}
NULL = r"\N"  # a missing value, as MySQL and Hive write it

Rows = Iterator[dict[str, object]]


class Number(str):
    """A number in JSON, as it is written there."""


_parsed = partial(json.loads, object_pairs_hook=tuple, parse_int=Number, parse_float=Number)


class NoRows(UserError):
    """A file has no rows; among others, as Spark writes for an empty partition, it is passed over."""


def kind_of(file: Path) -> str:
    """Return the ending that tells a file's format, in lower case; empty if it is none of ``KINDS``."""
    kind = ending(file)
    packed = file.suffix.lower() in OPENERS
    return kind if kind in KINDS and not (packed and kind == ".parquet") else ""


def ending(file: Path) -> str:
    """Return the last ending of a file's name, before that of a compressed file, in lower case."""
    name = Path(file.name.lower())
    return (name.with_suffix("") if name.suffix in OPENERS else name).suffix


@contextmanager
def unpacked(file: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed as its ending says; raises UserError if it is damaged."""
    try:
        with OPENERS.get(file.suffix.lower(), open)(file, "rb") as opened:
            yield opened
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's fault
            raise
        raise UserError(f"{file} cannot be decompressed; copy or create it again") from None


def read_rows(file: Path, columns: Mapping[str, str]) -> Rows:
    """Yield the values of some columns, row by row; missing ones are None.

    No other column is read, no word is taken for a missing value, and spaces around a column's name do not count. Numbers
    in JSON are those that are written there.

    Args:
        columns: the file's name for each column to yield. All but ``id`` must be there.

    Raises:
        NoRows: if the file is empty.
        UserError: with the file and, for text, the line: if it is damaged or not UTF-8, if it lacks a column or
            has it twice, or if it is unclear where a row or a text of a CSV file ends.
    """
    if not file.stat().st_size:
        raise NoRows(f"{file} is empty; it needs rows with a document and a summary")
    kind = kind_of(file)
    if kind == ".parquet":
        yield from _parquet(file, columns)
    elif kind in (".csv", ".tsv"):
        yield from _csv(file, "\t" if kind == ".tsv" else ",", columns)
    else:
        yield from _json(file, columns)


def _check_columns(file: Path, names: Iterable[str], columns: Mapping[str, str]) -> None:
    found = list(names)
    for side, column in columns.items():
        if found.count(column) > 1:
            raise UserError(f"{file} has {found.count(column)} columns {column!r}; keep or rename one")
        if column not in found and side != "id":
            raise UserError(f"setting 'corpus.{side}' is {column!r}, but {file} has the columns: {', '.join(found)}")


def _lines(file: Path) -> Iterator[str]:
    with unpacked(file) as opened:
        yield from _decoded(opened, str(file))


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{name}, line {number}, is not UTF-8 text; save the file as UTF-8") from None


def _json(file: Path, columns: Mapping[str, str]) -> Rows:
    names: dict[str, None] = {}
    for place, row in _json_rows(file):
        values = json_values(place, row, columns.values())
        names |= dict.fromkeys(values)
        yield {side: values.get(column) for side, column in columns.items()}
    if not names:
        raise NoRows(f"{file} is empty; it needs rows with a document and a summary")
    _check_columns(file, names, columns)


def json_values(place: str, row: object, columns: Iterable[str]) -> dict[str, object]:
    """Return a row's values by their names without spaces around.

    Raises UserError if the row is not an object, or if one of ``columns`` is there twice or has a lone surrogate.
    """
    if not isinstance(row, tuple):
        such = ", ".join(f'"{column}": …' for column in columns if column != "id")
        raise UserError(f"{place} is not an object; write one per line, such as {{{such}}}")
    names = [name.strip() for name, _ in row]
    values = dict(zip(names, (value for _, value in row), strict=True))
    for column in columns:
        if names.count(column) > 1:
            raise UserError(f"{place} has {column!r} more than once; keep or rename one")
        if isinstance(values.get(column), str):
            check_characters(place, values[column])
    return values


def check_characters(place: str, text: str) -> None:
    """Raise UserError if a text has half a character."""
    if re.search("[\ud800-\udfff]", text):
        raise UserError(f"{place} has a lone surrogate (\\ud800 to \\udfff); remove it")


def _json_rows(file: Path) -> Iterator[tuple[str, object]]:
    """Yield the place and value of every row; an object is a tuple of its names and values."""
    if kind_of(file) == ".json":
        text = "".join(_lines(file))
        if text.lstrip().startswith("["):  # one list of rows
            try:
                rows = _parsed(text)
            except (ValueError, RecursionError) as error:
                line = f"line {error.lineno}, " if isinstance(error, json.JSONDecodeError) else ""
                raise UserError(f"{file} is not a valid JSON list: {line}{_json_fault(error)}; fix it there") from None
            yield from ((f"{file}, item {number},", row) for number, row in enumerate(rows, 1))
            return
    with unpacked(file) as opened:
        yield from json_lines(opened, str(file))


def json_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, object]]:
    """Yield the place and value of every line of JSON; an object is a tuple of its names and values.

    Raises UserError, with the line, if it is not JSON or not UTF-8.
    """
    for number, line in enumerate(_decoded(lines, name), 1):
        if line.strip():
            place = f"{name}, line {number},"
            yield place, json_value(place, line)


def json_value(place: str, line: str) -> object:
    """Return the value of a line of JSON; raises UserError if it is none."""
    try:
        return _parsed(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({_json_fault(error)}); write one object per line") from None


def _json_fault(error: Exception) -> str:
    return f"character {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deep"


def _parquet(file: Path, columns: Mapping[str, str]) -> Rows:
    import pyarrow  # not before: it takes a while, and distill summarize reads no such file
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            _check_columns(file, [name.strip() for name in names], columns)
            stored = {name.strip(): name for name in names}
            wanted = {side: stored[column] for side, column in columns.items() if column in stored}
            if not opened.metadata.num_rows:
                raise NoRows(f"{file} has no rows; it needs rows with a document and a summary")
            for batch in opened.iter_batches(1000, columns=list(dict.fromkeys(wanted.values()))):
                texts = {side: _column(file, batch[name], columns[side]) for side, name in wanted.items()}
                for i in range(len(batch)):
                    yield {side: texts[side][i] if side in texts else None for side in columns}
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None or isinstance(error, pyarrow.ArrowMemoryError):
            raise
        raise UserError(f"{file} cannot be read: it is not a complete Parquet file; copy or create it again") from None


def _column(file: Path, values, name: str) -> list:
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        raise UserError(f"column {name!r} of {file} has texts that are not UTF-8; save them as UTF-8") from None


def _csv(file: Path, delimiter: str, columns: Mapping[str, str]) -> Rows:
    *_, header = next(_csv_rows(file, delimiter), [[]])
    names = [name.strip() for name in header]
    _check_columns(file, names, columns)  # first, since another delimiter is a fault in every row
    rows = _csv_rows(file, delimiter, **_csv_reading(file, delimiter))
    next(rows)
    places = {side: names.index(column) for side, column in columns.items() if column in names}
    for line, _, row in rows:
        if list(map(_bare, row)) == names:
            raise UserError(f"{file}, line {line}, is the header again; remove it")
        values = {side: row[places[side]] if side in places else None for side in columns}
        yield {side: None if value == NULL else value for side, value in values.items()}


def _csv_reading(file: Path, delimiter: str) -> dict[str, bool]:
    """Find out how a file writes quotes in texts: doubled, after a backslash, or as any character.

    A reading is right if every row has as many fields as the header and no field is unclear. Quotes are characters like
    others only if no text stands between two of them. Where two readings are right and differ in the number of rows, which
    texts there are is a guess; so this raises UserError.
    """
    quoted, fault = _count(file, delimiter)
    if not any('"' in line for line in _lines(file)):  # or: all readings are the same
        if fault:
            raise fault
        return {}
    plain, _ = _count(file, delimiter, plain=True)
    escaped, _ = _count(file, delimiter, escaped=True) if fault else (0, None)
    if fault and plain and any(_between_quotes(f) for *_, row in _csv_rows(file, delimiter, plain=True) for f in row):
        plain = 0
    counts = {count for count in (quoted, escaped, plain) if count}
    if not counts:
        raise fault
    if len(counts) > 1:
        reading = {"escaped": True} if escaped else {}
        line = next(first for first, last, _ in _csv_rows(file, delimiter, **reading) if last > first)
        raise UserError(
            f"{file}, line {line}: either a quoted text with line breaks begins there, or each line is a row and quotes "
            "are characters like others; in the second case, double the quotes in texts and put the texts into quotes"
        )
    return {} if quoted else {"escaped": True} if escaped else {"plain": True}


def _between_quotes(field: str) -> bool:
    return field.startswith('"') and len(field) > 1 and (field.endswith('"') or '""' in field)


def _bare(field: str) -> str:
    """Return a field without the blanks and byte-order marks around it."""
    return field.replace("\ufeff", "").strip()


def _unclear(field: str, row: str, delimiter: str) -> str:
    """Return why a field without quotes may be read wrongly, or an empty text; ``row`` is its row as it stands in the file."""
    backslashes = len(field) - len(field.rstrip("\\"))
    if backslashes % 2 and (field + delimiter in row or row.rstrip("\r\n").endswith(field)):
        return "has a backslash at the end of a text, which may escape what follows; put the text into double quotes"
    if (bare := _bare(field)) != field and _between_quotes(bare) and field in row:
        return "has blanks or a byte-order mark beside a quoted text; remove them"
    return ""


def _count(file: Path, delimiter: str, **reading: bool) -> tuple[int, UserError | None]:
    try:
        count = sum(1 for _ in _csv_rows(file, delimiter, **reading))
    except UserError as fault:
        return 0, fault
    if count < 2:
        return 0, NoRows(f"{file} has no rows below its header; it needs rows with a document and a summary")
    return count, None


def _csv_rows(
    file: Path, delimiter: str, escaped: bool = False, plain: bool = False
) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the first line, the last line and the fields of every row, the header's included, without spaces before them."""
    csv.field_size_limit(sys.maxsize)
    lines, read = _lines(file), []
    if escaped:
        lines = (re.sub(r'\\(["\\\n])', lambda m: ESCAPED.get(m[1], m[1]), line) for line in lines)
    quoting = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    kept = (read.append(line) or line for line in lines)
    rows = csv.reader(kept, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True)
    width, begins, between = 0, 1, "tabs" if delimiter == "\t" else "commas"
    try:
        for row in rows:
            row = [] if len(row) == 1 and not row[0].strip() else row
            width = width or len(row)
            if row and len(row) != width:
                fields = f"{len(row)} fields, but the header has {width}"
                how = f"put texts with {between} or line breaks into double quotes"
                raise UserError(f"{file}, line {begins}, has {fields}; {how}")
            whole = "".join(read)
            if unclear := next(filter(None, (_unclear(field, whole, delimiter) for field in row)), ""):
                raise UserError(f"{file}, line {begins}, {unclear}")
            read.clear()
            if row:
                yield begins, rows.line_num, [_unescaped(field) for field in row] if escaped else row
            begins = rows.line_num + 1
    except csv.Error as error:
        if "new-line character" in str(error):
            raise UserError(f"{file}, line {begins}, has a carriage return alone (\\r); end lines with \\n") from None
        why = f"a quoted text that starts there does not end correctly ({error}); double the quotes inside it"
        raise UserError(f"{file}, line {begins}: {why}") from None


def _unescaped(field: str) -> str:
    for character, stand_in in ESCAPED.items():
        field = field.replace(stand_in, character)
    return field
