"""Compute the roofline of generation (Williams et al. 2009): a lower bound of the time from bytes and operations.

A decoding step reads the decoder's weights once per batch, and keys and values. Its bound is the longer of the time to
read these bytes and the time for the matrix products. Bandwidth and compute are measured with PyTorch on this machine,
so a library with better kernels can exceed 100 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PretrainedConfig

from distill_utils.system.environment import device

#: Bytes per weight and precision of the matrix products, by inference backend.
WEIGHTS = {
    "pytorch-fp32": (4, "float32"), "pytorch-bf16": (2, "bfloat16"), "ctranslate2-float32": (4, "float32"),
    "ctranslate2-int8": (1, "int8"), "ctranslate2-float16": (2, "float16"),
}  # fmt: skip
ROUNDS = 7


@dataclass(frozen=True)
class Work:
    """Bytes to read and floating-point operations (multiply-add counts as two) of a batch."""

    encoder_bytes: float
    encoder_flops: float
    step_bytes: float
    step_flops: float


def work(
    config: PretrainedConfig, documents: int, source_tokens: float, num_beams: int, tokens: int, weight_bytes: int
) -> Work:
    """Count the minimum work of a batch.

    Keys and values are float32, the document's are shared by its beams, and activations are not read from memory.

    Args:
        config: of a BART model.
        documents: in the batch.
        source_tokens: mean length of a document.
        tokens: decoding steps.
        weight_bytes: bytes per weight.
    """
    d, rows = config.d_model, documents * num_beams
    inner, layers = config.decoder_ffn_dim, config.decoder_layers
    # Projections: four of self-attention, two of cross-attention (keys and values are computed once), feed-forward, logits.
    step = layers * (4 * d * d + 2 * d * d + 2 * d * inner) + config.vocab_size * d
    seen = source_tokens + tokens / 2
    encoder = config.encoder_layers * (4 * d * d + 2 * d * config.encoder_ffn_dim) + layers * 2 * d * d
    words = documents * source_tokens
    return Work(
        encoder_bytes=weight_bytes * encoder,
        encoder_flops=2 * words * encoder + config.encoder_layers * 4 * d * words * source_tokens,
        step_bytes=weight_bytes * step + layers * 2 * d * 4 * (documents * source_tokens + rows * tokens / 2),
        step_flops=2 * rows * step + rows * layers * 4 * d * seen,
    )


def limit(needed: Work, tokens: int, flops_per_s: float, bytes_per_s: Mapping[str, float]) -> dict:
    """Return the minimum time of a batch and what bounds it.

    Args:
        bytes_per_s: bandwidth of ``encoder`` and ``step``, each measured at the size that it reads.

    Returns:
        ``seconds``, and ``bound``: ``memory`` or ``matrices``, the longer one in a decoding step.
    """
    encoder = max(needed.encoder_bytes / bytes_per_s["encoder"], needed.encoder_flops / flops_per_s)
    read, multiply = needed.step_bytes / bytes_per_s["step"], needed.step_flops / flops_per_s
    return {"seconds": encoder + tokens * max(read, multiply), "bound": "memory" if read > multiply else "matrices"}


def measure_bandwidth(size: float) -> float:
    """Measure the bandwidth in bytes/s of reading a buffer of ``size`` bytes repeatedly; small ones stay in cache."""
    buffer = torch.ones(max(1, int(size) // 4), device=device())
    repeats = min(1000, max(1, int(2e8 // (4 * len(buffer)))))
    return 4 * len(buffer) * repeats / _fastest(lambda: [buffer.sum() for _ in range(repeats)])


def measure_matrices(kind: str, size: int = 2048) -> float | None:
    """Measure the operations/s of a product of square matrices; None if PyTorch does not support it here."""
    if kind == "int8":
        left, right = (torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device()) for _ in range(2))
        multiply = getattr(torch, "_int_mm", None)
    else:
        left, right = (torch.randn(size, size, device=device()).to(getattr(torch, kind)) for _ in range(2))
        multiply = torch.mm
    try:
        return 2 * size**3 / _fastest(lambda: multiply(left, right))
    except (RuntimeError, TypeError):
        return None


def _fastest(action: Callable[[], object]) -> float:
    """Return the time in seconds of the fastest of :data:`ROUNDS` rounds, after a warm-up round."""
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.min(seconds[1:]))
