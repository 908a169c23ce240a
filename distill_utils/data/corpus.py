"""Build a study's corpus once, as a ``DatasetDict`` of ``id, document, summary``, and load it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from datasets import Dataset, DatasetDict

from distill_utils.data import docstrings, tables
from distill_utils.data.docstrings import Docstring
from distill_utils.data.splits import SPLITS
from distill_utils.metrics.words import ENGLISH
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current, read_json, whole_folder, write_json
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.paths import located
from distill_utils.system.run_time import spending

STATISTICS_FILE = "statistics.json"


def load_corpus(study: Study) -> DatasetDict:
    """Load the study's corpus; it is built on first use.

    Returns:
        ``train``, ``validation`` and ``test``, each with string columns ``id``, ``document`` and
        ``summary`` (and ``package`` for docstrings, ``lines`` for summaries of several lines); and ``unlabelled`` where the
        study keeps documents without summary.
    """
    key = corpus_key(study)
    if not is_current(study.corpus_folder, key):
        with spending("corpus"):
            _build(study, key)
    return DatasetDict.load_from_disk(study.corpus_folder)


def corpus_statistics(study: Study) -> dict:
    """Return how the corpus was built: ``steps`` (counts of rows read and dropped), revision, fingerprint."""
    load_corpus(study)
    return read_json(study.corpus_folder / STATISTICS_FILE)


def rouge_words(study: Study) -> str:
    """Return what ROUGE takes for a word in this corpus; see :mod:`distill_utils.metrics.words`."""
    return corpus_statistics(study)["words"]


def corpus_key(study: Study) -> str:
    """Return the fingerprint of the corpus's inputs: settings, sources and the code that reads them."""
    settings = study.settings()["corpus"]
    settings = {k: v for k, v in settings.items() if k not in ("max_source_tokens", "max_target_tokens")}
    if study.corpus.path:
        del settings["packages"], settings["filters"]
        return fingerprint(settings, tables.content_key(study.corpus), code_fingerprint("data", "metrics.words"))
    packages = corpus_packages(study)
    versions = docstrings.installed_versions(packages)
    return fingerprint(
        settings, packages, versions, platform.python_version(), code_fingerprint("data", "metrics.words")
    )


def corpus_name(study: Study) -> str:
    """Return ``docstrings``, a dataset's id, or a file's name without its folder."""
    if not study.corpus.path:
        return "docstrings"
    return Path(study.corpus.path).name if located(study.corpus.path).exists() else study.corpus.path


def corpus_description(study: Study) -> str:
    """Describe the source of the pairs, in Markdown."""
    if not study.corpus.path:
        return (
            "The sources of the listed packages are parsed, not imported. A *document* is an object's name and signature, a line "
            "break, and its docstring after the first paragraph. The *summary* is the first paragraph. Filters drop first paragraphs "
            "that do not summarize; the study file gives the reason for each filter."
        )
    statistics = corpus_statistics(study)
    alone = ", but for training documents without a summary" if study.corpus.unlabelled else ""
    revision = f", revision `{statistics['revision'][:10]}`" if statistics["revision"] else ""
    return (
        f"The pairs come from `{corpus_name(study)}`{revision}: its column `{study.corpus.document}` has the documents, its column "
        f"`{study.corpus.summary}` the summaries. They are split by {statistics['split_by']}. Rows with an empty side are dropped{alone}."
    )


def corpus_packages(study: Study) -> dict[str, str]:
    """Return the corpus's packages with their splits; those that the list does not have are training packages."""
    named, listed = study.corpus.packages, docstrings.listed_packages()
    if unknown := sorted({*named} - docstrings.installed_versions(named).keys()):
        raise UserError(f"setting 'corpus.packages' names {unknown[0]!r}, which is not installed")
    return {package: listed.get(package, "train") for package in named} or listed


def _build(study: Study, key: str) -> None:
    corpus, statistics = _from_table(study) if study.corpus.path else _from_docstrings(study)
    if len(corpus["test"]) == 1:
        name = study.corpus.path or "the corpus"
        raise UserError(f"{name} leaves one test pair; intervals need at least two, and say something from some 100")
    statistics["steps"] |= {f"{split} pairs": len(corpus[split]) for split in SPLITS}
    with whole_folder(study.corpus_folder, key) as folder:
        corpus.save_to_disk(folder)
        write_json(folder / STATISTICS_FILE, statistics)


def _from_table(study: Study) -> tuple[DatasetDict, dict]:
    corpus, statistics = tables.read_pairs(study.corpus, study.hub_record)
    steps = {f"rows read, {split}": count for split, count in statistics["rows"].items()}
    steps |= {f"rows not used, {split}": count for split, count in statistics["unused"].items()}
    steps |= {"files not read": statistics["unread"]} if statistics["unread"] else {}
    steps |= {f"dropped: {reason}": count for reason, count in statistics["dropped"].items()}
    if tables.UNLABELLED in corpus:
        steps["kept: documents without summary"] = len(corpus[tables.UNLABELLED])
    if statistics["longer"]:
        steps["kept: summary longer than its document"] = statistics["longer"]
    return corpus, {**statistics, "steps": steps, "fingerprint": tables.pairs_fingerprint(corpus)}


def _from_docstrings(study: Study) -> tuple[DatasetDict, dict]:
    packages = corpus_packages(study)
    found, statistics = docstrings.extract(docstrings.source_files(packages), workers=os.cpu_count() or 1)
    pairs, dropped = docstrings.select_pairs(found, study.corpus.filters, packages)
    if empty := [split for split in SPLITS if not pairs[split]]:
        some = ", ".join([name for name, split in docstrings.listed_packages().items() if split == empty[0]][:3])
        raise UserError(
            f"the corpus has no {empty[0]} pairs: loosen [corpus.filters] or add a package of that split to corpus.packages ({some} …)"
        )
    kept = {split: pairs[split][: getattr(study.corpus, f"max_{split}") or None] for split in SPLITS}
    steps = {"Python files read": statistics["files"], "files that did not parse": statistics["unreadable_files"]}
    steps |= {"docstrings found": statistics["docstrings"]}
    steps |= {f"dropped: {reason}": count for reason, count in dropped.items()}
    return DatasetDict({split: _as_dataset(kept[split]) for split in SPLITS}), {
        "steps": steps,
        "revision": None,
        "words": ENGLISH,
        "fingerprint": fingerprint(*[[d.id for d in kept[split]] for split in SPLITS]),
    }


def _as_dataset(pairs: list[Docstring]) -> Dataset:
    columns = ("id", "package", "document", "summary")
    return Dataset.from_dict({column: [getattr(d, column) for d in pairs] for column in columns})
