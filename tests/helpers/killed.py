"""A study in a process that can be killed anywhere; for ``test_kills``.

For every line that it reads it forks a process, which has all modules already, and does in it what the line names, saying what it is at.
"""

import faulthandler
import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from distill_utils import plots
from distill_utils.evaluation.collect import collect
from distill_utils.evaluation.evaluate import evaluate_baselines, evaluate_model
from distill_utils.evaluation.speed import measure_speed, natural_loads
from distill_utils.evaluation.teacher_check import check_teacher
from distill_utils.models.backends import PyTorch
from distill_utils.models.checkpoint import checkpoint_hash, load_model
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.report.page import write_page
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import planned, single_run
from distill_utils.studies.settings import Study
from distill_utils.system.locks import locked
from distill_utils.training import train_student
from distill_utils.training.trainer import DistillationTrainer

STAGES = ("corpus", "tokenizing", "teacher outputs", "training", "checkpoint", "evaluation", "figures", "report")
SETTINGS = {
    "name": "kills", "distillation.methods": ["copy", "sft", "kd"], "distillation.steps": 12, "distillation.validations": 4,
    "distillation.cache_teacher": "states", "speed.repeats": 1, "speed.documents": 1,
}  # fmt: skip
#: A training of some length, of the shipped teacher's student, and so of real weights.
LONGER = {
    "name": "kills_longer", "teacher.path": "models/docstrings_teacher", "corpus.max_source_tokens": 64, "distillation.steps": 60,
    "distillation.validations": 15, "distillation.validation_examples": 2, "distillation.freeze_encoder": False,
}  # fmt: skip


def say(stage: str) -> None:
    os.write(1, f"{stage}\n".encode())  # at once: print is killed between a word and its end of line


def make(study: Study) -> None:
    """What the four notebooks do, without their kernels."""
    say("corpus")
    prepared = Prepared(study)
    test = prepared.corpus["test"]
    teacher, tokenizer = prepared.load_teacher()
    check_teacher(prepared, teacher, tokenizer)
    say("evaluation")
    evaluate_model(prepared, "teacher", teacher, tokenizer, prepared.teacher_hash)
    evaluate_baselines(prepared)
    runs, systems = planned(study), {"teacher": teacher}
    for run in runs:
        train_student.train_student(prepared, run)
    for run in runs:
        model, _ = load_model(run.folder)
        say("evaluation")
        evaluate_model(prepared, run.evaluation, model, tokenizer, checkpoint_hash(run.folder))
        if run.method != "copy":
            systems[run.name] = model
    settings = generation_settings(study, teacher)
    timed = {name: PyTorch(model, tokenizer, study.corpus.max_source_tokens) for name, model in systems.items()}
    sources = timed["teacher"].encode(test["document"][:2])
    loads = natural_loads(study.speed, settings["num_beams"])
    speeds = measure_speed(timed, sources, loads, reference="teacher", repeats=1, **settings)
    say("report")
    results = collect(prepared, speeds)
    say("figures")
    plots.save(study, "04_quality", plots.quality(results)[0])
    say("report")
    write_page(study)


def train(study: Study) -> None:
    train_student.train_student(Prepared(study), single_run(study, "6-3", "kd"))


WORKS = {"study": lambda: make(load_study("smoke", SETTINGS)), "training": lambda: train(load_study("smoke", LONGER))}


def _saying(stage: str, function, after: str = ""):
    def told(*args, **kwargs):
        say(stage)
        made = function(*args, **kwargs)
        if after:
            say(after)
        return made

    return told


def main() -> None:
    train_student.tokenize = _saying("tokenizing", train_student.tokenize)
    train_student.teacher_states = _saying("teacher outputs", train_student.teacher_states, "training")
    DistillationTrainer.resume = _saying("training", DistillationTrainer.resume)
    DistillationTrainer._save_checkpoint = _saying("checkpoint", DistillationTrainer._save_checkpoint, "training")
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # whoever waits for it in vain can ask where it is
    say("ready")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.setpgid(0, 0)  # its workers are killed with it
            say(f"pid {os.getpid()}")
            try:
                with locked(load_study("smoke", SETTINGS).folder, "being killed"):
                    WORKS[line.strip()]()
                say("done")
            except BaseException as error:
                say(f"failed {type(error).__name__}: {error}")
            os._exit(0)
        say(f"ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


if __name__ == "__main__":
    main()
