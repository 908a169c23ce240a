"""Compute the numbers that the interactive plots show.

Models run once, when a plot is opened. Changing a control then reuses their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex
import torch
import torch.nn.functional as F
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.corpus import rouge_words
from distill_utils.data.tokenization import tokenize
from distill_utils.evaluation.backends_speed import best_student
from distill_utils.evaluation.evaluate import Evaluation, load_evaluation
from distill_utils.evaluation.speed import find
from distill_utils.metrics.words import CHARACTERS, ENGLISH, lowered, word_tokenizer
from distill_utils.models.checkpoint import checkpoint_hash, load_model
from distill_utils.models.generation import forced_logits, generation_settings, summarize
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import freeze_encoder, keeps_encoder, load_student
from distill_utils.studies.plan import planned
from distill_utils.system.errors import UserError
from distill_utils.system.progress import progress
from distill_utils.training.losses import divergence, entropy, hard_loss, soft_loss

#: Temperatures of the loss plot.
GRID = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


# -- one position --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """The next-token distributions of teacher and student at one position of a reference.

    Attributes:
        before: the reference up to this position; ``wanted``: its next token.
        tokens: the most probable ones of both models, by the greater of their two probabilities; ``teacher``, ``student``: these probabilities.
        teacher_entropy, student_entropy, kl: in nats; ``soft``: the soft loss of the position, T² · KL.
    """

    before: str
    wanted: str
    tokens: list[str]
    teacher: list[float]
    student: list[float]
    teacher_entropy: float
    student_entropy: float
    kl: float
    soft: float


class Positions:
    """Predict the references of the test split with teacher and student, with teacher forcing."""

    def __init__(self, prepared: Prepared) -> None:
        self.study, self.test = prepared.study, prepared.corpus["test"]
        self.run = best_student(prepared)  # by validation ROUGE-L
        if self.run is None:
            raise UserError(f"{self.study.name} trains no student; give it a method that does")
        self.teacher, self.tokenizer = prepared.load_teacher()
        self.student, _ = load_model(self.run.folder)
        self._example, self._logits = -1, None

    def __len__(self) -> int:
        return len(self.test)

    def tokens(self, example: int) -> int:
        """Return the number of positions of an example's reference, including its end token."""
        return len(self._read(example)[2])

    def undecided(self, example: int) -> int:
        """Return the position at which the probability of the teacher's most probable token is closest to 0.5."""
        teacher, _, _ = self._read(example)
        return int(F.softmax(teacher, -1).max(-1).values.sub(0.5).abs().argmin())

    def at(self, example: int, position: int, temperature: float) -> Position:
        """Compute one position at one temperature, with the four most probable tokens of each model."""
        teacher, student, labels = self._read(example)
        scaled = teacher[position] / temperature, student[position] / temperature
        (log_p, log_q), (p, q) = [F.log_softmax(z, -1) for z in scaled], [F.softmax(z, -1) for z in scaled]
        probable = [i for probabilities in (p, q) for i in probabilities.topk(min(4, len(p))).indices.tolist()]
        shown = sorted(dict.fromkeys(probable), key=lambda i: -max(float(p[i]), float(q[i])))
        kl = float(divergence(log_p, log_q).sum())
        return Position(
            self.tokenizer.decode(labels[:position], skip_special_tokens=True), self.tokenizer.decode([int(labels[position])]),
            [self.tokenizer.decode([i]) for i in shown], p[shown].tolist(), q[shown].tolist(),
            float(entropy(teacher[position], temperature)), float(entropy(student[position], temperature)), kl, temperature**2 * kl,
        )  # fmt: skip

    @torch.inference_mode()
    def _read(self, example: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if example != self._example:
            row, corpus = self.test[example], self.study.corpus
            limits = {"max_source_tokens": corpus.max_source_tokens, "max_target_tokens": corpus.max_target_tokens}
            (teacher, labels), (student, _) = (
                forced_logits(m, self.tokenizer, row["document"], row["summary"], **limits)
                for m in (self.teacher, self.student)
            )
            self._example, self._logits = example, (teacher.float(), student.float(), labels)
        return self._logits


# -- the loss of a batch -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossAt:
    """The loss of a batch at one α and T, its terms, in nats per token, and its gradient norm."""

    total: float
    hard: float
    soft: float
    gradient_norm: float


class BatchLoss:
    """Compute the loss of a batch with the untrained student, at any α and at the temperatures of :data:`GRID`.

    The gradient covers the parameters that the study trains, which exclude a frozen encoder. The study's own T is always among
    the temperatures.

    The gradient is linear in α: |α·g + (1−α)·h|² needs only |g|², g·h and |h|², which are computed once per temperature.
    """

    def __init__(self, prepared: Prepared, pairs: int = 8, temperatures: Sequence[float] = GRID) -> None:
        study, (teacher, tokenizer) = prepared.study, prepared.load_teacher()
        student = load_student(study, study.distillation.student, teacher, tokenizer)
        train = prepared.corpus["train"]
        encoded = tokenize(train.select(range(min(pairs, len(train)))), tokenizer, study.corpus).remove_columns(
            "length"
        )
        batch = DataCollatorForSeq2Seq(tokenizer, model=student)([encoded[i] for i in range(len(encoded))]).to(
            student.device
        )
        labels = batch.pop("labels")
        with torch.no_grad():
            wanted = teacher.eval()(**batch).logits
        if study.distillation.freeze_encoder and keeps_encoder(student, teacher):
            freeze_encoder(student)
        logits = student.eval()(**batch).logits
        parameters = [p for p in student.parameters() if p.requires_grad]

        def gradient(loss: torch.Tensor) -> list[torch.Tensor]:
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            return [g for g in found if g is not None]

        hard = hard_loss(logits, labels)
        of_hard = gradient(hard)
        self._hard, self._hard_hard = float(hard.detach()), _dot(of_hard, of_hard)
        self._soft: dict[float, tuple[float, float, float]] = {}
        for t in progress(
            sorted({*temperatures, study.distillation.temperature}), desc="gradients", unit="temperature"
        ):
            soft = soft_loss(logits, wanted, labels, t)
            of_soft = gradient(soft)
            self._soft[t] = float(soft.detach()), _dot(of_hard, of_soft), _dot(of_soft, of_soft)
        self.temperatures = tuple(self._soft)

    def at(self, alpha: float, temperature: float) -> LossAt:
        soft, hard_soft, soft_soft = self._soft[temperature]
        squared = alpha**2 * self._hard_hard + 2 * alpha * (1 - alpha) * hard_soft + (1 - alpha) ** 2 * soft_soft
        return LossAt(alpha * self._hard + (1 - alpha) * soft, self._hard, soft, float(np.sqrt(max(0.0, squared))))


def _dot(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))


