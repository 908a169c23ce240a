"""Check on a few validation rows that a teacher performs the study's task."""

from __future__ import annotations

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.corpus import rouge_words
from distill_utils.data.reading import reading_warning
from distill_utils.evaluation.baselines import baselines
from distill_utils.evaluation.evaluate import CHECKED_ROWS, FILE, evaluation_key
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.generation import summarize
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.distributed import reuse
from distill_utils.system.run_time import spending, writing

LENGTHS_APART = 2  # maximum ratio between the mean lengths of summaries and references


def check_teacher(prepared: Prepared, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Compare the teacher's ROUGE-L with the lead baseline's on the first validation rows.

    Lengths are compared too, because several copied sentences can score as well as one.

    Returns:
        ``rows``, ``teacher_rougeL``, ``lead_rougeL``, ``teacher_words`` and ``reference_words`` (mean lengths),
        and ``warning`` (None: OK).
    """
    study = prepared.study

    def compute() -> dict:
        rows = prepared.corpus["validation"]
        rows = rows.select(range(min(CHECKED_ROWS, len(rows))))
        with spending(writing("teacher"), "checking the teacher"):
            written = summarize(
                model, tokenizer, rows["document"], max_source_tokens=study.corpus.max_source_tokens,
                batch_size=study.generation.batch_size, desc="checking the teacher", **study.generation.arguments(),
            )  # fmt: skip
        checked = _checked(study, rows, written, rouge_words(study))
        if form := reading_warning(model.config, study.corpus):
            checked["warning"] = f"{checked['warning']}; {form}" if checked["warning"] else form
        return checked

    key = evaluation_key(prepared, "teacher_check", prepared.teacher_hash, writer="pytorch-fp32")
    return reuse(study.folder / "teacher_check" / FILE, key, compute)


def _checked(study: Study, rows: Dataset, written: list[str], kind: str) -> dict:
    name, baseline = next(iter(baselines(study).items()))
    trivial = [baseline(document) for document in rows["document"]]
    teacher, lead_rouge = (
        float(rouge_scores(texts, rows["summary"], kind)["rougeL"].mean()) for texts in (written, trivial)
    )
    words, wanted = (sum(len(text.split()) for text in texts) / len(rows) for texts in (written, rows["summary"]))
    warning = (
        f"the teacher does not perform this task: on {len(rows)} validation rows it scores {teacher:.1f} ROUGE-L and {name} {lead_rouge:.1f}; "
        f"its summaries have {words:.0f} words and the references {wanted:.0f}. Use a teacher that was fine-tuned on this corpus "
        f"(facebook/bart-large-xsum for XSum, facebook/bart-large-cnn for CNN/DailyMail), or fine-tune one: distill teacher {study.file}, "
        "the --set options of your corpus, and --set teacher.base=facebook/bart-large --set teacher.path=models/DIR"
    )
    fits = teacher >= lead_rouge and 1 / LENGTHS_APART < words / wanted < LENGTHS_APART
    if not study.teacher.path:
        fits, warning = False, "the teacher has random weights: this study is a test run, and its ROUGE is meaningless"
    return {
        "rows": len(rows),
        "teacher_rougeL": teacher,
        "lead_rougeL": lead_rouge,
        "teacher_words": words,
        "reference_words": wanted,
        "warning": None if fits else warning,
    }
