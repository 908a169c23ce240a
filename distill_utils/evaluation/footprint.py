"""Measure load time, memory and disk size of a model in an inference backend.

:func:`measure` starts a new process, because a process reuses memory that it has freed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from distill_utils.models.backends import Backend, is_export, load_backend
from distill_utils.models.checkpoint import size_bytes
from distill_utils.system.errors import UserError
from distill_utils.system.memory import peak_memory

DOCUMENT = [5] * 10_000  # token ids


def measure(folder: Path, runtime: str, load: dict) -> dict:
    """Return ``load_seconds`` (files in the page cache), ``peak_memory_bytes`` and ``disk_bytes``.

    The peak memory is what loading and one batch add; None: unknown.

    Args:
        load: ``documents`` of a batch, their ``source_tokens``, ``num_beams`` and the ``tokens`` of every summary.

    Raises:
        UserError: if the model cannot be loaded.
    """
    done = subprocess.run(
        [sys.executable, "-m", "distill_utils.evaluation.footprint", str(Path(folder).resolve()), runtime, json.dumps(load)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{folder} could not be loaded as {runtime}: {' '.join(done.stderr.split())[-200:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure_here(folder: str, runtime: str, load: dict) -> dict:
    batch, length = [DOCUMENT[: load["source_tokens"]]] * load["documents"], load["tokens"]
    seconds = []

    def load_only() -> Backend:
        system = load_backend(folder, runtime)
        list(system.write([[DOCUMENT[:2]]], num_beams=1, min_new_tokens=1, max_new_tokens=1))  # trigger lazy loading
        return system

    load_only()  # exclude imports from the measurement

    def load_and_write() -> None:
        started = time.perf_counter()
        system = load_only()
        seconds.append(time.perf_counter() - started)
        list(system.write([batch], num_beams=load["num_beams"], min_new_tokens=length, max_new_tokens=length))

    peak = peak_memory(load_and_write)
    if torch.cuda.is_available() and is_export(folder):  # PyTorch does not track CTranslate2's memory
        peak = None
    disk = (Path(folder) / "model.bin").stat().st_size if is_export(folder) else size_bytes(Path(folder))
    return {"load_seconds": round(seconds[0], 3), "peak_memory_bytes": peak, "disk_bytes": disk}


if __name__ == "__main__":
    print(json.dumps(_measure_here(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
