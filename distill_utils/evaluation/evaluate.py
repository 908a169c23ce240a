"""Generate summaries of a split with a model and score them with ROUGE; evaluations are kept and reused."""

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


CHECKED_ROWS = 64  # of the validation split, when a teacher is checked; of those summarized, when another runtime is


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


def part_examples(study: Study, part: Part) -> list[int]:
    """Return which pairs of its split a part consists of."""
    ids = load_corpus(study)[part.split]["id"]
    return sorted(drawn(ids, part.count)) if part.count else list(range(len(ids)))


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


def evaluate_backend(study: Study, system: str, runtime: Backend, checkpoint: str, **settings) -> Evaluation:
    """The same for a checkpoint in another runtime, on the whole test split; ``settings`` as ``model.generate`` takes them."""

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
    """What writes the summaries: several processes share PyTorch's work."""
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
    """Score summaries that no model wrote: a baseline's."""
    key = evaluation_key(study, system, fingerprint(list(predictions)))
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
    current = current and (checkpoint is None or is_current(folder, evaluation_key(study, system, checkpoint, part)))
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
