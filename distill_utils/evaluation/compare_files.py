"""Compare files of summaries, whatever wrote them: ROUGE with intervals, the share kept, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from distill_utils.data.doubts import warn_of_script
from distill_utils.data.files import Number, check_characters, json_value, json_values
from distill_utils.metrics.rouge import TYPES, rouge_scores
from distill_utils.metrics.significance import compare_all, mean_interval, retention_interval
from distill_utils.metrics.text_statistics import novel_ngrams
from distill_utils.metrics.words import ENGLISH, UNSTEMMED, kind_of_words
from distill_utils.system.errors import UserError

#: Key of a document's text in JSON lines.
DOCUMENT = "document"
#: Endings of files that are neither text with one summary a line nor JSON lines.
OTHERS = (".json", ".csv", ".tsv", ".parquet", ".gz", ".xz", ".bz2", ".zip", ".xlsx")
#: Metrics of the paired differences; ROUGE-Lsum only if it differs from ROUGE-L, so not with summaries of one sentence.
COMPARED = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def compare_files(
    references: Path, files: Sequence[Path], *, documents: Path | None = None, field: str = "summary", stemming: bool = True
) -> dict:  # fmt: skip
    """Score files of summaries against references, and compare them in pairs.

    Args:
        references, files, documents: a text file with one text a line, or a ``.jsonl`` file with one string or object a
            line. In references, a JSON list holds several references of one document, of which the best counts.
        field: key of the text in objects; of documents it is ``document``.
        stemming: stem English words, as XSum's scores are published.

    Returns:
        ``pairs``, ``words`` (what ROUGE counts), ``systems`` in the order of ``files``, and ``verdicts`` for each metric of
        :data:`COMPARED` and each two systems, with Holm's correction within a metric. ``kept`` compares with the first file.

    Raises:
        UserError: if a file cannot be read or has another number of lines than the references.
    """
    wanted = read_texts(references, field)
    if len(wanted) == 1:
        raise UserError(f"{references} has one summary; intervals need at least two, and say something from some 100")
    several = {file: read_texts(file, field) for file in files}
    texts = {
        name: _single(file, several[file], wanted, references) for name, file in zip(_names(files), files, strict=True)
    }
    read = _single(documents, read_texts(documents, DOCUMENT), wanted, references) if documents else None
    try:
        words = kind_of_words(reference for row in wanted for reference in row)
    except ValueError as error:
        raise UserError(f"{references} cannot be scored: {error}") from None
    warn_of_script(str(references), (reference for row in wanted for reference in row))
    if words == ENGLISH and not stemming:
        words = UNSTEMMED
    scores = {name: _scores(own, wanted, words) for name, own in texts.items()}
    first, length = next(iter(texts)), np.mean([np.mean([len(r.split()) for r in row]) for row in wanted])
    if not length:
        raise UserError(f"{references} has no words")
    systems = []
    for name, own in texts.items():
        found = scores[name]
        systems.append({
            "name": name,
            **{kind: float(found[kind].mean()) for kind in TYPES},
            **{f"{kind}_ci": list(mean_interval(found[kind])) for kind in TYPES},
            "kept": float(found["rougeL"].mean() / scores[first]["rougeL"].mean()) if scores[first]["rougeL"].any() else None,
            "kept_ci": retention_interval(found["rougeL"], scores[first]["rougeL"]),
            "length_ratio": float(np.mean([len(text.split()) for text in own]) / length),
            "novel_bigrams": novel_ngrams({"document": read, "summary": own}, 2) if read else None,
            "empty": sum(not text.strip() for text in own),
        })  # fmt: skip
    pairs = [(b, a) for a, b in combinations(texts, 2)]
    same = all(np.array_equal(found["rougeL"], found["rougeLsum"]) for found in scores.values())
    verdicts = [
        verdict.as_dict()
        for kind in (COMPARED[:-1] if same else COMPARED)
        for verdict in (compare_all(pairs, kind, {name: s[kind] for name, s in scores.items()}) if pairs else [])
    ]
    return {"pairs": len(wanted), "words": words, "systems": systems, "verdicts": verdicts}


def read_texts(file: Path, field: str) -> list[list[str]]:
    """Return the texts of every line, one unless the line is a JSON list.

    Raises:
        UserError: with file and line: if the file is not there, has no lines or is not UTF-8, or if a line has no text.
    """
    kind = file.suffix.lower()
    lines_of_json = kind in (".jsonl", ".ndjson")
    if kind in OTHERS or (kind.startswith(".json") and not lines_of_json):
        raise UserError(f"{file} is not read as {kind}; give text with one summary a line, or .jsonl")
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {line}, is not UTF-8 text; save the file as UTF-8") from None
    lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")] if content else []
    if not lines:
        raise UserError(f"{file} is empty; it needs a text a line")
    if "\0" in content:
        raise UserError(f"{file} contains NUL bytes, so it is not UTF-8 text; save it as UTF-8")
    if not lines_of_json:
        return [[line] for line in lines]
    return [_json_texts(line, f"{file}, line {number},", field) for number, line in enumerate(lines, 1)]


def _json_texts(line: str, place: str, field: str) -> list[str]:
    row = json_value(place, line)
    if isinstance(row, tuple):
        values = json_values(place, row, [field])
        if field not in values:
            hint = "a document's key is this" if field == DOCUMENT else "name the text's key with --field"
            raise UserError(f"{place} has no {field!r} (it has {', '.join(sorted(values)) or 'nothing'}); {hint}")
        row = values[field]
    texts = row if isinstance(row, list) else [row]
    if not texts or any(not isinstance(text, str) or isinstance(text, Number) for text in texts):
        raise UserError(f"{place} has no text but {str(row)[:40]}")
    for text in texts:
        check_characters(place, text)
    return texts


def _single(file: Path, rows: list[list[str]], wanted: list[list[str]], references: Path) -> list[str]:
    if len(rows) != len(wanted):
        raise UserError(
            f"{file} has {len(rows):,} lines and {references} has {len(wanted):,}; line i of each belongs to the same document"
        )
    for number, row in enumerate(rows, 1):
        if len(row) > 1:
            raise UserError(f"{file}, line {number}, has {len(row)} texts; only references may have several")
    return [row[0] for row in rows]


def _names(files: Sequence[Path]) -> list[str]:
    """Return the files' names without endings, or their paths where two have the same."""
    stems = [file.stem for file in files]
    names = [stem if stems.count(stem) == 1 else str(file) for stem, file in zip(stems, files, strict=True)]
    if len({*names}) < len(names):
        raise UserError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return names


def _scores(texts: Sequence[str], wanted: list[list[str]], words: str) -> dict[str, np.ndarray]:
    """Return each type's F1 of every text, ``(pairs,)``, against the best of its references."""
    predictions = [text for text, row in zip(texts, wanted, strict=True) for _ in row]
    starts = np.cumsum([0, *(len(row) for row in wanted[:-1])])
    found = rouge_scores(predictions, [reference for row in wanted for reference in row], words)
    return {kind: np.maximum.reduceat(scores, starts) for kind, scores in found.items()}