# -- summaries side by side ----------------------------------------------------------------------------------


class Summaries:
    """Load the test split with every system's summaries and their ROUGE-L."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.study, self.test = prepared, prepared.study, prepared.corpus["test"]
        study = self.study
        self.words = rouge_words(study)
        self.runs = {run.name: run for run in planned(study) if run.group == "main" and run.seed == study.seed}
        self.evaluations: dict[str, Evaluation] = {
            "teacher": load_evaluation(prepared, "teacher", prepared.teacher_hash)
        } | {
            name: load_evaluation(prepared, run.evaluation, checkpoint_hash(run.folder))
            for name, run in self.runs.items()
        }
        self._models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    @property
    def systems(self) -> list[str]:
        return list(self.evaluations)

    @cached_property
    def _haystacks(self) -> list[str]:
        written = [e.predictions for e in self.evaluations.values()]
        return [
            lowered("\n".join(texts))
            for texts in zip(self.test["document"], self.test["summary"], *written, strict=True)
        ]

    def found(self, words: str = "", by: tuple[str, str] | None = None) -> list[int]:
        """Find the examples that contain all words in document, reference or a summary.

        ``by`` names two systems to sort by their ROUGE-L difference, the largest first. The default is the order of the split.
        """
        wanted = lowered(words).split()
        examples = [i for i, text in enumerate(self._haystacks) if all(word in text for word in wanted)]
        if by:
            ahead = self.evaluations[by[0]].scores["rougeL"] - self.evaluations[by[1]].scores["rougeL"]
            examples.sort(key=lambda i: -ahead[i])
        return examples

    def example(self, i: int) -> list[dict]:
        """Return rows of ``what``, ``text`` and ``rougeL`` for document, reference and every system's summary."""
        texts = (("document", self.test[i]["document"]), ("reference", self.test[i]["summary"]))
        rows = [{"what": name, "text": text, "rougeL": None} for name, text in texts]
        for name, e in self.evaluations.items():
            rows.append({"what": name, "text": e.predictions[i], "rougeL": float(e.scores["rougeL"][i])})
        return rows

    def of_text(self, text: str) -> Iterator[tuple[str, str]]:
        """Summarize a text with every system and yield name and summary."""
        for name in self.systems:
            if name not in self._models:
                self._models[name] = (
                    self.prepared.load_teacher() if name == "teacher" else load_model(self.runs[name].folder)
                )
            model, tokenizer = self._models[name]
            settings = generation_settings(self.study, model)
            (written,) = summarize(
                model, tokenizer, [text], max_source_tokens=self.study.corpus.max_source_tokens, **settings
            )
            yield name, written


def shared_words(text: str, reference: str, n: int = 1, kind: str = ENGLISH) -> list[tuple[str, bool]]:
    """Split a text into pieces and mark those in an n-gram that the reference contains, with ROUGE-N's words."""
    tokenize = word_tokenizer(kind).tokenize
    letters = CHARACTERS[kind]
    pieces = regex.findall(rf"[{letters}]+|[^{letters}]+", text)
    words = [i for i, piece in enumerate(pieces) if regex.match(rf"[{letters}]", piece)]
    own = [(tokenize(pieces[i]) or [""])[0] for i in words]
    theirs = tokenize(reference)
    known = {tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1)}
    marked = set()
    for i in range(len(own) - n + 1):
        if tuple(own[i : i + n]) in known:
            marked |= set(words[i : i + n])
    return [(piece, i in marked) for i, piece in enumerate(pieces)]


# -- speed against quality -----------------------------------------------------------------------------------


def trade(
    results: Mapping, metric: str, beams: int, batch_size: int, tokens: int | None, runtimes: Sequence[str]
) -> list[dict]:
    """Return ``name``, ``runtime``, ``quality`` (points), ``summaries_per_s`` and ``speedup`` of every system timed under a load.

    Args:
        tokens: the fixed length of every summary; None: each system chooses.
    """
    points = []
    for s in results["systems"]:
        measured = find(s.get("speeds", []), batch_size, beams, tokens) if s.get("runtime") in runtimes else None
        if measured:
            speed = {key: measured[key] for key in ("summaries_per_s", "speedup")}
            points.append({"name": s.get("of", s["name"]), "runtime": s["runtime"], "quality": s[metric], **speed})
    return points
