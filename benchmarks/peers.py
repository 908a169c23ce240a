"""Serve a student in other libraries, each in an environment of its own, beside this project's backends.

``make bench SECTIONS=peers`` installs the environments under ``runs/peers``. Every system is a process that waits for jobs, so
that they take turns and never run at the same time. All get the same documents as token ids, in the same batches.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import ROUNDS, SCORED, rouge_l
from distill_utils.evaluation.backends_speed import best_student
from distill_utils.evaluation.speed import Load, measure_speed
from distill_utils.metrics.significance import compare
from distill_utils.models.backends import Backend, Batch, CTranslate2, PyTorch
from distill_utils.models.checkpoint import load_model
from distill_utils.models.export import export
from distill_utils.models.generation import generation_settings
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT, home
from distill_utils.system.progress import progress

#: Tokens of the training summaries in the shortlist.
SHORTLIST, SHORT = 4000, "shortlist"
#: What the others are compared with.
OURS = "ours, pytorch-fp32"
WORKER = Path(__file__).with_name("peer_worker.py")
#: Of each environment, what is installed; the versions that were measured. Text needs no torchvision, which comes along.
ENVIRONMENTS = {
    "openvino": ("optimum-intel[openvino]==2.2.0", "openvino==2026.4.1", "nncf==3.4.0"),
    "onnxruntime": ("optimum-onnx[onnxruntime]==0.1.0", "onnxruntime==1.32.0"),
    "torchao": ("transformers==5.23.0", "torchao==0.18.0"),
}


@dataclass(frozen=True)
class Peer:
    """A system of another library: what ``peer_worker`` calls it, and its environment (None: this project's)."""

    kind: str
    precision: str
    environment: str | None

    @property
    def name(self) -> str:
        return f"{LABELS[self.kind]}, {self.precision}"


LABELS = {
    "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torchao": "torchao", "compiled": "torch.compile, static cache",
    "ctranslate2": "CTranslate2, its defaults",
}  # fmt: skip
PEERS = (
    Peer("openvino", "float32", "openvino"),
    Peer("openvino", "int8", "openvino"),
    Peer("onnxruntime", "float32", "onnxruntime"),
    Peer("onnxruntime", "int8", "onnxruntime"),
    Peer("torchao", "int8", "torchao"),
    Peer("compiled", "float32", None),
    Peer("ctranslate2", "float32", None),
    Peer("ctranslate2", "int8", None),
)


#: Seconds before a measurement: the threads of the process before it wait for work for a while, and keep the cores busy.
REST = 0.05


class Remote(Backend):
    """A system in a process of its own, which computes only while it has a job."""

    def __init__(self, peer: Peer, process: subprocess.Popen, tokenizer, limit: int) -> None:
        self.name, self.tokenizer, self.max_source_tokens, self._process = peer.name, tokenizer, limit, process
        self.versions = self._answer()["versions"]

    def write(self, batches: list[Batch], **settings) -> Iterator[list[list[int]]]:
        job = {"batches": [[*map(list, batch)] for batch in batches], "settings": settings}
        with contextlib.suppress(BrokenPipeError):  # the answer is missing, too
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        yield from self._answer()["written"]

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"exit status {self._process.wait()}"}
        if "error" in answer:
            raise UserError(f"{self.name} stopped: {answer['error']}")
        return answer


@contextmanager
def started(peer: Peer, checkpoint: Path, tokenizer, limit: int) -> Iterator[Remote]:
    """Start a system and wait until it has loaded the checkpoint."""
    python = installed(peer.environment) if peer.environment else Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), str(WORKER), peer.kind, peer.precision, str(checkpoint.resolve()), folder]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
        try:
            yield Remote(peer, process, tokenizer, limit)
        finally:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """Return the variables without what our own use of CTranslate2 sets; AVX2 stays, which emulates another processor."""
    return {k: v for k, v in os.environ.items() if (k, v) != ("CT2_FORCE_CPU_ISA", "AVX512")}


def installed(name: str) -> Path:
    """Return the Python of an environment, which is created if it is not there.

    Raises UserError if it cannot be installed.
    """
    folder = home() / "runs" / "peers" / name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    torch = next(line for line in (ROOT / "requirements.lock").read_text().split() if line.startswith("torch=="))
    torch = os.environ.get("TORCH") or torch  # make TORCH=…
    wanted = "\n".join([torch, *ENVIRONMENTS[name]])
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", *torch.split()],
        [str(python), "-m", "pip", "install", "-q", torch.split()[0], *ENVIRONMENTS[name]],
        [str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision"],
    ):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise UserError(f"the environment {name} cannot be installed; the reason is above")
    done.write_text(wanted)
    return python


def peers(study: Study, timed_documents: int = 16, scored_documents: int = 500) -> dict:
    """Time the best student in this project's backends and in other libraries; score what each writes.

    A library that cannot run here is named with the reason.
    """
    prepared = Prepared(study)
    best = best_student(prepared)
    if best is None:
        raise UserError("there is no trained student; run: make study")
    model, tokenizer = load_model(best.folder)
    limit, settings = study.corpus.max_source_tokens, generation_settings(study, model)
    test = prepared.corpus["test"].select(range(min(scored_documents, len(prepared.corpus["test"]))))
    plain = PyTorch(model, tokenizer, limit)
    forced = {"min_new_tokens": study.speed.tokens, "max_new_tokens": study.speed.tokens}
    sources, rows, failed = plain.encode(test["document"][:]), [], {}
    shortened = {"summaries": prepared.corpus["train"]["summary"][:], "shortlist": SHORTLIST}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        systems: dict[str, Backend] = {OURS: plain}
        for label, precision, given in (
            ("float32", "float32", {}),
            ("int8", "int8", {}),
            (f"int8, {SHORT} of {SHORTLIST:,}", "int8", shortened),
        ):
            folder = export(best.folder, Path(temporary) / f"export-{len(systems)}", precision, **given)
            systems[f"ours, ctranslate2-{label}"] = CTranslate2(folder, limit)
        for peer in progress(PEERS, desc="starting", unit="system"):
            try:
                systems[peer.name] = running.enter_context(started(peer, best.folder, tokenizer, limit))
                for batch in (
                    sources[:1],
                    sources[:timed_documents],
                ):  # as they are timed, so that a failure costs one system
                    next(iter(systems[peer.name].write([batch], **settings | forced)))
            except UserError as error:
                failed[peer.name] = str(error)
                systems.pop(peer.name, None)
        scores = {}
        for name, system in list(systems.items()):
            try:  # each document alone, since those of a batch share a shortlist
                scores[name] = rouge_l(study, system, test, settings, batch_size=1 if SHORT in name else SCORED)
            except UserError as error:
                failed[name] = str(error)
                del systems[name]
        for name, system in systems.items():
            change = compare(name, OURS, "rougeL", scores[name], scores[OURS])
            rows.append(
                {"system": name, "rougeL_change": change.delta, "rougeL_change_ci": list(change.ci), "versions": getattr(system, "versions", {})}
            )  # fmt: skip
        loads = [
            Load(size, settings["num_beams"], timed_documents, study.speed.tokens) for size in (1, timed_documents)
        ]
        speeds = measure_speed(
            systems, sources[:timed_documents], loads, reference=OURS, repeats=ROUNDS, rest=REST, **settings
        )
    return {
        "student": best.name, "pairs": len(test), "beams": settings["num_beams"], "rows": rows, "failed": failed, "speeds": speeds,
    }  # fmt: skip
