"""Forecast how long each part of a run takes on this machine, from a rehearsal of each on a few texts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from datasets import DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from distill_utils.data.splits import drawn
from distill_utils.evaluation.calibration import named_tokens
from distill_utils.evaluation.evaluate import CHECKED_ROWS, load_evaluation, scoring_backend
from distill_utils.evaluation.speed import Load, forced_loads, natural_loads
from distill_utils.models.backends import Backend, PyTorch, lacking_hardware
from distill_utils.models.checkpoint import checkpoint_hash
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import load_student
from distill_utils.studies.plan import Run, planned, timed
from distill_utils.studies.settings import METHODS
from distill_utils.system.errors import UserError
from distill_utils.system.run_time import REST
from distill_utils.training.train_student import start_of, train_student, training_report

#: In a run's folder, the one of its rehearsal.
REHEARSAL = "rehearsal"
#: A rehearsed training stops after this many steps, or seconds; all of them together, after so many seconds.
STEPS, SECONDS, ALL_SECONDS = 5, 8.0, 60.0
#: Documents that are summarized in a batch, and one at a time.
DOCUMENTS, SINGLE = 32, 2
#: An encoder pass with one decoding step, relative to a whole summary.
ENCODER_SHARE = 0.3
#: Seconds to load a checkpoint in a process of its own and to measure its footprint and roofline.
FOOTPRINT = 4.0
#: Per notebook, relative to the start of a Python process with PyTorch; per pair, relative to its tokenization.
#: Estimates for what no rehearsal measures; compared with a run of the study smoke alone.
STARTS, TOKENIZATIONS = 8.0, 12.0


@dataclass(frozen=True)
class _Writing:
    """Seconds a model takes: export, then per document in the scoring backend, in PyTorch, one at a time, calibrated."""

    export: float
    scored: float
    pytorch: float
    single: float
    scored_single: float
    calibrated: float

    def evaluation(self, documents: int, calibrated: bool) -> float:
        """Return the seconds to summarize ``documents``, with the check against PyTorch."""
        checked = min(CHECKED_ROWS, documents) * self.pytorch if self.export else 0
        return self.export + documents * (self.scored + (self.calibrated if calibrated else 0)) + checked


def forecast(prepared: Prepared) -> dict[str, float]:
    """Return the expected seconds of each part that is not finished (:mod:`distill_utils.system.run_time`).

    Trains and writes in ``runs/<study>/rehearsal``, which is removed.
    """
    study = prepared.study
    small = study.model_copy(update={"name": f"{study.name}/{REHEARSAL}"})
    rehearsed = Prepared(small)
    corpus = prepared.corpus
    most = STEPS * study.distillation.batch_size * study.distillation.gradient_accumulation_steps
    train = corpus["train"].select(sorted(drawn(corpus["train"]["id"], most)))
    test = corpus["test"].select(sorted(drawn(corpus["test"]["id"], DOCUMENTS)))
    few = DatasetDict(train=train, validation=test, test=test)
    shared = {name: getattr(prepared, name) for name in ("statistics", "teacher_folder", "teacher_hash")}
    rehearsed.__dict__.update(shared, corpus=few)
    shutil.rmtree(small.folder, ignore_errors=True)  # of a killed run: a finished student would not be trained
    try:
        return _forecast(prepared, rehearsed)
    finally:
        shutil.rmtree(small.folder, ignore_errors=True)


def _forecast(prepared: Prepared, rehearsed: Prepared) -> dict[str, float]:
    study, corpus = prepared.study, prepared.corpus
    teacher, tokenizer = prepared.load_teacher()
    tokens, writing = _writing(rehearsed, teacher, tokenizer, None)
    own = load_student(study, study.distillation.student, teacher, tokenizer)
    _, student = _writing(rehearsed, own, tokenizer, tokens)
    beams = generation_settings(study, teacher)["num_beams"]
    del teacher, own
    expected = {}
    if not _there(lambda: load_evaluation(prepared, "teacher", prepared.teacher_hash)):
        check = min(CHECKED_ROWS, len(corpus["validation"])) * writing.pytorch
        expected["teacher's summaries"] = 2 * check + writing.evaluation(len(corpus["test"]), calibrated=True)
    greedy = student.pytorch * _relative(study.distillation.validation_beams / beams)
    expected |= _training(prepared, rehearsed, greedy)
    expected["students' summaries"] = sum(
        student.evaluation(_documents(prepared, run), run.group in ("main", "budgets") and run.seed == study.seed)
        for run in planned(study)
        if not _there(lambda: load_evaluation(prepared, run.evaluation, checkpoint_hash(run.folder), run.part))  # noqa: B023
    )  # fmt: skip
    expected["timing"] = _timing(prepared, (writing, student), tokens, beams)
    expected[REST] = _rest(prepared, rehearsed, tokenizer)
    return {part: seconds for part, seconds in expected.items() if seconds}


def _documents(prepared: Prepared, run: Run) -> int:
    """Return how many documents a student summarizes for its evaluation."""
    split = len(prepared.corpus[run.part.split])
    return min(run.part.count or split, split)


def _there(load: Callable[[], object]) -> bool:
    try:
        load()
    except (UserError, OSError, ValueError, KeyError):  # missing, outdated or damaged
        return False
    return True


@contextmanager
def _clock(into: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    into.append(time.perf_counter() - started)


def _writing(
    rehearsed: Prepared, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int | None
) -> tuple[int, _Writing]:
    """Return the mean length of the model's summaries, and its times; ``tokens``: force this length.

    An untrained student may write nonsense of any length.
    """
    study = rehearsed.study
    documents = list(rehearsed.corpus["test"]["document"])
    settings = generation_settings(study, model) | study.generation.arguments()
    if tokens:
        settings |= {"min_new_tokens": tokens, "max_new_tokens": tokens}
    limit, seconds, lengths = study.corpus.max_source_tokens, [], []

    def write(backend: Backend, batches: Sequence) -> None:
        with _clock(seconds):
            lengths.extend(len(ids) for batch in backend.write(batches, **settings) for ids in batch)

    pytorch = PyTorch(model, tokenizer, limit)
    sources = pytorch.encode(documents)
    single = [[ids] for ids in sources[:SINGLE]]
    with _clock(seconds):
        named_tokens(rehearsed, "rehearsal", model, tokenizer)
    size = study.generation.batch_size
    batches = [sources[i : i + size] for i in range(0, len(sources), size)]
    write(pytorch, [single[0]])  # to warm up
    write(pytorch, single)
    write(pytorch, batches)
    mean = round(np.mean(lengths[-len(sources) :]))
    calibrated, _, alone, batch = seconds
    seconds.clear()
    with ExitStack() as stack:
        with _clock(seconds):
            runtime = stack.enter_context(scoring_backend(study, model, tokenizer))
            write(runtime, [single[0]])
        export = seconds[-1] if not isinstance(runtime, PyTorch) else 0.0
        if isinstance(runtime, PyTorch):
            seconds += [alone, batch]
        else:
            write(runtime, single)
            write(runtime, batches)
    scored_alone, scored = seconds[-2:]
    count = len(sources)
    return mean, _Writing(export, scored / count, batch / count, alone / len(single), scored_alone / len(single), calibrated / count)  # fmt: skip


class _StepTimes(TrainerCallback):
    """Note how long each step takes, without the checkpoints between steps, and stop the training early."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        control.should_training_stop = control.should_training_stop or sum(self.seconds) > SECONDS

    def on_save(self, args, state, control, **kwargs) -> None:
        self.last = time.perf_counter()

    def step(self) -> float:
        """Return the mean seconds of a step; the first one, which warms up, counts only if it is the only one."""
        return float(np.mean(self.seconds[1:] or self.seconds or [SECONDS]))


