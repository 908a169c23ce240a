"""What a number was measured on: machine, versions, threads."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from distill_utils.system.paths import IN_CLONE, ROOT

REPORTED = ("torch", "transformers", "datasets", "evaluate", "rouge_score", "tokenizers", "accelerate", "papermill")


def processor_name() -> str:
    """The processor's model as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def environment() -> dict:
    """Commit, versions, machine and threads, for results.json."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures", ":!README.md")),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in REPORTED},
        "system": platform.system(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu_name(),
    }


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    # A build with CUDA names CUDA as its accelerator whether or not there is a GPU: ask whether it is there.
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def free_accelerator() -> None:
    """Give back the accelerator's memory that deleted models held; PyTorch keeps it for itself otherwise."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def bf16_supported() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware; where it does not, it is slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False
    built = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return built and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # which ONEDNN_MAX_CPU_ISA may rule out


def _git(*args: str) -> str:
    """Output of a git command, or empty where there is no git, no repository or no clone: a wheel may lie in another repository."""
    if not IN_CLONE:
        return ""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
