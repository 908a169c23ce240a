"""Load what the stages of a study share: its corpus and its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.corpus import corpus_statistics, load_corpus
from distill_utils.models.bart import random_teacher
from distill_utils.models.checkpoint import check_lengths, checkpoint_folder, checkpoint_hash, load_model
from distill_utils.models.generation import set_length
from distill_utils.studies.settings import Study
from distill_utils.system.errors import UserError
from distill_utils.system.hub import is_hub_id
from distill_utils.system.paths import located


@dataclass(frozen=True)
class Prepared:
    """A study with its corpus and its teacher; make one per command or notebook and hand it down.

    Each part is built, fetched or hashed on first use and then kept.
    """

    study: Study

    @cached_property
    def corpus(self) -> DatasetDict:
        return load_corpus(self.study)

    @cached_property
    def statistics(self) -> dict:
        return corpus_statistics(self.study)

    @cached_property
    def teacher_folder(self) -> Path:
        """The folder of the study's teacher: a local one, one fetched from the Hub, or one with random weights.

        Raises UserError if it is not there.
        """
        study = self.study
        if not study.teacher.path:
            return random_teacher(study, self.corpus, self.fingerprint)
        last = study.teacher.path[-1]
        for path in study.teacher.path:
            if (located(path) / "config.json").is_file():
                return located(path)
        if not located(last).is_dir() and not is_hub_id(last):
            copy = "copy it there from the repository, or " if Path(last).name == "docstrings_teacher" else ""
            raise UserError(f"there is no teacher in {located(last)}; {copy}make one: distill teacher {study.file}")
        return checkpoint_folder(last, study.teacher.revision, study.hub_record, "teacher.path")

    @cached_property
    def teacher_hash(self) -> str:
        return checkpoint_hash(self.teacher_folder)

    def load_teacher(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The teacher and its tokenizer, read anew: a training may change their precision.

        Raises UserError if it is not there or cannot be this study's teacher.
        """
        model, tokenizer = load_model(self.teacher_folder)
        check_lengths(self.study, model)
        set_length(self.study, model)
        return model, tokenizer

    @property
    def fingerprint(self) -> str:
        """Of the corpus."""
        return self.statistics["fingerprint"]

    @property
    def texts_key(self) -> tuple[str, int, int]:
        """The parts of a key that say which texts are read, and how much of them."""
        return self.fingerprint, self.study.corpus.max_source_tokens, self.study.corpus.max_target_tokens
