"""Check on a few validation rows that a teacher performs the study's task."""

from __future__ import annotations

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.evaluation.baselines import baselines
from distill_utils.evaluation.evaluate import CHECKED_ROWS, FILE, evaluation_key
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.generation import summarize
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.distributed import reuse

LENGTHS_APART = 2  # summaries so many times longer or shorter than the references are of another kind


def check_teacher(prepared: Prepared, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    """ROUGE-L of the teacher and of the lead baseline on the first validation rows, before hours are spent.

    Three copied sentences can score no worse than one, so lengths are compared as well.

    Returns:
        ``rows``, ``teacher_rougeL``, ``lead_rougeL``, ``teacher_words`` and ``reference_words`` (mean lengths),
        and ``warning``: None, or what is wrong and what to do.
    """
    study = prepared.study

    def compute() -> dict:
        rows = prepared.corpus["validation"]
        rows = rows.select(range(min(CHECKED_ROWS, len(rows))))
        written = summarize(
            model, tokenizer, rows["document"], max_source_tokens=study.corpus.max_source_tokens,
            batch_size=study.generation.batch_size, desc="checking the teacher", **study.generation.arguments(),
        )  # fmt: skip
        return _checked(study, rows, written)

    key = evaluation_key(prepared, "teacher_check", prepared.teacher_hash)
    return reuse(study.folder / "teacher_check" / FILE, key, compute)


def _checked(study: Study, rows: Dataset, written: list[str]) -> dict:
    name, baseline = next(iter(baselines(study).items()))
    trivial = [baseline(document) for document in rows["document"]]
    teacher, lead_rouge = (float(rouge_scores(texts, rows["summary"])["rougeL"].mean()) for texts in (written, trivial))
    words, wanted = (sum(len(text.split()) for text in texts) / len(rows) for texts in (written, rows["summary"]))
    warning = (
        f"the teacher does not do this task: on {len(rows)} validation rows it scores {teacher:.1f} ROUGE-L and {name} {lead_rouge:.1f}, "
        f"its summaries have {words:.0f} words and the references {wanted:.0f}. "
        "A teacher made for another corpus writes another kind of summary: facebook/bart-large-cnn, for instance, writes three "
        "sentences taken from the article where XSum wants one in new words. Take one that was fine-tuned on this corpus "
        f"(facebook/bart-large-xsum for XSum, facebook/bart-large-cnn for CNN/DailyMail), or fine-tune one: distill teacher {study.file}, "
        "the --set options that give your corpus, and --set teacher.base=facebook/bart-large --set teacher.path=models/DIR"
    )
    fits = teacher >= lead_rouge and 1 / LENGTHS_APART < words / wanted < LENGTHS_APART
    if not study.teacher.path:
        fits, warning = False, "the teacher has random weights: this study tries the machinery, its ROUGE means nothing"
    return {
        "rows": len(rows),
        "teacher_rougeL": teacher,
        "lead_rougeL": lead_rouge,
        "teacher_words": words,
        "reference_words": wanted,
        "warning": None if fits else warning,
    }