def _training(prepared: Prepared, rehearsed: Prepared, greedy: float) -> dict[str, float]:
    """Rehearse every kind of training; ``greedy``: seconds to summarize one validation document.

    A rehearsed on-policy student has learnt nothing and writes summaries of maximum length, so its forecast is an upper bound.
    """
    costs: dict[tuple, tuple[float, dict[str, float]]] = {}
    training, made, deadline = 0.0, {}, time.monotonic() + ALL_SECONDS
    for run in planned(prepared.study):
        if not METHODS[run.method].trained or _there(lambda: training_report(prepared, run)):  # noqa: B023
            continue
        start, seconds, teacher = start_of(run), [], {}
        for part in (run, start) if start else (run,):  # on-policy: each half at its own cost
            kind = part.student, part.method
            if kind not in costs and costs and time.monotonic() > deadline:
                costs[kind] = max(costs.values(), key=lambda cost: cost[0])
            if kind not in costs:
                costs[kind] = _rehearse(rehearsed, part)
            seconds.append(costs[kind][0])
            teacher |= costs[kind][1]
        step = float(np.mean(seconds))
        d, pairs = run.study.distillation, len(prepared.corpus["train"])
        pairs = min(d.max_pairs or pairs, pairs)
        written = min(d.validation_examples, len(prepared.corpus["validation"]))
        training += d.steps * step + (d.validations + 1 if d.validations else 0) * written * greedy
        for name, seconds in teacher.items():  # students of one shape and number of pairs share a cache of states
            made[name, pairs, run.student if name == "states" else ""] = seconds * pairs
    return {"training": training, "teacher cache": sum(made.values())}


