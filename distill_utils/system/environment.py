"""Describe the machine, library versions and threads that a measurement ran on, and choose the device."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from distill_utils.system.errors import UserError
from distill_utils.system.paths import IN_CLONE, ROOT

REPORTED = ("torch", "transformers", "datasets", "evaluate", "rouge_score", "tokenizers", "accelerate", "papermill")


def processor_name() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Return the processor's instructions that PyTorch and oneDNN use here: they decide the speed."""
    found = [torch.backends.cpu.get_cpu_capability()]
    if not torch.accelerator.is_available() and bf16_supported():
        found.append("AMX" if torch.cpu._is_amx_tile_supported() else "AVX512-BF16")
    return found


def gpu_name() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def environment() -> dict:
    """Return commit, versions, machine and threads, for results.json."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "modified": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures", ":!docs", ":!README.md")
        ),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in REPORTED},
        "system": platform.system(),
        "processor": processor_name(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu_name(),
    }


def device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    # A CUDA build names CUDA as its accelerator even without a GPU, so check that it is available.
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def free_accelerator() -> None:
    """Release the accelerator memory of deleted models, which PyTorch caches otherwise."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def bf16_supported() -> bool:
    """Return whether the hardware multiplies bfloat16 matrices; emulated, they are slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False
    built = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return built and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # ONEDNN_MAX_CPU_ISA may disable it


#: Families whose states stay within float16, so that ``auto`` may choose it: T5's and Pegasus's outgrow it.
IN_FLOAT16 = ("bart", "mbart")


def training_precision(wanted: str, family: str) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``: the precision of a training's matrix products on this machine.

    Args:
        wanted: one of these, or ``auto``: bf16 where the hardware has it, else fp16 on a CUDA GPU (T4, V100) for BART and
            mBART, else fp32.
        family: the models' ``model_type``.

    Raises:
        UserError: if the hardware lacks what is wanted.
    """
    gpu = torch.cuda.is_available()
    if wanted == "auto":
        return "bf16" if bf16_supported() else "fp16" if gpu and family in IN_FLOAT16 else "fp32"
    if (wanted == "bf16" and not bf16_supported()) or (wanted == "fp16" and not gpu):
        needs = "hardware for bfloat16 (AVX512-BF16, AMX or a newer GPU)" if wanted == "bf16" else "a CUDA GPU"
        raise UserError(f"setting 'distillation.precision' is {wanted!r}, which needs {needs}; use 'auto'")
    return wanted


def _git(*args: str) -> str:
    """Return a git command's output; empty without git or a clone (a wheel may lie in another repository)."""
    if not IN_CLONE:
        return ""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
