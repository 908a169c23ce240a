"""Pairs from a table: a JSONL, CSV or Parquet file, a folder of such, or a dataset on the Hub enters;
splits of ``id, document, summary`` leave.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Value, load_dataset
from datasets.exceptions import DatasetsError
from datasets.utils import disable_progress_bars, enable_progress_bars

from distill_utils.docstrings import SPLITS, digest, fold, normalized, split_of
from distill_utils.errors import UserError
from distill_utils.hub import fetch_dataset, is_hub_id
from distill_utils.study import CorpusSettings, located

#: Other names that the validation split goes by.
SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation"}
READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),  # else the word "null" is no text
    ".parquet": ("parquet", {}),
}


def read_pairs(settings: CorpusSettings, record: Path) -> tuple[DatasetDict, dict]:
    """Read a table's splits, drop rows with an empty side, split what is not split.

    Args:
        record: remembers the commits of datasets from the Hub.

    Returns:
        The pairs, and how they came about: ``revision`` (the Hub's commit, or None), ``rows`` read per
        split, ``dropped`` by reason, and ``split_by``.

    Raises:
        UserError: no such file or dataset, a format that is not read, no such column, or no usable rows.
    """
    tables, revision = _tables(settings, record)
    tables = {SPLIT_NAMES.get(name, name): rows for name, rows in tables.items()}
    if len(tables) == 1:  # whatever it is called
        tables = {"train": next(iter(tables.values()))}
    unused = [name for name in tables if name not in SPLITS]
    if "train" not in tables:
        raise UserError(f"{settings.path} has the splits {', '.join(tables)}: a split called train is needed")
    dropped: Counter[str] = Counter()
    pairs = {split: _pairs(tables[split], split, settings, dropped) for split in SPLITS if split in tables}
    _check_script(settings, pairs["train"])
    missing = [split for split in SPLITS[1:] if split not in pairs]
    pairs |= {split: _where(pairs["train"], lambda part, wanted=split: part == wanted) for split in missing}
    if missing:
        pairs["train"] = _where(pairs["train"], lambda part: part not in missing)
    limits = {"train": settings.max_train, "validation": settings.max_validation, "test": settings.max_test}
    kept = DatasetDict({split: _sample(pairs[split], limits[split]) for split in SPLITS})
    if empty := [split for split in SPLITS if not len(kept[split])]:
        raise UserError(
            f"{settings.path} leaves no {empty[0]} pairs: {sum(map(len, pairs.values()))} rows have both sides"
            + (", and a hash shares them out 8 : 1 : 1" if missing else "")
        )
    return kept, {
        "revision": revision,
        "rows": {split: len(tables[split]) for split in SPLITS if split in tables},
        "unused": {name: len(tables[name]) for name in unused},
        "dropped": dict(dropped),
        "split_by": "the dataset" if not missing else f"a hash of the summary ({' and '.join(missing)} out of train)",
    }


def content_key(settings: CorpusSettings) -> str:
    """What tells whether local files changed; empty for the Hub, where the commit is fixed."""
    path = _local(settings.path)
    if path is None:
        return ""
    files = (
        [path]
        if path.is_file()
        else [p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path))]
    )
    names = [file.relative_to(path.parent).as_posix() for file in files]
    return _hash(tuple((n, f, f.stat().st_size, f.stat().st_mtime_ns) for n, f in zip(names, files, strict=True)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@cache
def _hash(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    """Read once in a process."""
    whole = hashlib.sha256()
    for name, file, _, _ in files:
        whole.update(name.encode())
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def pairs_fingerprint(pairs: DatasetDict) -> str:
    """A hash over every id, document and summary, in order."""
    whole = hashlib.sha256()
    for split in SPLITS:
        for batch in pairs[split].iter(1000):
            for row in zip(batch["id"], batch["document"], batch["summary"], strict=True):
                whole.update("\0".join([split, *row, ""]).encode())
    return whole.hexdigest()[:16]


def _local(path: str) -> Path | None:
    """The file or folder that a setting names, relative to the repository or absolute."""
    found = located(path)
    return found if found.exists() else None


def _tables(settings: CorpusSettings, record: Path) -> tuple[DatasetDict, str | None]:
    path, revision = _local(settings.path), None
    if path is None and not is_hub_id(settings.path):
        raise UserError(
            f"setting 'corpus.path' is {settings.path!r}: there is no such file or folder, and it is no dataset on the Hub (owner/name)"
        )
    if path is None:
        path = fetch_dataset(settings.path, settings.configuration, settings.revision, record)
        revision = path.name
    elif path.is_file() and path.suffix not in READERS:
        raise UserError(f"{settings.path} is not read: it must end in {', '.join(READERS)}")
    enable_progress_bars()
    try:
        return (_read_fetched if revision else _read)(path, settings.configuration), revision
    except StopIteration:
        raise UserError(f"{settings.path} is empty") from None
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # what load_dataset raises for bad content
        cause = error.__cause__ or error
        raise UserError(f"{settings.path} cannot be read: {' '.join(str(cause).split())[:300]}") from None
    finally:
        disable_progress_bars()


def _read(path: Path, configuration: str) -> DatasetDict:
    if path.is_file():
        reader, options = READERS[path.suffix]
        return load_dataset(reader, data_files={"train": str(path)}, **options)
    if configuration and (path / configuration).is_dir() and not (path / "README.md").exists():
        return load_dataset(str(path / configuration))
    return load_dataset(str(path), configuration or None)


def _read_fetched(path: Path, configuration: str) -> DatasetDict:
    """What ``fetch_dataset`` copied: a whole dataset, or the files of one configuration."""
    if (path / "README.md").exists():
        return load_dataset(str(path), configuration or None)
    (folder,) = (f for f in path.iterdir() if f.is_dir() and f.name == (configuration or f.name))
    files: dict[str, list[str]] = {}  # train-00000-of-00003.parquet; or, converted by the Hub, train/0000.parquet
    for file in sorted(folder.rglob("*.parquet")):
        split = file.relative_to(folder).parts[0].removesuffix(".parquet").partition("-")[0]
        files.setdefault(split, []).append(str(file))
    return load_dataset("parquet", data_files=files)


def _pairs(rows: Dataset, split: str, settings: CorpusSettings, dropped: Counter) -> Dataset:
    """The rows of a split that have both sides, as text without surrounding space."""
    columns = {"document": settings.document, "summary": settings.summary}
    for side, column in columns.items():
        if column not in rows.column_names:
            raise UserError(
                f"setting 'corpus.{side}' is {column!r}, but {settings.path} has the columns: {', '.join(rows.column_names)}"
            )

    def keep(batch: dict) -> dict:
        sides = zip(batch[settings.document], batch[settings.summary], strict=True)
        texts = [(_text(document, settings.document), _text(summary, settings.summary)) for document, summary in sides]
        dropped["empty document"] += sum(not d for d, _ in texts)
        dropped["empty summary"] += sum(bool(d) and not s for d, s in texts)
        kept = [i for i, (d, s) in enumerate(texts) if d and s]
        ids = [str(batch["id"][i]) if "id" in batch else digest("\0".join(texts[i]))[:16] for i in kept]
        return {"id": ids, "document": [texts[i][0] for i in kept], "summary": [texts[i][1] for i in kept]}

    features = Features(dict.fromkeys(("id", "document", "summary"), Value("string")))
    return rows.map(
        keep, batched=True, remove_columns=rows.column_names, features=features, load_from_cache_file=False,
        desc=f"reading {split}",
    )  # fmt: skip


def _text(value: object, column: str) -> str:
    """One line, as the published teachers were trained on: their data sets had a text per line."""
    if isinstance(value, list | dict):
        raise UserError(f"column {column!r} holds lists or records, not text")
    return "" if value is None else fold(str(value))


def _check_script(settings: CorpusSettings, pairs: Dataset) -> None:
    """ROUGE here counts words of a to z and digits; in another script everything would score nothing."""
    letters = [letter for summary in pairs["summary"][:1000] for letter in summary if letter.isalpha()]
    if letters and sum(letter.isascii() for letter in letters) < len(letters) / 2:
        raise UserError(
            f"the summaries in {settings.path} are not written in Latin letters, which is all that ROUGE counts here: every score would be 0"
        )


def _where(pairs: Dataset, chosen: Callable[[str], bool]) -> Dataset:
    """Those pairs whose split by hash is chosen."""
    return pairs.select([i for i, summary in enumerate(pairs["summary"]) if chosen(split_of(summary))])


def _sample(pairs: Dataset, limit: int) -> Dataset:
    """At most ``limit`` pairs, drawn by a hash of the pair, in the order they came."""
    if not limit or len(pairs) <= limit:
        return pairs
    keys = [digest(f"{i}\0{normalized(s)}") for i, s in zip(pairs["id"], pairs["summary"], strict=True)]
    return pairs.select(sorted(sorted(range(len(pairs)), key=keys.__getitem__)[:limit]))
