"""How documents are written for a model: with line breaks or on one line, and after which prefix.

A study's models record it in their ``config.json``, so that ``distill summarize`` writes a document as the study did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from transformers import PretrainedConfig

from distill_utils.data.splits import fold
from distill_utils.studies.settings import CorpusSettings

NAME = "document_reading"


@dataclass(frozen=True)
class Reading:
    """The form of a document. Without a record in a checkpoint: one line, as the published BARTs read."""

    line_breaks: bool = False
    prefix: str = ""

    def applied(self, text: str) -> str:
        """Return a document in this form; one that has it stays as it is."""
        body = text.removeprefix(self.prefix)
        written = "\n".join(map(fold, body.strip().split("\n"))) if self.line_breaks else fold(body)
        return self.prefix + written if written else ""


def corpus_reading(corpus: CorpusSettings) -> Reading:
    """Return the form of a study's documents. Docstrings have a line break after the signature."""
    return Reading(corpus.line_breaks or not corpus.path, corpus.prefix)


def record_reading(config: PretrainedConfig, corpus: CorpusSettings) -> None:
    setattr(config, NAME, asdict(corpus_reading(corpus)))


def recorded_reading(config: PretrainedConfig | Mapping) -> Reading:
    """Return what a config, or an export's file, records."""
    found = config.get(NAME) if isinstance(config, Mapping) else getattr(config, NAME, None)
    if not isinstance(found, Mapping):
        return Reading()
    return Reading(bool(found.get("line_breaks")), str(found.get("prefix") or ""))


def reading_warning(config: PretrainedConfig, corpus: CorpusSettings) -> str:
    """Return a warning if a model's config asks for documents in another form than the study's, or an empty text."""
    found, here = recorded_reading(config), corpus_reading(corpus)
    if _recorded(config):
        own = [f"{name} = {value!r}" for name, value in asdict(found).items() if value != getattr(here, name)]
        return (
            f"the model's config records another form of documents than this study's: {', '.join(own)}" if own else ""
        )
    prefix = own_prefix(config)
    if not prefix or prefix == here.prefix:
        return ""
    return f"the model's config asks for the prefix {prefix!r} before a document: --set 'corpus.prefix={prefix}'"


def unrecorded_warning(config: PretrainedConfig, corpus: CorpusSettings) -> str:
    """Return a warning if ``distill summarize`` will write a model's documents otherwise than the study, or an empty text."""
    if _recorded(config) or corpus_reading(corpus) == Reading():
        return ""
    return f"the model's config has no {NAME!r}: distill summarize writes its documents on one line, without a prefix"


def _recorded(config: PretrainedConfig) -> bool:
    return isinstance(getattr(config, NAME, None), Mapping)


def own_prefix(config: PretrainedConfig) -> str:
    """Return the prefix that a config without a record names for summarization, as T5's do."""
    if _recorded(config):
        return ""
    tasks = getattr(config, "task_specific_params", None)
    task = tasks.get("summarization") if isinstance(tasks, Mapping) else None
    prefix = task.get("prefix") if isinstance(task, Mapping) else None
    return prefix if isinstance(prefix, str) and prefix.strip() else ""
