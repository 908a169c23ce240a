"""Summarize a split with a model and score the summaries with ROUGE; evaluations are stored and reused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.corpus import corpus_statistics, load_corpus
from distill_utils.data.splits import drawn
from distill_utils.evaluation.baselines import baselines
from distill_utils.metrics.rouge import TYPES, rouge_scores
from distill_utils.models.backends import Backend, CTranslate2, import_ctranslate2
from distill_utils.models.export import export
from distill_utils.models.generation import generation_settings, summarize
from distill_utils.studies.plan import Part
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import intact, is_current, read_json, whole_folder, write_json
from distill_utils.system.distributed import as_main_says, is_main, wait_for_all, world_size
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress

FILE = "evaluation.json"
CHECKED_ROWS = 64  # for the teacher check, and to compare a backend's summaries with PyTorch's


@dataclass(frozen=True)
class Evaluation:
    """One system's summaries and their ROUGE F1 in points, ``(examples,)`` each.

    Attributes:
        examples: indices of the pairs in the split.
        same_as_pytorch: fraction of the first :data:`CHECKED_ROWS` summaries that equal PyTorch's; None: written by PyTorch.
    """

    system: str
    predictions: list[str]
    scores: dict[str, np.ndarray]
    examples: np.ndarray
    same_as_pytorch: float | None = None

    def means(self) -> dict[str, float]:
        return {kind: float(scores.mean()) for kind, scores in self.scores.items()}


def part_examples(study: Study, part: Part) -> list[int]:
    """Return the indices of a part's pairs in its split."""
    ids = load_corpus(study)[part.split]["id"]
    return sorted(drawn(ids, part.count)) if part.count else list(range(len(ids)))


def evaluate_model(
    study: Study, system: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: str, part: Part | None = None
) -> Evaluation:  # fmt: skip
    """Summarize and score the test split or another part; ``checkpoint``: hash of the checkpoint."""
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


def evaluate_backend(study: Study, system: str, runtime: Backend, checkpoint: str, **settings) -> Evaluation:
    """Summarize and score the test split in an inference backend; ``settings``: arguments of ``model.generate``."""

    def write(documents: Sequence[str]) -> tuple[list[str], None]:
        return _written(study, runtime, documents, f"{system} summarizes", settings), None

    return _evaluated(study, system, checkpoint, Part(), write)


def _evaluated(
    study: Study, system: str, checkpoint: str, part: Part, write: Callable[[Sequence[str]], tuple[list[str], float | None]]
) -> Evaluation:  # fmt: skip
    key = evaluation_key(study, system, checkpoint, part)
    if not as_main_says(is_current(study.evaluations_folder / system, key)):
        predictions, same = write(load_corpus(study)[part.split].select(part_examples(study, part))["document"])
        if is_main():
            _save(study, system, predictions, key, part, same)
        wait_for_all()
    return load_evaluation(study, system)


def _writer(study: Study) -> str:
    """Return the backend that writes the summaries, with its version; only PyTorch runs in several processes."""
    if study.evidence.runtime == "pytorch-fp32" or world_size() > 1:
        return "pytorch-fp32"
    import_ctranslate2()
    return f"{study.evidence.runtime} {metadata.version('ctranslate2')}"


def _exported(study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Backend:
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    quantization = study.evidence.runtime.partition("-")[2]
    return CTranslate2(export(folder / "checkpoint", folder / "export", quantization), study.corpus.max_source_tokens)


def _written(study: Study, runtime: Backend, documents: Sequence[str], desc: str, settings: dict) -> list[str]:
    written = runtime.summarize(documents, study.generation.batch_size, **settings)
    return list(progress(written, desc=desc, total=len(documents), unit="document"))


def evaluate_texts(study: Study, system: str, predictions: Sequence[str]) -> Evaluation:
    """Score a baseline's summaries."""
    key = evaluation_key(study, system, fingerprint(list(predictions)))
    if not is_current(study.evaluations_folder / system, key):
        _save(study, system, list(predictions), key)
    return load_evaluation(study, system)


def load_evaluation(study: Study, system: str, checkpoint: str | None = None, part: Part | None = None) -> Evaluation:
    """Load a stored evaluation; with ``checkpoint``, only if it is of that checkpoint.

    Raises:
        UserError: if there is none.
    """
    folder = study.evaluations_folder / system
    path = folder / FILE
    current = path.is_file() and intact(folder)
    current = current and (checkpoint is None or is_current(folder, evaluation_key(study, system, checkpoint, part)))
    if not current:
        notebook = "02_teacher_evaluation" if system == "teacher" or system in baselines(study) else "03_distillation"
        raise UserError(
            f"{study.name} has no evaluation of {system!r} with these settings; run notebook {notebook} first"
        )
    data = read_json(path)
    if "examples" not in data:  # of an earlier version
        raise UserError(f"{study.name} has an evaluation of {system!r} from an earlier version; run its notebook again")
    scores = {kind: np.asarray(values) for kind, values in data["scores"].items()}
    return Evaluation(system, data["predictions"], scores, np.asarray(data["examples"]), data.get("same_as_pytorch"))


def evaluation_key(study: Study, system: str, made_from: str, part: Part | None = None) -> str:
    return fingerprint(
        system, made_from, corpus_statistics(study)["fingerprint"], study.settings()["generation"],
        study.corpus.max_source_tokens, asdict(part or Part()), _writer(study),
        code_fingerprint("models.generation", "metrics.rouge", "evaluation.evaluate", "data", "models.backends", "models.export"),
    )  # fmt: skip


def _save(
    study: Study, system: str, predictions: list[str], key: str, part: Part | None = None, same: float | None = None
) -> None:
    part = part or Part()
    examples = part_examples(study, part)
    scores = rouge_scores(predictions, load_corpus(study)[part.split].select(examples)["summary"])
    content = {
        "predictions": predictions,
        "scores": {kind: scores[kind].tolist() for kind in TYPES},
        "examples": examples,
        "same_as_pytorch": same,
    }
    with whole_folder(study.evaluations_folder / system, key) as folder:
        write_json(folder / FILE, content)
