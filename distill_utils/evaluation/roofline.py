"""What hardware allows: a model's shape and a load enter, the least time that moving its bytes or doing its operations takes leaves.

A decoding step reads all weights of the decoder once for the whole batch, and keys and values. It can be no faster than memory delivers
them, nor than the machine multiplies; the longer of the two is its limit (the *roofline* of Williams et al. 2009). Both speeds are
what PyTorch reaches here; a library with better kernels can come to more than all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PretrainedConfig

from distill_utils.system.environment import device

#: Bytes of a weight in each runtime, and the kind of matrices it multiplies.
WEIGHTS = {
    "pytorch-fp32": (4, "float32"), "pytorch-bf16": (2, "bfloat16"), "ctranslate2-float32": (4, "float32"),
    "ctranslate2-int8": (1, "int8"), "ctranslate2-float16": (2, "float16"),
}  # fmt: skip
ROUNDS = 7


@dataclass(frozen=True)
class Work:
    """Bytes that have to be read, and operations (a multiplication and an addition are two), of one batch."""

    encoder_bytes: float
    encoder_flops: float
    step_bytes: float
    step_flops: float


def work(
    config: PretrainedConfig, documents: int, source_tokens: float, num_beams: int, tokens: int, weight_bytes: int
) -> Work:
    """What a batch takes at least.

    Args:
        config: a BART's.
        documents: in the batch.
        source_tokens: mean length of a document.
        tokens: steps of decoding; a step on average sees half of them.
        weight_bytes: of one weight. Keys and values count as float32, those of the document once for all of its beams; activations
            as never read from memory.
    """
    d, rows = config.d_model, documents * num_beams
    inner, layers = config.decoder_ffn_dim, config.decoder_layers
    # self-attention's four projections, attention to the document's two (its keys and values are made once), feed-forward, logits
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
    """The least seconds of a batch, and what sets it.

    Args:
        bytes_per_s: ``encoder`` and ``step``, each measured on as many bytes as it reads.

    Returns:
        ``seconds``, and ``bound``: ``memory`` or ``matrices``, whichever takes longer in a decoding step.
    """
    encoder = max(needed.encoder_bytes / bytes_per_s["encoder"], needed.encoder_flops / flops_per_s)
    read, multiply = needed.step_bytes / bytes_per_s["step"], needed.step_flops / flops_per_s
    return {
        "seconds": encoder + tokens * max(read, multiply),
        "bound": "memory" if read > multiply else "matrices",
    }


def measure_bandwidth(size: float) -> float:
    """Bytes a second that this machine reads from a buffer of so many bytes, over and over, as weights are read step by step.

    A small buffer stays in the processor's caches and is read faster: so may a small model's weights.
    """
    buffer = torch.ones(max(1, int(size) // 4), device=device())
    repeats = min(1000, max(1, int(2e8 // (4 * len(buffer)))))
    return 4 * len(buffer) * repeats / _fastest(lambda: [buffer.sum() for _ in range(repeats)])


def measure_matrices(kind: str, size: int = 2048) -> float | None:
    """Operations a second of a multiplication of two square matrices; None where PyTorch has none of the kind here."""
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
    """Seconds of the fastest of some rounds, after one that does not count: what the machine can do."""
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.min(seconds[1:]))
