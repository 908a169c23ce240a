"""Read pairs from JSON, CSV or Parquet files, from a folder of them, or from a dataset on the Hub."""

from __future__ import annotations

import errno
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, NamedSplit, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from datasets.utils import disable_progress_bars, enable_progress_bars

from distill_utils.data.doubts import warn, warn_of_dropped, warn_of_marks, warn_of_script
from distill_utils.data.files import KINDS, NoRows, kind_of, read_rows
from distill_utils.data.folders import SPLIT_NAMES, files_of_splits, is_saved_dataset, visible_files
from distill_utils.data.reading import corpus_reading
from distill_utils.data.splits import SPLITS, digest, fold, normalized, split_of
from distill_utils.metrics.words import LINE_END, kind_of_words
from distill_utils.studies.settings import CorpusSettings
from distill_utils.system.artefacts import read_json
from distill_utils.system.errors import UserError, disk_is_full
from distill_utils.system.fingerprints import code_fingerprint, files_hash, fingerprint
from distill_utils.system.hub import fetch_dataset, is_hub_id
from distill_utils.system.paths import located

SIDES = ("id", "document", "summary")
#: The split of training documents without a summary.
UNLABELLED = "unlabelled"
#: Files of ``save_to_disk`` beside the rows.
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
#: A column is refused if more than this share of its texts have no words.
WORDLESS = 0.9
TEXTS = Features(dict.fromkeys(SIDES, Value("string")))
#: The summary with its lines, for ROUGE-Lsum; a split whose summaries have one line each lacks this column.
LINES = "lines"


def read_pairs(settings: CorpusSettings, record: Path) -> tuple[DatasetDict, dict]:
    """Read a table's splits, drop rows with an empty side, and draw missing splits from train.

    Args:
        record: the file that records the commits of datasets from the Hub.

    Returns:
        The pairs, with a column :data:`LINES` where summaries have several lines, and statistics: ``revision`` (the Hub's
        commit, or None), ``rows`` read per split, ``unused`` rows of other splits, the number of ``unread`` files of a
        folder, ``dropped`` rows by reason, ``longer`` (pairs kept although the summary is longer than its document),
        ``words`` (what ROUGE takes for one), and ``split_by``.

    Raises:
        UserError: if the file, dataset or column does not exist, the format is unknown or no rows are usable.
    """
    path, revision = _place(settings, record)
    columns = {"id": "id", "document": settings.document, "summary": settings.summary}
    unread: list[Path] = []
    files: dict[str, list[Path]] = {}
    with _readable(settings.path), _bars():
        if revision:
            tables = _read_fetched(path, settings.configuration)
        elif path.is_dir() and is_saved_dataset(path):
            tables = _saved(path)
            tables = tables if isinstance(tables, DatasetDict) else DatasetDict(train=tables)
            unread = [file for file in visible_files(path) if kind_of(file) and file.name not in SAVED]
        else:
            files, unread = files_of_splits(path, settings.configuration) if path.is_dir() else ({"train": [path]}, [])
            tables = _read_files(files, columns, settings)
            columns = {side: side for side in SIDES}
    if unread:
        some = ", ".join(file.relative_to(path).as_posix() for file in unread[:3])
        warn(f"{len(unread)} files of {settings.path} are in no split and not read: {some}{' …' * (len(unread) > 3)}")
    names = Counter(SPLIT_NAMES.get(name, name) for name in tables)
    if twice := [name for name, count in names.items() if count > 1]:
        same = [name for name in tables if SPLIT_NAMES.get(name, name) in twice]
        raise UserError(f"{settings.path} has the splits {' and '.join(same)}, which are the same split; keep one")
    tables = {SPLIT_NAMES.get(name, name): rows for name, rows in tables.items()}
    if len(tables) == 1:  # whatever its name
        tables = {"train": next(iter(tables.values()))}
    if unused := [name for name in tables if name not in SPLITS]:
        some = " and ".join(f"{name} ({len(tables[name])} rows)" for name in unused)
        warn(f"{settings.path} has the splits {some}, which are not read; name a split train, validation or test")
    if "train" not in tables:
        raise UserError(f"{settings.path} has the splits {', '.join(tables)}; name one of them train")
    dropped: Counter[str] = Counter()
    with _readable(settings.path):  # texts are decoded here
        pairs = {s: _pairs(tables[s], s, columns, settings, dropped) for s in SPLITS if s in tables}
        alone = _pairs(tables["train"], UNLABELLED, columns, settings, Counter()) if settings.unlabelled else ()
    words = _words(settings, pairs)
    longer = _longer(settings, pairs)
    read = {split: len(tables[split]) for split in pairs}
    missing = [split for split in SPLITS[1:] if split not in pairs]
    pairs |= {split: in_split(pairs["train"], lambda part, wanted=split: part == wanted) for split in missing}
    if missing:
        pairs["train"] = in_split(pairs["train"], lambda part: part not in missing)
    kept = DatasetDict({split: drawn_pairs(pairs[split], getattr(settings, f"max_{split}")) for split in SPLITS})
    if len(alone):
        kept[UNLABELLED] = alone
    if empty := [split for split in SPLITS if not len(kept[split])]:
        usable = f"{sum(map(len, pairs.values()))} rows have both sides"
        how = ", split 8 : 1 : 1 by a hash" if missing else ""
        raise UserError(f"{settings.path} leaves no {empty[0]} pairs: {usable}{how}; add more such rows")
    warn_of_dropped(settings.path, sum(read.values()), dropped)
    separated = any(kind_of(file) in (".csv", ".tsv") for part in files.values() for file in part)
    for side in ("document", "summary"):
        texts = (text.removeprefix(settings.prefix) for text in _texts_of(pairs, side))
        warn_of_marks(settings.path, getattr(settings, side), texts, separated)
    return kept, {
        "revision": revision,
        "rows": read,
        "unused": {name: len(tables[name]) for name in unused},
        "unread": len(unread),
        "dropped": dict(dropped),
        "longer": longer,
        "words": words,
        "split_by": "the dataset" if not missing else f"a hash of the summary ({' and '.join(missing)} out of train)",
    }


