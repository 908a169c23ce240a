"""Several processes: torchrun with two of them on the CPU (gloo) does what one process does."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
from distill_utils.system.distributed import as_main_says, gather, my_share, share_of_batch
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SETTINGS = {  # the shipped teacher: a random one's distribution is so flat that its soft loss is rounding error
    "teacher.path": "models/docstrings_teacher",
    "distillation.steps": 20,
    "distillation.validations": 2,
    "distillation.batch_size": 8,
    "distillation.precision": "fp32",
    "distillation.validation_examples": 7,
}


#: Two processes train until the checkpoint in the second epoch; the second one is not able to write.
INTERRUPTED = """
import os, sys
from pathlib import Path
from transformers import TrainerCallback
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import single_run
from distill_utils.training.train_student import train_student
from distill_utils.studies.loading import load_study

class Stop(TrainerCallback):
    def on_save(self, *args, **kwargs):
        sys.exit(0)

def refuse(*_):
    raise AssertionError("only the main process writes")

if os.environ["RANK"] == "1":
    Path.rename = Path.replace = refuse
settings = {sys.argv[i]: eval(sys.argv[i + 1]) for i in range(1, len(sys.argv), 2)}
study = load_study("smoke", settings)
train_student(Prepared(study), single_run(study, "6-2", "kd"), [Stop()])
"""


#: One process does the work of two in turn: for each half of a batch it writes what that process would write.
IN_TURN = """
import os, sys
sys.path.insert(0, os.getcwd())
import torch
from torch.nn.functional import pad
from distill_utils.training.trainer import IGNORED, DistillationTrainer, DistillationTrainingArguments

written, turn = DistillationTrainer._on_policy, 0

def as_two(self, batch, number):
    global turn
    halves = []
    for turn in (0, 1):
        halves.append(written(self, {name: tensor[turn::2] for name, tensor in batch.items()}, number))
    turn = 0
    fill = {"labels": IGNORED, "decoder_input_ids": self.model.config.pad_token_id}
    for name, value in fill.items():
        most = max(half[name].shape[1] for half in halves)
        for half in halves:
            half[name] = pad(half[name], (0, most - half[name].shape[1]), value=value)
    assert not torch.equal(*(half["labels"][:1] for half in halves)), "each process has random numbers of its own"
    return {name: torch.cat([half[name] for half in halves]) if tensor.dim() else tensor for name, tensor in halves[0].items()}

