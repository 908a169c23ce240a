"""Systems on a study's test split: a model or its texts enter, summaries and per-example ROUGE leave.

Every evaluation is kept under ``runs/<study>/evaluations/<system>`` and reused while it still stands
for the same model, test pairs and generation settings.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.artefacts import intact, is_current, read_json, whole_folder, write_json
from distill_utils.corpora import corpus_statistics, drawn, load_corpus
from distill_utils.errors import UserError
from distill_utils.export import export
from distill_utils.generation import generation_settings, summarize
from distill_utils.processes import as_main_says, is_main, wait_for_all, world_size
from distill_utils.progress import progress
from distill_utils.rouge import TYPES, rouge_scores
from distill_utils.runtimes import CTranslate2, Runtime, import_ctranslate2
from distill_utils.study import Study, code_fingerprint, fingerprint

FILE = "evaluation.json"
CHECKED_ROWS = 64  # of the validation split, when a teacher is checked; of those summarized, when another runtime is
LENGTHS_APART = 2  # summaries so many times longer or shorter than the references are of another kind


@dataclass(frozen=True)
class Part:
    """What a system is asked to summarize: ``count`` pairs of a split, drawn by a hash (0: all), and whether greedily."""

    split: str = "test"
    count: int = 0
    greedy: bool = False

    def examples(self, study: Study) -> list[int]:
        ids = load_corpus(study)[self.split]["id"]
        return sorted(drawn(ids, self.count)) if self.count else list(range(len(ids)))


@dataclass(frozen=True)
class Evaluation:
    """One system's summaries and their ROUGE F1 in points, ``(examples,)`` each.

    ``examples``: which pairs of the split they are of; all of the test split, unless fewer were asked for. ``same_as_pytorch``: where another
    runtime wrote the summaries, the share of the first ones that PyTorch writes word for word alike.
    """

    system: str
    predictions: list[str]
    scores: dict[str, np.ndarray]
    examples: np.ndarray
    same_as_pytorch: float | None = None

    def means(self) -> dict[str, float]:
        return {kind: float(scores.mean()) for kind, scores in self.scores.items()}


def evaluate_model(
    study: Study, system: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: str, part: Part | None = None
) -> Evaluation:  # fmt: skip
    """Summarize the test split, or a part of one, and score it; ``checkpoint`` is the hash of the model's checkpoint."""
    part = part or Part()
    arguments = study.generation.arguments() | ({"num_beams": 1} if part.greedy else {})

    def in_pytorch(documents: Sequence[str], desc: str | None) -> list[str]:
        return summarize(
            model, tokenizer, documents, max_source_tokens=study.corpus.max_source_tokens,
            batch_size=study.generation.batch_size, desc=desc, **arguments,
        )  # fmt: skip

    def write(documents: Sequence[str]) -> tuple[list[str], float | None]:
        desc = f"{system} summarizes"
        if _writer(study) == "pytorch-fp32":
            return in_pytorch(documents, desc), None
        with tempfile.TemporaryDirectory() as folder:
            runtime = _exported(study, model, tokenizer, Path(folder))
            predictions = _written(study, runtime, documents, desc, generation_settings(study, model) | arguments)
        pairs = zip(predictions, in_pytorch(documents[:CHECKED_ROWS], None), strict=False)
        return predictions, float(np.mean([ours == theirs for ours, theirs in pairs]))

    return _evaluated(study, system, checkpoint, part, write)


def evaluate_runtime(study: Study, system: str, runtime: Runtime, checkpoint: str, **settings) -> Evaluation:
    """The same for a checkpoint in another runtime, on the whole test split; ``settings`` as ``model.generate`` takes them."""

    def write(documents: Sequence[str]) -> tuple[list[str], None]:
        return _written(study, runtime, documents, f"{system} summarizes", settings), None

    return _evaluated(study, system, checkpoint, Part(), write)