def content_key(settings: CorpusSettings) -> str:
    """Return a hash of local files; empty for the Hub, where the commit is recorded."""
    path = _local(settings.path)
    if path is None:
        return ""
    files = [path] if path.is_file() else visible_files(path)
    names = [file.relative_to(path.parent).as_posix() for file in files]
    return files_hash(dict(zip(names, files, strict=True)))


def references(pairs: Dataset) -> list[str]:
    """Return the summaries that predictions are scored against, with their lines."""
    return pairs[LINES if LINES in pairs.column_names else "summary"][:]


def pairs_fingerprint(pairs: DatasetDict) -> str:
    """Return a hash of all ids, documents and summaries with their lines, in order."""
    total = hashlib.sha256()
    for split in (*SPLITS, *pairs.keys() - {*SPLITS}):
        for batch in pairs[split].iter(1000):
            for row in zip(batch["id"], batch["document"], batch.get(LINES, batch["summary"]), strict=True):
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
    if path.is_file() and not kind_of(path):
        raise UserError(f"{settings.path} has an unknown format: it must end in {', '.join(KINDS)}")
    return path, None


@contextmanager
def _bars() -> Iterator[None]:
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raise the libraries' errors as one-line UserErrors."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # raised by datasets for invalid content
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        if disk_is_full(str(cause)) or getattr(cause, "errno", None) in (errno.EROFS, errno.EACCES):
            raise cause from None  # the disk's fault, not the data's
        raise UserError(f"{name} cannot be read: {' '.join(str(cause).split())[:300]}") from error


def _saved(path: Path) -> DatasetDict | Dataset:
    try:
        return load_from_disk(str(path))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, IndexError):  # no file of rows
            states = sorted(path.glob("*/state.json")) or [path / "state.json"]
            empty = " and ".join(state.parent.name for state in states if not read_json(state)["_data_files"])
            raise UserError(f"{path} has no rows in {empty}; save it with rows, or without it") from None
        raise UserError(
            f"{path} cannot be read: what save_to_disk wrote there is damaged ({error!r}); save it again"
        ) from None


