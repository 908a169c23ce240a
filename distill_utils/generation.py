"""Batched summarization: documents enter, summaries leave in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.progress import progress


@torch.inference_mode()
def summarize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    max_source_tokens: int,
    batch_size: int = 64,
    desc: str | None = None,
    **generate_settings,
) -> list[str]:
    """Summarize documents, longest first so that a batch holds little padding.

    Args:
        max_source_tokens: longer documents are cut.
        desc: what the progress bar says; no bar where None.
        generate_settings: passed to ``model.generate``, over the model's generation config.

    Returns:
        One summary per document, in the order given.
    """
    encoded = tokenizer(list(documents), max_length=max_source_tokens, truncation=True)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    summaries = [""] * len(encoded)
    was_training = model.training
    model.eval()
    for batch in progress(batches, desc=desc, unit="batch") if desc else batches:
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(model.device)
        written = model.generate(**inputs, **generate_settings)
        for i, text in zip(batch, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
            summaries[i] = text.strip()
    model.train(was_training)
    return summaries


@torch.no_grad()
def forced_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    document: str,
    summary: str,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model expects at every position of a given summary.

    Returns:
        Logits ``(tokens, vocabulary)`` and the summary's token ids ``(tokens,)``, the end token included
        and the start token left out.
    """
    source = tokenizer(document, max_length=max_source_tokens, truncation=True, return_tensors="pt").to(model.device)
    target = tokenizer(text_target=summary, max_length=max_target_tokens, truncation=True, return_tensors="pt")
    labels = target["input_ids"].to(model.device)
    inputs = model.prepare_decoder_input_ids_from_labels(labels=labels)
    logits = model(**source, decoder_input_ids=inputs).logits
    return logits[0, 1:], labels[0, 1:]
