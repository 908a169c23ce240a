"""Summarize a split with a model and score the summaries with ROUGE; evaluations are stored and reused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.corpus import rouge_words
from distill_utils.data.splits import drawn
from distill_utils.data.tables import references
from distill_utils.evaluation.baselines import baselines
from distill_utils.evaluation.lookup import LOOKUP, looked_up
from distill_utils.metrics.rouge import TYPES, rouge_scores
from distill_utils.models.backends import Backend, CTranslate2, PyTorch, import_ctranslate2
from distill_utils.models.export import export
from distill_utils.models.generation import generation_settings, summarize
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import Part
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import intact, is_current, read_json
from distill_utils.system.distributed import reuse, world_size
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress
from distill_utils.system.run_time import spending, writing

FILE = "evaluation.json"
WHOLE = Part()
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


def part_examples(prepared: Prepared, part: Part) -> list[int]:
    """Return the indices of a part's pairs in its split."""
    ids = prepared.corpus[part.split]["id"]
    return sorted(drawn(ids, part.count)) if part.count else list(range(len(ids)))


def evaluate_model(
    prepared: Prepared, system: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: str, part: Part = WHOLE
) -> Evaluation:  # fmt: skip
    """Summarize and score the test split or another part; ``checkpoint``: hash of the checkpoint."""
    study = prepared.study
    arguments = study.generation.arguments() | ({"num_beams": 1} if part.greedy else {})

    def in_pytorch(documents: Sequence[str], desc: str | None) -> list[str]:
        return summarize(
            model, tokenizer, documents, max_source_tokens=study.corpus.max_source_tokens,
            batch_size=study.generation.batch_size, desc=desc, **arguments,
        )  # fmt: skip

    def write(documents: Sequence[str]) -> tuple[list[str], float | None]:
        with spending(writing(system), system):
            return written(documents)

    def written(documents: Sequence[str]) -> tuple[list[str], float | None]:
        desc = f"{system} summarizes"
        if _writer(study) == "pytorch-fp32":
            return in_pytorch(documents, desc), None
        with scoring_backend(study, model, tokenizer) as runtime:
            predictions = _written(study, runtime, documents, desc, generation_settings(study, model) | arguments)
        pairs = zip(predictions, in_pytorch(documents[:CHECKED_ROWS], None), strict=False)
        return predictions, float(np.mean([ours == theirs for ours, theirs in pairs]))

    return _evaluated(prepared, system, checkpoint, write, part)


def evaluate_backend(prepared: Prepared, system: str, runtime: Backend, checkpoint: str, **settings) -> Evaluation:
    """Summarize and score the test split in an inference backend; ``settings``: arguments of ``model.generate``."""

    def write(documents: Sequence[str]) -> tuple[list[str], None]:
        return _written(prepared.study, runtime, documents, f"{system} summarizes", settings), None

    return _evaluated(prepared, system, checkpoint, write)


def evaluate_baselines(prepared: Prepared) -> dict[str, Evaluation]:
    """Score the baselines on the test split, by name; see :func:`baseline_names`."""

    def write(name: str, documents: Sequence[str]) -> tuple[list[str], None]:
        if name == LOOKUP:
            return looked_up(prepared)["summaries"], None
        return [*map(baselines(prepared.study)[name], documents)], None

    code = code_fingerprint("evaluation.baselines", "evaluation.lookup", "metrics.words")
    return {name: _evaluated(prepared, name, code, partial(write, name)) for name in baseline_names(prepared.study)}


def baseline_names(study: Study) -> list[str]:
    return [*baselines(study), LOOKUP]


def _evaluated(
    prepared: Prepared, system: str, made_from: str, write: Callable[[Sequence[str]], tuple[list[str], float | None]], part: Part = WHOLE
) -> Evaluation:  # fmt: skip
    def compute() -> dict:
        examples = part_examples(prepared, part)
        pairs = prepared.corpus[part.split].select(examples)
        predictions, same = write(pairs["document"])
        scores = rouge_scores(predictions, references(pairs), rouge_words(prepared.study))
        return {
            "predictions": predictions,
            "scores": {kind: scores[kind].tolist() for kind in TYPES},
            "examples": examples,
            "same_as_pytorch": same,
        }

    path = prepared.study.evaluations_folder / system / FILE
    return _evaluation(system, reuse(path, evaluation_key(prepared, system, made_from, part), compute))


def _evaluation(system: str, data: dict) -> Evaluation:
    scores = {kind: np.asarray(values) for kind, values in data["scores"].items()}
    return Evaluation(system, data["predictions"], scores, np.asarray(data["examples"]), data["same_as_pytorch"])


def _writer(study: Study) -> str:
    """Return the backend that writes the summaries, with its version; only PyTorch runs in several processes."""
    if study.evidence.runtime == "pytorch-fp32" or world_size() > 1:
        return "pytorch-fp32"
    import_ctranslate2()
    return f"{study.evidence.runtime} {metadata.version('ctranslate2')}"


@contextmanager
def scoring_backend(study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Backend]:
    """Provide the backend that writes the scored summaries; an export lies in a temporary folder."""
    limit = study.corpus.max_source_tokens
    if _writer(study) == "pytorch-fp32":
        yield PyTorch(model, tokenizer, limit)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder / "checkpoint")
        tokenizer.save_pretrained(folder / "checkpoint")
        quantization = study.evidence.runtime.partition("-")[2]
        yield CTranslate2(export(folder / "checkpoint", folder / "export", quantization), limit)


def _written(study: Study, runtime: Backend, documents: Sequence[str], desc: str, settings: dict) -> list[str]:
    written = runtime.summarize_as_given(documents, study.generation.batch_size, **settings)
    return list(progress(written, desc=desc, total=len(documents), unit="document"))


def load_evaluation(prepared: Prepared, system: str, checkpoint: str | None = None, part: Part = WHOLE) -> Evaluation:
    """Load a stored evaluation; with ``checkpoint``, only if it is of that checkpoint.

    Raises UserError if there is none.
    """
    study = prepared.study
    folder = study.evaluations_folder / system
    current = (folder / FILE).is_file() and intact(folder)
    current = current and (checkpoint is None or is_current(folder, evaluation_key(prepared, system, checkpoint, part)))
    if not current:
        notebook = (
            "02_teacher_evaluation" if system == "teacher" or system in baseline_names(study) else "03_distillation"
        )
        raise UserError(
            f"{study.name} has no evaluation of {system!r} with these settings; run notebook {notebook} first"
        )
    return _evaluation(system, read_json(folder / FILE))


def evaluation_key(prepared: Prepared, system: str, made_from: str, part: Part = WHOLE, writer: str = "") -> str:
    """Return the key of an evaluation; ``writer``: the backend, by default the study's."""
    return fingerprint(
        system, made_from, prepared.texts_key, prepared.study.settings()["generation"], asdict(part), writer or _writer(prepared.study),
        code_fingerprint("models.generation", "metrics.rouge", "metrics.words", "evaluation.evaluate", "data", "models.backends", "models.decoding", "models.export"),
    )  # fmt: skip
