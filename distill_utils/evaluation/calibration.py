"""Measure the calibration of next-token predictions on the references, with teacher forcing.

The confidence is the probability of the most probable token. The expected calibration error (Guo et al. 2017, arXiv
1706.04599) uses :data:`BINS` bins of equal width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.tokenization import opening, tokenize
from distill_utils.models.prepared import Prepared
from distill_utils.system.artefacts import is_current, read_json
from distill_utils.system.distributed import reuse
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress
from distill_utils.system.run_time import spending, writing
from distill_utils.training.batching import Collator
from distill_utils.training.losses import IGNORED

BINS = 15
FILE = "calibration.json"


def evaluate_calibration(
    prepared: Prepared, system: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: str
) -> dict:
    """Return the :func:`calibration` on the test split, computed once; ``checkpoint``: hash of the checkpoint."""

    def compute() -> dict:
        with spending(writing(system), f"calibration of {system}"):
            confidence, right, log_likelihood = named_tokens(prepared, system, model, tokenizer)
        return {**calibration(confidence, right), "nll": -float(log_likelihood.mean())}

    return reuse(_path(prepared, system), _key(prepared, checkpoint), compute)


def load_calibration(prepared: Prepared, system: str, checkpoint: str) -> dict | None:
    """What :func:`evaluate_calibration` found, or None where it was not asked."""
    path = _path(prepared, system)
    return read_json(path) if is_current(path.parent, _key(prepared, checkpoint)) else None


def _path(prepared: Prepared, system: str) -> Path:
    return prepared.study.folder / "calibrations" / system / FILE


def _key(prepared: Prepared, checkpoint: str) -> str:
    return fingerprint(
        checkpoint, prepared.texts_key, code_fingerprint("evaluation.calibration", "data", "training.batching")
    )


@torch.inference_mode()
def named_tokens(
    prepared: Prepared, system: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per token of the test references: confidence, whether the most probable token is correct, log-likelihood (nats)."""
    pairs = tokenize(prepared.corpus["test"], tokenizer, prepared.study.corpus)
    collate, size = Collator(tokenizer, model), prepared.study.generation.batch_size
    order = np.argsort(pairs["length"])[::-1].tolist()
    found: list[tuple[torch.Tensor, ...]] = []
    starts = range(0, len(order), size)
    for start in progress(starts, desc=f"calibration of {system}", unit="batch") if len(starts) > 8 else starts:
        batch = collate(pairs.select(order[start : start + size]).to_list())
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        kept = labels != IGNORED
        kept[:, : opening(tokenizer)] = False  # the same in all summaries
        log_probs = model(**batch, use_cache=False).logits[kept].float().log_softmax(-1)
        top, token = log_probs.max(-1)
        found.append((top.exp(), token == labels[kept], log_probs.gather(1, labels[kept][:, None])[:, 0]))
    return tuple(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict:
    """Compute the expected calibration error ``ece``, and confidence and accuracy of all tokens and of each non-empty bin.

    Args:
        confidence: ``(tokens,)`` in [0, 1].
        right: ``(tokens,)``, whether the most probable token is correct.
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for i in range(BINS):
        own = place == i
        if own.any():
            means = {"confidence": float(confidence[own].mean()), "accuracy": float(right[own].mean())}
            bins.append({**means, "tokens": int(own.sum())})
    apart = sum(b["tokens"] * abs(b["confidence"] - b["accuracy"]) for b in bins)
    return {
        "ece": apart / len(confidence),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "tokens": len(confidence),
        "bins": bins,
    }