def _read_files(files: Mapping[str, list[Path]], columns: dict[str, str], settings: CorpusSettings) -> DatasetDict:
    """Read local files into tables of texts, which the library keeps in its cache by the files' content."""
    tables = {}
    for split, named in files.items():
        content = [files_hash({file.name: file}) for file in named]  # files of several folders may share a name
        key = fingerprint(split, content, columns, code_fingerprint("data", "metrics.words"))
        texts = partial(_texts, [str(file) for file in named], columns, settings)
        name = NamedSplit(SPLIT_NAMES.get(split, "train"))  # shown while it is read
        features = Features({**TEXTS, "file": Value("int32")})
        tables[split] = Dataset.from_generator(texts, features=features, split=name, fingerprint=key)
        read = {*tables[split].unique("file")}  # asked of the table, which may come from the cache
        if empty := [str(file) for i, file in enumerate(named) if i not in read]:
            more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
            warn(f"{empty[0]}{more}: no rows; passed over")
    return DatasetDict(tables)


def _texts(
    files: list[str], columns: dict[str, str], settings: CorpusSettings
) -> Iterator[dict[str, str | int | None]]:
    found, empty = False, None
    for place, file in enumerate(files):
        try:
            for row in read_rows(Path(file), columns):
                sides = {side: _text(row[side], side, settings) for side in ("document", "summary")}
                yield {**sides, "id": None if row["id"] is None else str(row["id"]), "file": place}
                found = True
        except NoRows as error:
            empty = empty or error
    if empty and not found:
        raise empty


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


def _pairs(rows: Dataset, split: str, columns: dict[str, str], settings: CorpusSettings, dropped: Counter) -> Dataset:
    """Return the rows of a split that have both sides, as text with folded white space; the unlabelled have a document alone.

    Where summaries have several lines, the column :data:`LINES` keeps them.
    """
    for side, column in columns.items():
        if column not in rows.column_names and side != "id":
            has = f"{settings.path} has the columns: {', '.join(rows.column_names)}"
            raise UserError(f"setting 'corpus.{side}' is {column!r}, but {has}")
    rows = rows.select_columns([column for column in columns.values() if column in rows.column_names])
    seen: Counter[str] = Counter()
    form = corpus_reading(settings).applied

    def named(given: object, texts: tuple[str, str]) -> str:
        """Return a pair's id; repeated ids get a suffix."""
        first = name = digest("\0".join(texts))[:16] if given in (None, "") else str(given)
        while name in seen:
            seen[first] += 1
            name = f"{first}#{seen[first]}"
        seen[name] = 1
        return name

    def keep(batch: dict) -> dict:
        sides = zip(batch[columns["document"]], batch[columns["summary"]], strict=True)
        lined = [(form(_text(d, "document", settings)), _lines(_text(s, "summary", settings))) for d, s in sides]
        texts = [(document, fold(summary)) for document, summary in lined]
        dropped["empty document"] += sum(not d for d, _ in texts)
        if not (settings.unlabelled and split == "train"):
            dropped["empty summary"] += sum(bool(d) and not s for d, s in texts)
        kept = [i for i, (d, s) in enumerate(texts) if d and bool(s) == (split != UNLABELLED)]
        given = batch.get("id", [None] * len(texts))
        ids = [named(given[i], texts[i]) for i in kept]
        found = {"id": ids, "document": [texts[i][0] for i in kept], "summary": [texts[i][1] for i in kept]}
        return found | {LINES: [lined[i][1] for i in kept]}

    kept = rows.map(
        keep, batched=True, remove_columns=rows.column_names, features=Features({**TEXTS, LINES: Value("string")}),
        load_from_cache_file=False, desc=f"reading {split}",
    )  # fmt: skip
    if not any("\n" in text for batch in kept.iter(1000) for text in batch[LINES]):
        kept = kept.remove_columns(LINES)
    if "id" in rows.column_names and (twice := [name for name, count in seen.items() if count > 1]):
        warn(
            f"{settings.path} ({split}) has {len(twice)} duplicate ids, such as {twice[0]!r}; the later pairs are renamed "
            f"{twice[0]}#2 and so on"
        )
    return kept