def _rehearse(rehearsed: Prepared, run: Run) -> tuple[float, dict[str, float]]:
    """Return the seconds of a step, and the teacher's beforehand for each pair, by kind of cache."""
    short = {"steps": STEPS, "validations": 0, "max_pairs": 0, "warmup_steps": 1}
    harmless = {"learning_rate": 1e-6, "learning_rates": {}}  # so few warm-up steps might diverge
    d = run.study.distillation.model_copy(update=short | harmless)
    study = rehearsed.study.model_copy(update={"distillation": d})
    small, clock = Prepared(study), _StepTimes()
    small.__dict__.update(rehearsed.__dict__, study=study)
    brief = Run("main", run.name, study, run.student, run.method, run.seed)
    train_student(small, brief, [clock])
    pairs = len(small.corpus["train"])
    spent = training_report(small, brief)["teacher_seconds"]
    return clock.step(), {name: seconds / pairs for name, seconds in spent.items()}


def _timing(prepared: Prepared, writing: tuple[_Writing, _Writing], tokens: int, beams: int) -> float:
    """Return the seconds to time all systems under all loads, and to evaluate the inference backends."""
    study, speed, (teacher, student) = prepared.study, prepared.study.speed, writing
    runtimes = [name for name in speed.runtimes if not lacking_hardware(name)]

    def one(load: Load, each: _Writing, pytorch: bool) -> float:
        alone = load.batch_size == 1
        document = (
            (each.single if alone else each.pytorch) if pytorch else (each.scored_single if alone else each.scored)
        )
        work = (load.tokens or tokens) / max(1, tokens) * load.num_beams / beams
        warm_up = min(2, load.documents) if alone else load.documents
        return document * _relative(work) * (speed.repeats * load.documents + warm_up)

    shapes = len({run.student for run in timed(planned(study))})
    systems = [(teacher, True), *[(student, True)] * shapes]
    both = systems[:2]
    served = [(each, name.startswith("pytorch")) for name in runtimes for each, _ in both]
    seconds = sum(one(load, *system) for load in natural_loads(speed, beams) for system in systems + served)
    if not served:
        return seconds
    seconds += sum(one(load, *s) for load in forced_loads(speed, beams, speed.tokens) for s in both + served)
    for name in {*runtimes} - {study.evidence.runtime}:  # these summaries are scored, too
        each = [m.pytorch if name.startswith("pytorch") else m.scored for m, _ in both]
        seconds += sum(each) * len(prepared.corpus["test"])
    return seconds + FOOTPRINT * len(both + served)


def _relative(decoding: float) -> float:
    """Return the time for a summary whose decoding takes ``decoding`` times as much work, relative to the usual time."""
    return ENCODER_SHARE + (1 - ENCODER_SHARE) * decoding


def _rest(prepared: Prepared, rehearsed: Prepared, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the seconds of what is left: start of the notebooks, statistics of the corpus, figures."""
    seconds: list[float] = []
    with _clock(seconds):
        subprocess.run([sys.executable, "-c", "import torch"], check=False)
    with _clock(seconds):
        tokenizer(list(rehearsed.corpus["train"]["document"]))
    start, pairs = seconds[0], seconds[1] / len(rehearsed.corpus["train"])
    return 4 * STARTS * start + TOKENIZATIONS * pairs * sum(map(len, prepared.corpus.values()))
