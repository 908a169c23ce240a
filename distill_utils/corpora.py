"""A study's corpus: settings enter, a ``DatasetDict`` of ``id, document, summary`` leaves.

Built once, from docstrings or from a table, then loaded from ``runs/<study>/corpus``.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from distill_utils import docstrings, tables
from distill_utils.artefacts import is_current, read_json, whole_folder, write_json
from distill_utils.docstrings import SPLITS, Docstring
from distill_utils.errors import UserError
from distill_utils.generation import beginnings
from distill_utils.progress import progress
from distill_utils.study import ROOT, CorpusSettings, Study, code_fingerprint, fingerprint, located

LOCK = ROOT / "requirements.lock"
STATISTICS_FILE = "statistics.json"
#: Held-out documents per split that :func:`leakage` compares with the training split.
LEAKAGE_SAMPLE = 5000


def load_corpus(study: Study) -> DatasetDict:
    """The study's corpus, built on first use.

    Returns:
        ``train``, ``validation`` and ``test``, each with string columns ``id``, ``document`` and
        ``summary`` (and ``package`` for docstrings).
    """
    key = corpus_key(study)
    if not is_current(study.corpus_folder, key):
        _build(study, key)
    return DatasetDict.load_from_disk(study.corpus_folder)


def corpus_statistics(study: Study) -> dict:
    """How the corpus was made: ``steps`` (what was read, what was dropped), revision, fingerprint."""
    load_corpus(study)
    return read_json(study.corpus_folder / STATISTICS_FILE)


def corpus_key(study: Study) -> str:
    """What the corpus depends on: its settings, its sources and the code that reads them."""
    settings = study.settings()["corpus"]
    settings = {k: v for k, v in settings.items() if k not in ("max_source_tokens", "max_target_tokens")}
    if study.corpus.path:
        del settings["packages"], settings["filters"]
        return fingerprint(
            settings, tables.content_key(study.corpus), code_fingerprint("tables", "docstrings", "corpora")
        )
    versions = docstrings.installed_versions(_packages(study))
    return fingerprint(settings, versions, platform.python_version(), code_fingerprint("docstrings", "corpora"))


def corpus_name(study: Study) -> str:
    """``docstrings``, a dataset's id, or a file's name without its folder."""
    if not study.corpus.path:
        return "docstrings"
    return Path(study.corpus.path).name if located(study.corpus.path).exists() else study.corpus.path


def corpus_description(study: Study) -> str:
    """Where the pairs come from, in Markdown."""
    if not study.corpus.path:
        return (
            "The sources of the pinned packages are parsed, not imported. A *document* is the object's name and signature, a line "
            "break, and the docstring after its first paragraph. The *summary* is that first paragraph. Filters drop what is no "
            "summary; the study file gives the reason for each."
        )
    statistics = corpus_statistics(study)
    revision = f", revision `{statistics['revision'][:10]}`" if statistics["revision"] else ""
    return (
        f"The pairs are those of `{corpus_name(study)}`{revision}: the document is its column `{study.corpus.document}`, the summary "
        f"its column `{study.corpus.summary}`, split by {statistics['split_by']}. Rows with an empty side are dropped."
    )


def training_docstrings(study: Study) -> list[Docstring]:
    """Every docstring a teacher may learn from: see :func:`distill_utils.docstrings.training_only`."""
    found, _ = docstrings.extract(_packages(study), workers=os.cpu_count() or 1)
    pairs, _ = docstrings.select_pairs(found, study.corpus.filters)
    return docstrings.training_only(found, pairs, study.corpus.filters)


def _packages(study: Study) -> list[str]:
    pinned = docstrings.pinned_packages(LOCK)
    unknown = sorted(set(study.corpus.packages) - set(pinned))
    if unknown:
        raise UserError(f"setting 'corpus.packages' names {unknown[0]!r}, which {LOCK.name} does not pin")
    return list(study.corpus.packages) or pinned


def _build(study: Study, key: str) -> None:
    corpus, statistics = _from_table(study) if study.corpus.path else _from_docstrings(study)
    statistics["steps"] |= {f"{split} pairs": len(corpus[split]) for split in SPLITS}
    with whole_folder(study.corpus_folder, key) as folder:
        corpus.save_to_disk(folder)
        write_json(folder / STATISTICS_FILE, statistics)


def _from_table(study: Study) -> tuple[DatasetDict, dict]:
    corpus, statistics = tables.read_pairs(study.corpus, study.hub_record)
    steps = {f"rows read, {split}": count for split, count in statistics["rows"].items()}
    steps |= {f"rows not used, {split}": count for split, count in statistics["unused"].items()}
    steps |= {f"dropped: {reason}": count for reason, count in statistics["dropped"].items()}
    if statistics["longer"]:
        steps["kept: summary longer than its document"] = statistics["longer"]
    return corpus, {**statistics, "steps": steps, "fingerprint": tables.pairs_fingerprint(corpus)}


def _from_docstrings(study: Study) -> tuple[DatasetDict, dict]:
    found, statistics = docstrings.extract(_packages(study), workers=os.cpu_count() or 1)
    pairs, dropped = docstrings.select_pairs(found, study.corpus.filters)
    if empty := [split for split in SPLITS if not pairs[split]]:
        raise UserError(f"the corpus has no {empty[0]} pairs: loosen [corpus.filters] or add to corpus.packages")
    limits = {
        "train": study.corpus.max_train,
        "validation": study.corpus.max_validation,
        "test": study.corpus.max_test,
    }
    kept = {split: pairs[split][: limits[split] or None] for split in SPLITS}
    steps = {"Python files read": statistics["files"], "files that did not parse": statistics["unreadable_files"]}
    steps |= {"docstrings found": statistics["docstrings"]}
    steps |= {f"dropped: {reason}": count for reason, count in dropped.items()}
    return DatasetDict({split: _as_dataset(kept[split]) for split in SPLITS}), {
        "steps": steps,
        "revision": None,
        "fingerprint": fingerprint(*[[d.id for d in kept[split]] for split in SPLITS]),
    }


def _as_dataset(pairs: list[Docstring]) -> Dataset:
    return Dataset.from_dict(
        {
            "id": [d.id for d in pairs],
            "package": [d.package for d in pairs],
            "document": [d.document for d in pairs],
            "summary": [d.summary for d in pairs],
        }
    )


def tokenize(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, settings: CorpusSettings) -> Dataset:
    """``input_ids``, ``attention_mask``, ``labels`` and ``length`` (source tokens), cut at the study's lengths."""

    def encode(batch: dict) -> dict:
        documents = beginnings(batch["document"], tokenizer, settings.max_source_tokens)
        encoded = tokenizer(documents, max_length=settings.max_source_tokens, truncation=True)
        targets = tokenizer(text_target=batch["summary"], max_length=settings.max_target_tokens, truncation=True)
        return {**encoded, "labels": targets["input_ids"], "length": [len(ids) for ids in encoded["input_ids"]]}

    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokenizing")