def _evaluated(
    study: Study, system: str, checkpoint: str, part: Part, write: Callable[[Sequence[str]], tuple[list[str], float | None]]
) -> Evaluation:  # fmt: skip
    key = _key(study, system, checkpoint, part)
    if not as_main_says(is_current(study.evaluations_folder / system, key)):
        predictions, same = write(load_corpus(study)[part.split].select(part.examples(study))["document"])
        if is_main():
            _save(study, system, predictions, key, part, same)
        wait_for_all()
    return load_evaluation(study, system)


def _writer(study: Study) -> str:
    """What writes the summaries: several processes share PyTorch's work."""
    if study.evidence.runtime == "pytorch-fp32" or world_size() > 1:
        return "pytorch-fp32"
    import_ctranslate2()
    return f"{study.evidence.runtime} {metadata.version('ctranslate2')}"


def _exported(study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Runtime:
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    quantization = study.evidence.runtime.partition("-")[2]
    return CTranslate2(export(folder / "checkpoint", folder / "export", quantization), study.corpus.max_source_tokens)


def _written(study: Study, runtime: Runtime, documents: Sequence[str], desc: str, settings: dict) -> list[str]:
    written = runtime.summarize(documents, study.generation.batch_size, **settings)
    return list(progress(written, desc=desc, total=len(documents), unit="document"))


def evaluate_texts(study: Study, system: str, predictions: Sequence[str]) -> Evaluation:
    """Score summaries that no model wrote: a baseline's."""
    key = _key(study, system, fingerprint(list(predictions)))
    if not is_current(study.evaluations_folder / system, key):
        _save(study, system, list(predictions), key)
    return load_evaluation(study, system)


def load_evaluation(study: Study, system: str, checkpoint: str | None = None, part: Part | None = None) -> Evaluation:
    """An evaluation that an earlier notebook made; with ``checkpoint``, of that checkpoint and no other.

    Raises:
        UserError: it is not there.
    """
    folder = study.evaluations_folder / system
    path = folder / FILE
    current = path.is_file() and intact(folder)
    current = current and (checkpoint is None or is_current(folder, _key(study, system, checkpoint, part)))
    if not current:
        notebook = "02_teacher_evaluation" if system == "teacher" or system in baselines(study) else "03_distillation"
        raise UserError(
            f"{study.name} has no evaluation of {system!r} with these settings; run notebook {notebook} first"
        )
    data = read_json(path)
    if "examples" not in data:  # of an earlier version
        raise UserError(f"{study.name} has an old evaluation of {system!r}; run the notebook that makes it again")
    scores = {kind: np.asarray(values) for kind, values in data["scores"].items()}
    return Evaluation(system, data["predictions"], scores, np.asarray(data["examples"]), data.get("same_as_pytorch"))


def _key(study: Study, system: str, made_from: str, part: Part | None = None) -> str:
    return fingerprint(
        system, made_from, corpus_statistics(study)["fingerprint"], study.settings()["generation"],
        study.corpus.max_source_tokens, asdict(part or Part()), _writer(study),
        code_fingerprint("generation", "rouge", "evaluation", "corpora", "runtimes", "export"),
    )  # fmt: skip


def _save(
    study: Study, system: str, predictions: list[str], key: str, part: Part | None = None, same: float | None = None
) -> None:
    part = part or Part()
    examples = part.examples(study)
    scores = rouge_scores(predictions, load_corpus(study)[part.split].select(examples)["summary"])
    content = {
        "predictions": predictions,
        "scores": {kind: scores[kind].tolist() for kind in TYPES},
        "examples": examples,
        "same_as_pytorch": same,
    }
    with whole_folder(study.evaluations_folder / system, key) as folder:
        write_json(folder / FILE, content)


# -- baselines: what costs nothing -----------------------------------------------------------------------


def baselines(study: Study) -> dict[str, Callable[[str], str]]:
    """Name → how it makes a summary of a document; the first is the lead baseline."""
    if study.corpus.path:
        return {
            "lead-sentence": lead,
            "lead-3-sentences": lambda document: lead(document, 3),
            "first-20-words": first_words,
        }
    return {
        "lead-sentence": lambda document: lead(details(document)),
        "first-12-words": lambda document: first_words(details(document), 12),
        "name": name_words,
    }


def lead(document: str, sentences: int = 1) -> str:
    """The first sentences."""
    return " ".join(re.split(r"(?<=[.!?])\s", document, maxsplit=sentences)[:sentences])


def first_words(document: str, words: int = 20) -> str:
    """The first words; 20 is about the length of a news summary of one sentence, 12 that of a docstring's."""
    return " ".join(document.split()[:words])


def details(document: str) -> str:
    """A docstring's text: all but the first line, which has name and signature."""
    return document.partition("\n")[2] or document


def name_words(document: str) -> str:
    """The words of the object's name: ``scipy.linalg.LinAlgError`` → ``lin alg error``."""
    name = re.split(r"[\s(]", document, maxsplit=1)[0].rpartition(".")[2]
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()


# -- does the teacher fit the corpus? ----------------------------------------------------------------------


def check_teacher(study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> dict:
    """ROUGE-L of the teacher and of the lead baseline on the first validation rows, before hours are spent.

    Three copied sentences can score no worse than one, so lengths are compared as well.

    Returns:
        ``rows``, ``teacher_rougeL``, ``lead_rougeL``, ``teacher_words`` and ``reference_words`` (mean lengths),
        and ``warning``: None, or what is wrong and what to do.
    """
    folder = study.folder / "teacher_check"
    key = _key(study, "teacher_check", checkpoint)
    if not as_main_says(is_current(folder, key)):
        rows = load_corpus(study)["validation"]
        rows = rows.select(range(min(CHECKED_ROWS, len(rows))))
        written = summarize(
            model, tokenizer, rows["document"], max_source_tokens=study.corpus.max_source_tokens,
            batch_size=study.generation.batch_size, desc="checking the teacher", **study.generation.arguments(),
        )  # fmt: skip
        if is_main():
            with whole_folder(folder, key) as temporary:
                write_json(temporary / FILE, _checked(study, rows, written))
        wait_for_all()
    return read_json(folder / FILE)


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


# -- describing texts ------------------------------------------------------------------------------------


def describe_texts(
    predictions: Sequence[str], pairs: Dataset, teacher_predictions: Sequence[str] | None = None
) -> dict[str, float]:
    """What ROUGE does not say about summaries.

    Returns:
        ``length_ratio``: words written ÷ words of the references; percentages ``novel_bigrams`` (of bigrams that the document does
        not have), ``repeated_bigrams`` (of those that stand in the same summary before) and ``reference_share`` (of
        summaries that are the reference, word for word); ``teacher_agreement``: ROUGE-L against the teacher's summaries.
    """
    words, wanted = (sum(len(text.split()) for text in texts) for texts in (predictions, pairs["summary"]))
    bigrams = [_ngrams(text, 2) for text in predictions]
    total = sum(b.total() for b in bigrams)
    found = {
        "length_ratio": words / wanted if wanted else 0.0,
        "novel_bigrams": novel_ngrams({"document": pairs["document"], "summary": list(predictions)}, 2),
        "repeated_bigrams": 100 * sum(b.total() - len(b) for b in bigrams) / total if total else 0.0,
        "reference_share": 100
        * sum(p.split() == r.split() for p, r in zip(predictions, pairs["summary"], strict=True))
        / len(predictions),
    }
    if teacher_predictions is not None:
        found["teacher_agreement"] = float(rouge_scores(predictions, teacher_predictions)["rougeL"].mean())
    return found


def novel_ngrams(pairs: Mapping[str, Sequence[str]], n: int) -> float:
    """Percentage of the summaries' n-grams that their document does not have (as Narayan et al. 2018 measure abstraction)."""
    novel = total = 0
    for document, summary in zip(pairs["document"], pairs["summary"], strict=True):
        inside, wanted = _ngrams(document, n), _ngrams(summary, n)
        total += wanted.total()
        novel += sum(count for gram, count in wanted.items() if gram not in inside)
    return 100 * novel / total if total else 0.0


def _ngrams(text: str, n: int) -> Counter:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))
