"""Generate summaries in batches, with a cache that leaves the document's keys and values in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.tokenization import beginnings
from distill_utils.studies.settings import Study
from distill_utils.system.distributed import gather, is_main, my_share
from distill_utils.system.progress import progress


def generation_settings(study: Study, model: PreTrainedModel) -> dict[str, float]:
    """The settings that shape a model's summaries in a study: its checkpoint's, and the study's over them."""
    set_length(study, model)
    named = ("num_beams", "length_penalty", "no_repeat_ngram_size", "early_stopping")
    named += ("min_length", "max_length", "min_new_tokens", "max_new_tokens")
    own = {name: getattr(model.generation_config, name, None) for name in named}
    settings = {name: value for name, value in own.items() if value is not None} | study.generation.arguments()
    for side in ("min", "max"):  # where both are given the second counts
        if f"{side}_new_tokens" in settings:
            settings.pop(f"{side}_length", None)
    return {"num_beams": 1, **settings}


def set_length(study: Study, model: PreTrainedModel) -> None:
    """Give a checkpoint that says nothing of lengths the study's target length; the library's is 20 tokens."""
    config = model.generation_config
    if config.max_length is None and config.max_new_tokens is None:
        config.max_new_tokens = study.corpus.max_target_tokens


class BeamCache(EncoderDecoderCache):
    """Keys and values of a search whose beams change places: the library moves those of the document, too.

    Beams change places within their own document alone, and all beams of a document have the same keys and values of it.
    So nothing is moved there, which otherwise is most of what a step of a small decoder copies.
    """

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.self_attention_cache.reorder_cache(beam_idx)


def generate(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], **settings) -> torch.Tensor:
    """``model.generate`` with a :class:`BeamCache`: the same tokens, ``(pairs, tokens)``."""
    cache = BeamCache(*(DynamicCache(config=model.config.get_text_config(decoder=True)) for _ in range(2)))
    return model.generate(**inputs, past_key_values=cache, **settings)


@torch.inference_mode()
def summarize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    max_source_tokens: int,
    batch_size: int = 64,
    desc: str | None = None,
    shared: bool = True,
    **generate_settings,
) -> list[str]:
    """Summarize documents, longest first so that a batch holds little padding.

    Several processes (torchrun) share the batches out, and each gets all summaries, unless ``shared`` is false.

    Args:
        max_source_tokens: longer documents are cut.
        desc: what the progress bar says; no bar where None.
        generate_settings: passed to ``model.generate``, over the model's generation config.

    Returns:
        One summary per document, in the order given.
    """
    documents = beginnings(documents, tokenizer, max_source_tokens)
    encoded = tokenizer(documents, max_length=max_source_tokens, truncation=True)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    summaries = [""] * len(encoded)
    was_training = model.training
    model.eval()
    mine, written = my_share(batches) if shared else batches, []
    for batch in progress(mine, desc=desc, unit="batch") if desc and is_main() else mine:
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(model.device)
        texts = tokenizer.batch_decode(generate(model, inputs, **generate_settings), skip_special_tokens=True)
        written += zip(batch, texts, strict=True)
    for i, text in gather(written) if shared else written:
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