def drawn(ids: Sequence[str], count: int) -> list[int]:
    """Which ``count`` of the pairs with these ids: a random draw, the same on every machine, and a part of every larger one."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(str(ids[i]).encode()).digest())
    return order[:count]


def token_lengths(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """Tokens of every ``document`` and ``summary``, uncut, special tokens included: ``(pairs,)`` each."""

    def count(batch: dict) -> dict:
        return {side: [len(ids) for ids in tokenizer(batch[side])["input_ids"]] for side in ("document", "summary")}

    counted = pairs.map(count, batched=True, remove_columns=pairs.column_names, desc="counting tokens")
    return {side: np.asarray(counted[side]) for side in ("document", "summary")}


def cut_counts(study: Study, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """How many documents and summaries, over all splits, are longer than the study's limits and so cut."""
    limits = {"document": study.corpus.max_source_tokens, "summary": study.corpus.max_target_tokens}
    counted = [token_lengths(pairs, tokenizer) for pairs in load_corpus(study).values()]
    return {side: int(sum((lengths[side] > limit).sum() for lengths in counted)) for side, limit in limits.items()}


def leakage(corpus: DatasetDict, jaccard: float) -> dict[str, int]:
    """How much of the evaluation splits the training split gives away; all counts should be 0.

    ``summaries_in_train``: validation and test summaries that, as words, also stand in train.
    ``near_duplicates``: validation and test documents with a near duplicate (Jaccard similarity of
    5-word shingles ≥ ``jaccard``) in train, or test documents with one in validation; of the first
    :data:`LEAKAGE_SAMPLE` documents of each.
    """
    known = {docstrings.normalized(summary) for summary in corpus["train"]["summary"]}
    held_out = [s for split in ("validation", "test") for s in corpus[split]["summary"]]
    validation, test = (corpus[split]["document"][:LEAKAGE_SAMPLE] for split in ("validation", "test"))
    seen = docstrings.NearDuplicates([*validation, *test], jaccard)
    for document in validation:
        seen.add(document)
    near = {len(validation) + i for i, document in enumerate(test) if seen.contains(document)}
    for document in test:
        seen.add(document)
    for document in progress(corpus["train"]["document"], desc="near duplicates", unit="document"):
        near |= seen.matches(document)
    return {
        "summaries_in_train": sum(docstrings.normalized(s) in known for s in held_out),
        "near_duplicates": len(near),
    }
