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
