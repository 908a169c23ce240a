"""How fast a summarizer is: models and documents enter, latency and throughput with their spread leave.

All systems are timed in turn within each round, after a warm-up round that does not count, so that a
machine that slows down slows all of them; speed-ups are ratios within a round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.generation import generate
from distill_utils.progress import progress


@torch.inference_mode()
def measure_speed(
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    reference: str,
    batch_size: int,
    repeats: int,
    max_source_tokens: int,
    num_beams: int,
    **generate_settings,
) -> dict[str, dict]:
    """Time every model on the same documents: one at a time (latency) and in batches (throughput).

    Args:
        reference: the model that speed-ups are relative to.
        repeats: rounds that count.
        num_beams, generate_settings: passed to ``model.generate``.

    Returns:
        Per system: ``latency_ms`` (median over documents and rounds) and its ``latency_ms_spread``
        (10th and 90th percentile); ``summaries_per_s`` (median over rounds) and its spread (least and
        most); ``speedup`` (batch 1) and ``batch_speedup``, each the median over rounds with its
        spread; ``summary_tokens`` (mean length written).
    """
    encoded = tokenizer(list(documents), max_length=max_source_tokens, truncation=True)["input_ids"]
    ordered = sorted(encoded, key=len)
    batches = [
        tokenizer.pad({"input_ids": ordered[i : i + batch_size]}, return_tensors="pt")
        for i in range(0, len(ordered), batch_size)
    ]
    singles = [
        {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        for ids in encoded
    ]
    settings = {"num_beams": num_beams, **generate_settings}
    latency = {name: np.zeros((repeats, len(singles))) for name in models}
    batch_seconds = {name: np.zeros(repeats) for name in models}
    written = dict.fromkeys(models, 0)
    rounds = progress(
        range(-1, repeats), desc=f"timing, {num_beams} beam{'s'[: num_beams > 1]}", total=repeats + 1, unit="round"
    )
    for round_ in rounds:
        for i, single in enumerate(singles if round_ >= 0 else singles[:2]):
            for name, model in models.items():
                seconds, tokens = _timed(model, single, settings)
                if round_ >= 0:
                    latency[name][round_, i] = seconds
                    written[name] += tokens
        for batch in batches if round_ >= 0 else batches[:1]:
            for name, model in models.items():
                seconds, _ = _timed(model, batch, settings)
                if round_ >= 0:
                    batch_seconds[name][round_] += seconds
    return {
        name: {
            "num_beams": num_beams,
            "latency_ms": _median(1000 * latency[name]),
            "latency_ms_spread": [float(p) for p in np.percentile(1000 * latency[name], [10, 90])],
            "summaries_per_s": _median(len(encoded) / batch_seconds[name]),
            "summaries_per_s_spread": _range(len(encoded) / batch_seconds[name]),
            "speedup": _median(latency[reference].sum(1) / latency[name].sum(1)),
            "speedup_spread": _range(latency[reference].sum(1) / latency[name].sum(1)),
            "batch_speedup": _median(batch_seconds[reference] / batch_seconds[name]),
            "batch_speedup_spread": _range(batch_seconds[reference] / batch_seconds[name]),
            "summary_tokens": written[name] / latency[name].size,
        }
        for name in models
    }


def _timed(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], settings: dict) -> tuple[float, int]:
    """Seconds of one ``generate``, and tokens in the first summary without the start token."""
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    _synchronize(model)
    started = time.perf_counter()
    written = generate(model, inputs, **settings)
    _synchronize(model)
    return time.perf_counter() - started, written.shape[-1] - 1


def _synchronize(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _range(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.max())]
