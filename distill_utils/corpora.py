"""A study's corpus: settings enter, a ``DatasetDict`` of ``id, document, summary`` leaves.

Built once, then loaded from ``runs/<study>/corpus``.
"""

from __future__ import annotations

import os
import platform

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from distill_utils import docstrings
from distill_utils.artefacts import is_current, read_json, whole_folder, write_json
from distill_utils.docstrings import SPLITS, Docstring
from distill_utils.errors import UserError
from distill_utils.progress import progress
from distill_utils.study import ROOT, CorpusSettings, Study, code_fingerprint, fingerprint

LOCK = ROOT / "requirements.lock"
STATISTICS_FILE = "statistics.json"


def load_corpus(study: Study) -> DatasetDict:
    """The study's corpus, built on first use.

    Returns:
        ``train``, ``validation`` and ``test``, each with string columns ``id``, ``document`` and
        ``summary``, ordered by id.
    """
    key = corpus_key(study)
    if not is_current(study.corpus_folder, key):
        _build(study, key)
    return DatasetDict.load_from_disk(study.corpus_folder)


def corpus_statistics(study: Study) -> dict:
    """How the corpus was made: files read, docstrings found, what each filter dropped, fingerprint."""
    load_corpus(study)
    return read_json(study.corpus_folder / STATISTICS_FILE)


def corpus_key(study: Study) -> str:
    """What the corpus depends on: its settings, the installed packages and the code that reads them."""
    if study.corpus.source != "docstrings":
        raise UserError(f"setting 'corpus.source' knows 'docstrings', not {study.corpus.source!r}")
    settings = study.settings()["corpus"]
    settings = {k: v for k, v in settings.items() if k not in ("max_source_tokens", "max_target_tokens")}
    versions = docstrings.installed_versions(_packages(study))
    return fingerprint(settings, versions, platform.python_version(), code_fingerprint("docstrings", "corpora"))


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
    found, statistics = docstrings.extract(_packages(study), workers=os.cpu_count() or 1)
    pairs, dropped = docstrings.select_pairs(found, study.corpus.filters)
    limits = {
        "train": study.corpus.max_train,
        "validation": study.corpus.max_validation,
        "test": study.corpus.max_test,
    }
    if empty := [split for split in SPLITS if not pairs[split]]:
        raise UserError(f"the corpus has no {empty[0]} pairs: loosen [corpus.filters] or add to corpus.packages")
    statistics["pairs"] = {split: len(pairs[split]) for split in SPLITS}
    kept = {split: pairs[split][: limits[split] or None] for split in SPLITS}
    corpus = DatasetDict({split: _as_dataset(kept[split]) for split in SPLITS})
    statistics |= {
        "dropped": dropped,
        "packages": {
            split: {p: sum(d.package == p for d in kept[split]) for p in sorted({d.package for d in kept[split]})}
            for split in SPLITS
        },
        "fingerprint": fingerprint(*[[d.id for d in kept[split]] for split in SPLITS]),
    }
    with whole_folder(study.corpus_folder, key) as folder:
        corpus.save_to_disk(folder)
        write_json(folder / STATISTICS_FILE, statistics)


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
        encoded = tokenizer(batch["document"], max_length=settings.max_source_tokens, truncation=True)
        targets = tokenizer(text_target=batch["summary"], max_length=settings.max_target_tokens, truncation=True)
        return {**encoded, "labels": targets["input_ids"], "length": [len(ids) for ids in encoded["input_ids"]]}

    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokenizing")


def leakage(corpus: DatasetDict, jaccard: float) -> dict[str, int]:
    """How much of the evaluation splits the training split gives away; all counts should be 0.

    ``summaries_in_train``: validation and test summaries that, as words, also stand in train.
    ``near_duplicates``: validation and test documents with a near duplicate (Jaccard similarity of
    5-word shingles ≥ ``jaccard``) in train, or test documents with one in validation.
    """
    known = {docstrings.normalized(summary) for summary in corpus["train"]["summary"]}
    held_out = [s for split in ("validation", "test") for s in corpus[split]["summary"]]
    seen = docstrings.NearDuplicates((d for split in SPLITS for d in corpus[split]["document"]), jaccard)
    near = 0
    for split in SPLITS:  # everything of earlier splits is in the index when a split is looked up
        documents = progress(corpus[split]["document"], desc=f"near duplicates, {split}", unit="document")
        near += sum(seen.contains(document) for document in documents) if split != "train" else 0
        for document in corpus[split]["document"]:
            seen.add(document)
    return {
        "summaries_in_train": sum(docstrings.normalized(s) in known for s in held_out),
        "near_duplicates": near,
    }
