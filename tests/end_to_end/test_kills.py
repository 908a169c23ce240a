"""Whatever is killed continues: at random moments of every stage, again and again, and the results are those of a run that nobody disturbed."""

import contextlib
import hashlib
import itertools
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from distill_utils.run_study import notebook_paths
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import planned
from distill_utils.system.artefacts import read_json
from distill_utils.system.locks import locked
from distill_utils.system.paths import ROOT
from tests.helpers.killed import LONGER, SETTINGS, STAGES

#: Of the Trainer's log: what does not depend on how often it was begun.
LOGGED = ("step", "hard_loss", "soft_loss", "grad_norm", "learning_rate", "eval_loss", "eval_rougeL")
#: `make soak` asks for more.
KILLS = int(os.environ.get("DISTILL_KILLS", "104"))
LONGER_KILLS = max(6, KILLS // 20)


class Victim:
    """A process that makes the study, as often as asked, and what it says."""

    def __init__(self, log: Path) -> None:
        self.log, self.child = log.open("w"), None
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.killed"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )  # fmt: skip
        self.said: queue.Queue[tuple[float, str]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.until("ready")

    def _listen(self) -> None:
        for line in self.server.stdout:
            self.said.put((time.monotonic(), line.strip()))

    def start(self, work: str) -> int:
        self.server.stdin.write(f"{work}\n")
        self.server.stdin.flush()
        self.child = int(self.until("pid")[-1][1].split()[1])
        return self.child

    def until(self, *wanted: str) -> list[tuple[float, str]]:
        """What is said until one of these is, which is the last."""
        heard = []
        while not heard or not heard[-1][1].startswith(wanted):
            try:
                heard.append(self.said.get(timeout=120))
            except queue.Empty:
                for process in (self.child, self.server.pid):  # both say where they are
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGUSR1)
                time.sleep(1)
                heard.append((time.monotonic(), "failed: it is silent"))
            if heard[-1][1].startswith(("failed", "ended")) and not heard[-1][1].startswith(wanted):
                pytest.fail(f"{heard[-3:]}: {Path(self.log.name).read_text()[-5000:]}")
        return heard

    def finish(self, work: str = "study") -> list[tuple[float, str]]:
        self.start(work)
        heard = self.until("done")
        self.until("ended")
        return heard

    def kill(self, stage: str, after: float, work: str = "study") -> bool:
        """Start, and kill ``after`` seconds of the stage; False where the work was finished before."""
        child = self.start(work)
        finished = self.until(stage, "done")[-1][1] == "done"
        if not finished:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):  # it was done first
                os.killpg(child, signal.SIGKILL)
        heard = self.until("ended")
        return not finished and not any(line == "done" for _, line in heard)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    victim = Victim(tmp_path_factory.mktemp("kills") / "log")
    yield victim
    victim.server.kill()
    victim.server.wait()
    victim.log.close()


@pytest.fixture(scope="module")
def study():
    study = load_study("smoke", SETTINGS)
    forget(study)
    yield study
    forget(study)


def forget(study) -> None:
    for folder in (study.folder, study.figures_folder):
        shutil.rmtree(folder, ignore_errors=True)
    study.notebooks_folder.mkdir(parents=True)
    for path in notebook_paths():
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T")]), study.notebooks_folder / path.name
        )


def outcome(study) -> dict:
    """All that a run is to give, but for what a clock says."""
    found = {"corpus": read_json(study.corpus_folder / "statistics.json")}
    for run in planned(study):
        weights = (run.folder / "model.safetensors").read_bytes()
        report = read_json(run.folder / "training.json")
        log = [{k: entry[k] for k in LOGGED if k in entry} for entry in report["log"] if "train_loss" not in entry]
        found[run.name] = hashlib.sha256(weights).hexdigest(), report["steps"], json.dumps(log)
    for path in sorted(study.evaluations_folder.glob("[!.]*/*.json")):
        if path.name != "made_from.json":
            found[str(path.relative_to(study.folder))] = read_json(path)
    results = read_json(study.results_file)
    for s in results["systems"]:
        found[f"results of {s['name']}"] = {k: v for k, v in s.items() if k.startswith(("rouge", "retention", "novel"))}
    found["figure"] = (study.figures_folder / "04_quality.png").stat().st_size > 0
    found["report"] = "</html>" in (study.folder / "report.html").read_text("utf-8")
    return found


def differing(found: dict, wanted: dict) -> dict:
    return {
        name: (found.get(name), wanted.get(name))
        for name in found.keys() | wanted.keys()
        if found.get(name) != wanted.get(name)
    }


def test_killed_at_random_moments_of_every_stage_the_study_ends_as_if_nobody_had(victim, study, monkeypatch):
    heard = victim.finish()
    wanted = outcome(study)
    lasts = dict.fromkeys(STAGES, 0.0)
    for (begun, stage), (ended, _) in itertools.pairwise(heard):
        if stage in lasts:
            lasts[stage] = max(lasts[stage], ended - begun)
    assert all(lasts.values()), "every stage was seen"
    forget(study)
    moments = random.Random(os.environ.get("DISTILL_KILL_SEED", "0"))
    kills, lives = dict.fromkeys(STAGES, 0), 0
    for i in range(10 * KILLS):
        stage = STAGES[i * len(STAGES) // KILLS % len(STAGES)]
        if victim.kill(stage, moments.uniform(0, lasts[stage])):
            kills[stage] += 1
        else:  # finished in spite of all kills before: from the beginning again
            assert differing(outcome(study), wanted) == {}, f"after {kills}"
            lives += 1
            forget(study)
        if sum(kills.values()) == KILLS:
            break
    assert sum(kills.values()) == KILLS and min(kills.values()) > 0
    victim.finish()
    assert differing(outcome(study), wanted) == {}, f"after {kills}, {lives} lives"
    monkeypatch.setattr("distill_utils.system.artefacts.STALE", -1)  # as later runs see it
    with locked(study.folder, "a later run"):
        assert list(study.folder.rglob("*.unfinished")) == [], "temporaries of the killed runs are gone"


def test_a_longer_training_ends_with_the_same_weights_and_losses(victim):
    study = load_study("smoke", LONGER)

    def trained():
        folder = study.student_folder("6-3", "kd", study.seed)
        log = [
            {k: e[k] for k in LOGGED if k in e}
            for e in read_json(folder / "training.json")["log"]
            if "train_loss" not in e
        ]
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), json.dumps(log)

    def again():
        shutil.rmtree(study.folder / "students", ignore_errors=True)

    shutil.rmtree(study.folder, ignore_errors=True)
    heard = victim.finish("training")
    begun = next(at for at, stage in heard if stage == "training")
    seconds, wanted = heard[-1][0] - begun, trained()
    again()
    moments, kills = random.Random(os.environ.get("DISTILL_KILL_SEED", "0")), 0
    while kills < LONGER_KILLS:
        if victim.kill("training", moments.uniform(0, seconds / 2), "training"):
            kills += 1
        else:
            assert trained() == wanted, f"after {kills} kills"
            again()
    victim.finish("training")
    assert trained() == wanted
    shutil.rmtree(study.folder)