DistillationTrainer._on_policy = as_two
DistillationTrainingArguments.process_index = property(lambda self: turn)
from distill_utils import cli
sys.exit(cli.main(sys.argv[3:]))
"""


def distill(launcher, *arguments, **settings):
    overrides = [part for key, value in {**SETTINGS, **settings}.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [*launcher, "-m", "distill_utils", *arguments, *overrides], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_training_resumed_in_a_later_epoch_goes_on_as_if_it_had_not_stopped(runs, tmp_path):
    study = load_study("smoke", {"name": "test_resumed"})
    shutil.rmtree(study.folder, ignore_errors=True)
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    given = {**SETTINGS, "name": "test_resumed", "distillation.precision": "fp32"}
    pairs = [part for key, value in given.items() for part in (key, repr(value))]
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "interrupted.py"), *pairs], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (checkpoint,) = (study.folder / "students" / "6-2-kd-0.training").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-10", "in the second epoch of eight steps"
    distill(TORCHRUN, "train", "smoke", "--student", "6-2", "--method", "kd", name="test_resumed")
    log = read_json(study.student_folder("6-2", "kd", 0) / "training.json")["log"]
    shutil.rmtree(study.folder)
    losses, whole = ([e["loss"] for e in entries if "loss" in e] for entries in (log, runs["test_one"][1]["log"]))
    assert losses == pytest.approx(whole, rel=1e-5)


@pytest.fixture(scope="module")
def runs():
    """The same training by one process and by two: what was printed, the log, and the ROUGE of `distill evaluate`."""
    done = {}
    for name, launcher in (("test_one", [sys.executable]), ("test_two", TORCHRUN)):
        study = load_study("smoke", {"name": name})
        shutil.rmtree(study.folder, ignore_errors=True)
        printed = distill(launcher, "train", "smoke", "--student", "6-2", "--method", "kd", name=name)
        folder = study.student_folder("6-2", "kd", 0)
        rouge = distill(launcher, "evaluate", str(folder), "smoke", name=name, **{"generation.batch_size": 3})
        done[name] = printed, read_json(folder / "training.json"), rouge, sorted(study.folder.rglob("*"))
    yield done
    for name in done:
        shutil.rmtree(load_study("smoke", {"name": name}).folder, ignore_errors=True)


def test_the_loss_is_the_same_at_every_step(runs):
    one, two = (runs[name][1] for name in ("test_one", "test_two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for part in ("loss", "hard_loss", "soft_loss", "grad_norm"):
        values = [[entry[part] for entry in run["log"] if part in entry and "step" in entry] for run in (one, two)]
        assert len(values[0]) == len(values[1]) == 20
        assert values[1] == pytest.approx(values[0], rel=1e-5), part


def test_two_processes_train_from_the_cache_as_one_does_online(runs):
    """Both read what one of them made: there is a single part."""
    name, caches = "test_cached", {"distillation.cache_teacher": "states", "distillation.cache_encoder": "true"}
    study = load_study("smoke", {"name": name})
    shutil.rmtree(study.folder, ignore_errors=True)
    distill(TORCHRUN, "train", "smoke", "--student", "6-2", "--method", "kd", name=name, **caches)
    report = read_json(study.student_folder("6-2", "kd", 0) / "training.json")
    shutil.rmtree(study.folder)
    assert report["processes"] == 2 and sorted(report["teacher_seconds"]) == ["encoder", "states"]
    for part in ("loss", "soft_loss"):
        cached, online = ([e[part] for e in log if part in e] for log in (report["log"], runs["test_one"][1]["log"]))
        assert len(cached) == 20 and cached == pytest.approx(online, rel=5e-3), part


def test_hidden_states_are_compared_in_two_processes_as_in_one():
    """With the encoder trained, too, so that both of its parts count."""
    losses = []
    for name, launcher in (("test_hidden_one", [sys.executable]), ("test_hidden_two", TORCHRUN)):
        study = load_study("smoke", {"name": name})
        shutil.rmtree(study.folder, ignore_errors=True)
        settings = {"distillation.steps": 4, "distillation.freeze_encoder": "false"}
        distill(launcher, "train", "smoke", "--student", "6-2", "--method", "hidden", name=name, **settings)
        log = read_json(study.student_folder("6-2", "hidden", 0) / "training.json")["log"]
        losses.append([(e["loss"], e["hidden_loss"], e["grad_norm"]) for e in log if "hidden_loss" in e])
        shutil.rmtree(study.folder)
    assert len(losses[0]) == 4
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_two_processes_train_on_what_each_of_them_writes(tmp_path):
    """The second one reads the start that the first one saved; a second command trains nothing anew.

    What each writes and learns is what one process writes and learns that takes their parts in turn.
    """
    study = load_study("smoke", {"name": "test_on_policy_two"})
    shutil.rmtree(study.folder, ignore_errors=True)
    settings = {"distillation.steps": 6, "distillation.alpha": 1.0, "name": study.name}
    distill(TORCHRUN, "train", "smoke", "--student", "6-2", "--method", "gkd", **settings)
    file = study.student_folder("6-2", "gkd", 0) / "training.json"
    report, made = read_json(file), file.stat().st_mtime_ns
    distill(TORCHRUN, "train", "smoke", "--student", "6-2", "--method", "gkd", **settings)
    assert file.stat().st_mtime_ns == made
    shutil.rmtree(study.folder)
    (tmp_path / "in_turn.py").write_text(IN_TURN)
    launcher = [sys.executable, str(tmp_path / "in_turn.py")]
    distill(launcher, "train", "smoke", "--student", "6-2", "--method", "gkd", **settings)
    alone = read_json(file)
    shutil.rmtree(study.folder)
    assert (report["processes"], alone["processes"]) == (2, 1) and report["start"] == "sft"
    for part in ("soft_loss", "grad_norm"):
        two, one = ([e[part] for e in log if part in e] for log in (report["log"], alone["log"]))
        assert two[:2] == pytest.approx(one[:2], rel=1e-4) and len(two) == 3 and min(two) > 0, part
        assert two[2] == pytest.approx(one[2], rel=0.1), (
            "rounding errors of two updates may change a token that is drawn"
        )


def test_two_machines_train_as_one_process_does(runs):
    """Two groups of processes that meet on the loopback address, as ``docs/full_size.md`` starts them; both share the caches."""
    name, caches = "test_machines", {"distillation.cache_teacher": "states", "distillation.cache_encoder": "true"}
    study = load_study("smoke", {"name": name})
    shutil.rmtree(study.folder, ignore_errors=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {**SETTINGS, **caches, "name": name}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    machines = [
        subprocess.Popen(
            [*TORCHRUN[:3], "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
             "--master-port", str(port), "-m", "distill_utils", "train", "smoke", "--student", "6-2", "--method", "kd", *overrides],
            cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    ends = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ends
    report = read_json(study.student_folder("6-2", "kd", 0) / "training.json")
    shutil.rmtree(study.folder)
    assert report["processes"] == 2
    losses, one = ([e["loss"] for e in log if "loss" in e] for log in (report["log"], runs["test_one"][1]["log"]))
    assert len(losses) == 20 and losses == pytest.approx(one, rel=5e-3), "the cache is in float16"


def test_accelerates_launcher_starts_a_training(runs):
    """With one process; on CPUs it starts several by MPI only."""
    study = load_study("smoke", {"name": "test_launched"})
    shutil.rmtree(study.folder, ignore_errors=True)
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    distill(launcher, "train", "smoke", "--student", "6-2", "--method", "kd", name=study.name)
    log = read_json(study.student_folder("6-2", "kd", 0) / "training.json")["log"]
    shutil.rmtree(study.folder)
    losses, one = ([e["loss"] for e in entries if "loss" in e] for entries in (log, runs["test_one"][1]["log"]))
    assert losses == one


def test_validation_is_the_same(runs):
    """Seven examples over two processes: each counts once."""
    for part, tolerance in (("eval_loss", 1e-5), ("eval_rougeL", 0)):
        one, two = ([e[part] for e in runs[name][1]["log"] if part in e] for name in ("test_one", "test_two"))
        assert two == pytest.approx(one, rel=tolerance, abs=0) and len(one) == 3


def test_evaluation_is_shared_out_and_gives_the_same_rouge(runs):
    assert runs["test_one"][2] == runs["test_two"][2]
    assert runs["test_two"][2].count("rougeL ") == 1, "printed once"


def test_one_process_writes(runs):
    assert runs["test_two"][0].count("student: ") == 1
    names = {
        name: {path.name for path in runs[name][3] if not path.name.startswith(("cache-", "model-"))} for name in runs
    }
    assert names["test_one"] == names["test_two"]


def test_one_process_shares_nothing():
    assert my_share([1, 2, 3]) == gather([1, 2, 3]) == [1, 2, 3]
    assert as_main_says("x") == "x" and share_of_batch(5, "x") == 5


def test_shares_of_two(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert my_share([1, 2, 3]) == [2] and share_of_batch(6, "x") == 3
    with pytest.raises(UserError, match="'x': 5 is not a multiple of the 2 processes"):
        share_of_batch(5, "x")