def _lines(text: str) -> str:
    """Fold the white space within each line, and drop empty lines."""
    return "\n".join(filter(None, map(fold, LINE_END.split(text))))


def _text(value: object, side: str, settings: CorpusSettings) -> str:
    """Return a value as text; an empty one for a missing value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # a missing number
        return ""
    kind = "lists or records" if isinstance(value, list | dict | tuple) else ""
    if isinstance(value, float) and math.isinf(value):
        kind = "infinite numbers"
    if isinstance(value, bytes):  # Spark and Impala write texts as binary values
        try:
            value = value.decode("utf-8")
            kind = "binary values with NULs" if "\0" in value else ""  # UTF-16
        except UnicodeDecodeError:
            kind = "binary values that are not UTF-8"
    if (not isinstance(value, str | int | float) or isinstance(value, bool)) and not kind:
        kind = f"values of the type {type(value).__name__}"
    if kind:
        other = f"set corpus.{side} to another column of {settings.path}"
        raise UserError(f"column {getattr(settings, side)!r} contains {kind}, not text; {other}")
    return str(value).replace("\0", " ").removeprefix("\ufeff")


def _longer(settings: CorpusSettings, pairs: dict[str, Dataset]) -> int:
    """Count the summaries longer than their documents, and warn if most are: the columns may be swapped."""
    batches = (batch for rows in pairs.values() for batch in rows.iter(1000))
    sides = (side for batch in batches for side in zip(batch["document"], batch["summary"], strict=True))
    count = sum(len(summary) > len(document) for document, summary in sides)
    if count > sum(map(len, pairs.values())) / 2:
        warn(
            f"{count} of {sum(map(len, pairs.values()))} summaries in {settings.path} are longer than their documents: "
            "are corpus.document and corpus.summary swapped?"
        )
    return count


def _words(settings: CorpusSettings, pairs: dict[str, Dataset]) -> str:
    """Return what ROUGE takes for a word here, or raise UserError if nearly no text of a column has words."""
    for side in ("document", "summary"):
        count, wordless, first = 0, 0, ""
        for text in _texts_of(pairs, side):
            without = not _has_words(body := text.removeprefix(settings.prefix))
            count, wordless, first = count + 1, wordless + without, first or body * without
        if wordless > WORDLESS * count:
            column = getattr(settings, side)
            why = f"has no words (such as {first[:40]!r}); set corpus.{side} to a column of text"
            raise UserError(f"column {column!r} of {settings.path} {why}")
    try:
        kind = kind_of_words(_texts_of(pairs, "summary"))
    except ValueError as error:
        raise UserError(f"the summaries in {settings.path} cannot be scored: {error}; use another corpus") from None
    warn_of_script(settings.path, _texts_of(pairs, "summary"))
    return kind


def _has_words(text: str) -> bool:
    """Return whether a text has a letter and is no number (1e5, inf) or truth value."""
    if len(text) > 40 or not any(map(str.isalpha, text)):
        return any(map(str.isalpha, text))
    try:
        float(text)
    except ValueError:
        return text.lower() not in ("true", "false")
    return False


def _texts_of(pairs: dict[str, Dataset], side: str) -> Iterator[str]:
    return (text for rows in pairs.values() for batch in rows.iter(1000) for text in batch[side])


def in_split(pairs: Dataset, chosen: Callable[[str], bool]) -> Dataset:
    """Return the pairs whose split by hash is chosen."""
    return pairs.select([i for i, summary in enumerate(pairs["summary"]) if chosen(split_of(summary))])


def drawn_pairs(pairs: Dataset, limit: int) -> Dataset:
    """Return at most ``limit`` pairs, drawn by a hash, in their original order."""
    if not limit or len(pairs) <= limit:
        return pairs
    keys = [digest(f"{i}\0{normalized(s)}") for i, s in zip(pairs["id"], pairs["summary"], strict=True)]
    return pairs.select(sorted(sorted(range(len(pairs)), key=keys.__getitem__)[:limit]))
