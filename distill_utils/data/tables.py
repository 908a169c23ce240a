"""Read pairs from JSONL, CSV or Parquet files, from a folder of them, or from a dataset on the Hub."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Value, load_dataset
from datasets.utils import disable_progress_bars, enable_progress_bars

from distill_utils.data.splits import SPLITS, digest, fold
from distill_utils.data.table_errors import (
    READERS,
    check_words,
    readable_table,
    row_place,
    sample_row,
    visible_files,
    warn_of_rows,
)
from distill_utils.studies.settings import CorpusSettings
from distill_utils.system.errors import UserError
from distill_utils.system.hub import fetch_dataset, is_hub_id
from distill_utils.system.paths import located

#: Other names of the validation split.
SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation"}


def read_pairs(settings: CorpusSettings, record: Path) -> tuple[DatasetDict, dict]:
    """Read a table's splits, drop rows with an empty side, and draw missing splits from train.

    Args:
        record: the file that records the commits of datasets from the Hub.

    Returns:
        The pairs and statistics: ``revision`` (the Hub's commit, or None), ``rows`` read per split,
        ``unused`` rows of other splits, ``dropped`` rows by reason, ``longer`` (pairs kept although the
        summary is longer than its document), and ``split_by``.

    Raises:
        UserError: if the file, dataset or column does not exist, the format is unknown or no rows are usable.
    """
    path, revision = _place(settings, record)
    with readable_table(settings.path, path), _bars():
        tables = (_read_fetched if revision else _read)(path, settings.configuration)
    names = Counter(SPLIT_NAMES.get(name, name) for name in tables)
    if twice := [name for name, count in names.items() if count > 1]:
        same = [name for name in tables if SPLIT_NAMES.get(name, name) in twice]
        raise UserError(f"{settings.path} has the splits {' and '.join(same)}, which are the same split; keep one")
    tables = {SPLIT_NAMES.get(name, name): rows for name, rows in tables.items()}
    if len(tables) == 1:  # whatever its name
        tables = {"train": next(iter(tables.values()))}
    unused = [name for name in tables if name not in SPLITS]
    if "train" not in tables:
        raise UserError(f"{settings.path} has the splits {', '.join(tables)}; name one of them train")
    dropped: Counter[str] = Counter()
    with readable_table(settings.path, path):  # texts are decoded here
        pairs = {split: _pairs(tables[split], split, settings, dropped) for split in SPLITS if split in tables}
    check_words(settings, pairs["train"])
    longer = _longer(settings, pairs)
    missing = [split for split in SPLITS[1:] if split not in pairs]
    pairs |= {split: row_place(pairs["train"], lambda part, wanted=split: part == wanted) for split in missing}
    if missing:
        pairs["train"] = row_place(pairs["train"], lambda part: part not in missing)
    kept = DatasetDict({split: sample_row(pairs[split], getattr(settings, f"max_{split}")) for split in SPLITS})
    if empty := [split for split in SPLITS if not len(kept[split])]:
        usable = f"{sum(map(len, pairs.values()))} rows have both sides"
        how = ", split 8 : 1 : 1 by a hash" if missing else ""
        raise UserError(f"{settings.path} leaves no {empty[0]} pairs: {usable}{how}; add more such rows")
    return kept, {
        "revision": revision,
        "rows": {split: len(tables[split]) for split in SPLITS if split in tables},
        "unused": {name: len(tables[name]) for name in unused},
        "dropped": dict(dropped),
        "longer": longer,
        "split_by": "the dataset" if not missing else f"a hash of the summary ({' and '.join(missing)} out of train)",
    }


def content_key(settings: CorpusSettings) -> str:
    """Return a hash of local files; empty for the Hub, where the commit is recorded."""
    path = _local(settings.path)
    if path is None:
        return ""
    files = [path] if path.is_file() else visible_files(path)
    names = [file.relative_to(path.parent).as_posix() for file in files]
    return _hash(tuple((n, f, f.stat().st_size, f.stat().st_mtime_ns) for n, f in zip(names, files, strict=True)))


@cache
def _hash(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    """Hash names and contents, once per process."""
    total = hashlib.sha256()
    for name, file, _, _ in files:
        total.update(name.encode())
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def pairs_fingerprint(pairs: DatasetDict) -> str:
    """Return a hash of all ids, documents and summaries, in order."""
    total = hashlib.sha256()
    for split in SPLITS:
        for batch in pairs[split].iter(1000):
            for row in zip(batch["id"], batch["document"], batch["summary"], strict=True):
                total.update("\0".join([split, *row, ""]).encode())
    return total.hexdigest()[:16]


def _local(path: str) -> Path | None:
    """Return the file or folder that a setting names, or None if it does not exist."""
    found = located(path)
    return found if found.exists() else None


def _place(settings: CorpusSettings, record: Path) -> tuple[Path, str | None]:
    """Return the file or folder to read and, if it comes from the Hub, its commit."""
    path = _local(settings.path)
    if path is None and not is_hub_id(settings.path):
        why = "there is no such file or folder, and it is not a dataset's id on the Hub (owner/name)"
        raise UserError(f"setting 'corpus.path' is {settings.path!r}: {why}")
    if path is None:
        path = fetch_dataset(settings.path, settings.configuration, settings.revision, record)
        return path, path.name
    if path.is_file() and path.suffix not in READERS:
        raise UserError(f"{settings.path} has an unknown format: it must end in {', '.join(READERS)}")
    return path, None


@contextmanager
def _bars() -> Iterator[None]:
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()


@contextmanager
def _literal(path: Path) -> Iterator[Path]:
    """Provide a path without the characters that the library reads as a pattern or as a chain of file systems.

    A folder becomes a temporary one with links to its files: the library resolves a link to a folder.
    """
    if not re.search(r"[*?\[\]{}]|::", str(path.resolve())):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / f"data{path.suffix if path.is_file() else ''}"
        for file in [path] if path.is_file() else visible_files(path):
            link = plain / file.relative_to(path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        yield plain


def _read(path: Path, configuration: str) -> DatasetDict:
    described = path.is_dir() and (path / "README.md").exists()  # it may name the files to read
    if path.is_dir() and not described:
        # Like the library, count all suffixes of a name.
        kinds = {suffix for file in visible_files(path) for suffix in file.suffixes if suffix in READERS}
        if not kinds:
            raise UserError(f"{path} has no data files: they end in {', '.join(READERS)}")
        if len(kinds - {".json"}) > 1:  # the library would read only one of them
            raise UserError(f"{path} has files that end in {' and '.join(sorted(kinds))}; keep one kind")
    with _literal(path) as plain:
        if path.is_file():
            reader, options = READERS[path.suffix]
            return load_dataset(reader, data_files={"train": str(plain)}, **options)
        if configuration and (path / configuration).is_dir() and not described:
            return load_dataset(str(plain / configuration))
        return load_dataset(str(plain), configuration or None)


def _read_fetched(path: Path, configuration: str) -> DatasetDict:
    """Read what ``fetch_dataset`` downloaded: a complete dataset, or the files of one configuration."""
    if (path / "README.md").exists():
        return load_dataset(str(path), configuration or None)
    (folder,) = (f for f in path.iterdir() if f.is_dir() and f.name == (configuration or f.name))
    files: dict[str, list[str]] = {}  # train-00000-of-00003.parquet; or, converted by the Hub, train/0000.parquet
    for file in sorted(folder.rglob("*.parquet")):
        split = file.relative_to(folder).parts[0].removesuffix(".parquet").partition("-")[0]
        files.setdefault(split, []).append(str(file))
    return load_dataset("parquet", data_files=files)


def _pairs(rows: Dataset, split: str, settings: CorpusSettings, dropped: Counter) -> Dataset:
    """Return the rows of a split that have both sides, as text with folded white space."""
    columns = {"document": settings.document, "summary": settings.summary}
    for side, column in columns.items():
        if column not in rows.column_names:
            has = f"{settings.path} has the columns: {', '.join(rows.column_names)}"
            raise UserError(f"setting 'corpus.{side}' is {column!r}, but {has}")
    seen: Counter[str] = Counter()

    def named(given: object, texts: tuple[str, str]) -> str:
        """Return a pair's id; repeated ids get a suffix."""
        first = name = digest("\0".join(texts))[:16] if given in (None, "") else str(given)
        while name in seen:
            seen[first] += 1
            name = f"{first}#{seen[first]}"
        seen[name] = 1
        return name

    def keep(batch: dict) -> dict:
        sides = zip(batch[settings.document], batch[settings.summary], strict=True)
        texts = [(_text(d, "document", settings), _text(s, "summary", settings)) for d, s in sides]
        dropped["empty document"] += sum(not d for d, _ in texts)
        dropped["empty summary"] += sum(bool(d) and not s for d, s in texts)
        kept = [i for i, (d, s) in enumerate(texts) if d and s]
        given = batch.get("id", [None] * len(texts))
        ids = [named(given[i], texts[i]) for i in kept]
        return {"id": ids, "document": [texts[i][0] for i in kept], "summary": [texts[i][1] for i in kept]}

    features = Features(dict.fromkeys(("id", "document", "summary"), Value("string")))
    kept = rows.map(
        keep, batched=True, remove_columns=rows.column_names, features=features, load_from_cache_file=False,
        desc=f"reading {split}",
    )  # fmt: skip
    if "id" in rows.column_names and (twice := [name for name, count in seen.items() if count > 1]):
        warn_of_rows(
            f"{settings.path} ({split}) has {len(twice)} duplicate ids, such as {twice[0]!r}; the later pairs are renamed "
            f"{twice[0]}#2 and so on"
        )
    return kept


def _text(value: object, side: str, settings: CorpusSettings) -> str:
    """Return a value as one line of text, since the published teachers were trained on one text per line."""
    kind = "lists or records" if isinstance(value, list | dict) else ""
    if isinstance(value, bytes):  # Spark and Impala write texts as binary values
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            kind = "binary values that are not UTF-8"
    if not isinstance(value, str | int | float | None) and not kind:
        kind = f"values of the type {type(value).__name__}"
    if kind:
        other = f"set corpus.{side} to another column of {settings.path}"
        raise UserError(f"column {getattr(settings, side)!r} contains {kind}, not text; {other}")
    return "" if value is None else fold(str(value).replace("\0", " "))


def _longer(settings: CorpusSettings, pairs: dict[str, Dataset]) -> int:
    """Count the summaries longer than their documents, and warn if most are: the columns may be swapped."""
    batches = (batch for rows in pairs.values() for batch in rows.iter(1000))
    sides = (side for batch in batches for side in zip(batch["document"], batch["summary"], strict=True))
    count = sum(len(summary) > len(document) for document, summary in sides)
    if count > sum(map(len, pairs.values())) / 2:
        warn_of_rows(
            f"{count} of {sum(map(len, pairs.values()))} summaries in {settings.path} are longer than their documents: "
            "are corpus.document and corpus.summary swapped?"
        )
    return count
