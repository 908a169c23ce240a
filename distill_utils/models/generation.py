"""Generate summaries in batches, with a cache that leaves the document's keys and values in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from distill_utils.data.tokenization import batches_by_length, beginnings, opening
from distill_utils.studies.settings import Study
from distill_utils.system.distributed import gather, is_main, my_share
from distill_utils.system.environment import free_accelerator
from distill_utils.system.errors import LOWER, MemoryFull
from distill_utils.system.progress import progress

#: Texts leave a batch of samples when at most this share of it goes on, since each time the caches are copied.
KEPT = 0.75
LINE_BREAK = "<n>"


def generation_settings(study: Study, model: PreTrainedModel) -> dict[str, float]:
    """Return the checkpoint's generation settings, overridden by the study's."""
    set_length(study, model)
    named = ("num_beams", "length_penalty", "no_repeat_ngram_size", "early_stopping")
    named += ("min_length", "max_length", "min_new_tokens", "max_new_tokens")
    own = {name: getattr(model.generation_config, name, None) for name in named}
    settings = {name: value for name, value in own.items() if value is not None} | study.generation.arguments()
    for side in ("min", "max"):  # new_tokens takes precedence
        if f"{side}_new_tokens" in settings:
            settings.pop(f"{side}_length", None)
    return {"num_beams": 1, **settings}


#: New tokens that transformers writes for a checkpoint that sets no maximum.
DEFAULT_TOKENS = 20


def steps(settings: Mapping[str, object], side: str) -> int | None:
    """Return a length limit in steps; ``…_new_tokens`` overrides ``…_length``, which counts the start token."""
    if settings.get(f"{side}_new_tokens") is not None:
        return settings[f"{side}_new_tokens"]
    length = settings.get(f"{side}_length")
    return max(0, length - 1) if length else None


@cache
def _say_dropped(least: int, most: int) -> None:
    why = (
        f"the checkpoint's minimum of {least} tokens would make every summary as long as the study's maximum of {most}"
    )
    print(f"WARNING: {why}; the minimum is dropped", file=sys.stderr, flush=True)


def set_length(study: Study, model: PreTrainedModel) -> None:
    """Settle the lengths of a model's summaries for a study, in its generation config.

    Without a limit it gets the study's target length, since transformers' default is 20 tokens. A minimum that leaves no
    choice of length below the study's maximum is dropped, and said.
    """
    config = model.generation_config
    if config.max_length is None and config.max_new_tokens is None:
        config.max_new_tokens = study.corpus.max_target_tokens
    own, given = config.to_dict(), study.generation.arguments()
    least, most = steps(own, "min"), steps(given, "max") or steps(own, "max")
    if least and most and least >= most and not study.generation.min_new_tokens:
        _say_dropped(least, most)
        config.min_length = config.min_new_tokens = None


class BeamCache(EncoderDecoderCache):
    """A cache that does not reorder the cross-attention's keys and values in beam search.

    Beams are reordered only within a document, whose beams have equal keys and values, so nothing needs to
    move. In transformers' cache this copy is most of what a step of a small decoder copies.
    """

    @classmethod
    def of(cls, model: PreTrainedModel) -> BeamCache:
        return cls(*(DynamicCache(config=model.config.get_text_config(decoder=True)) for _ in range(2)))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.self_attention_cache.reorder_cache(beam_idx)


def generate(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], **settings) -> torch.Tensor:
    """Call ``model.generate`` with a :class:`BeamCache`, which returns the same tokens, ``(pairs, tokens)``."""
    return model.generate(**inputs, past_key_values=BeamCache.of(model), **settings)


@torch.no_grad()
def sampled(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], *, temperature: float, most: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample a text for each document from the model's own distribution, without beams and further settings.

    ``model.generate`` carries ended texts on to the end of the longest one, and draws with a random number for every word of
    the vocabulary. Here they leave the batch, and a text takes one number a token, by which texts do not depend on each other.

    Args:
        inputs: ``attention_mask`` and either ``input_ids`` or ``encoder_outputs``.
        most: maximum number of tokens, the end token included.

    Returns:
        Token ids ``(pairs, 1 + tokens)``, the start token first, padding behind the end token; and ``(pairs, tokens)``, which
        tokens behind the start token were sampled; a forced one was not.
    """
    own, mask = model.generation_config, inputs["attention_mask"]
    encoded = inputs.get("encoder_outputs") or model.get_encoder()(inputs["input_ids"], attention_mask=mask)
    states, random = encoded[0], torch.Generator().manual_seed(seed)
    exact = torch.float if states.device.type == "mps" else torch.double  # which has no doubles
    texts = torch.full((len(states), 1 + most), own.pad_token_id, device=states.device)
    texts[:, 0] = own.decoder_start_token_id
    ends, lengths = torch.tensor(own.eos_token_id, device=states.device).reshape(-1), torch.zeros_like(texts[:, 0])
    rows, cache = torch.arange(len(states), device=states.device), BeamCache.of(model)
    for place in range(1, 1 + most):
        read = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask, past_key_values=cache, use_cache=True,
            decoder_input_ids=texts[rows, place - 1 : place],
        )  # fmt: skip
        numbers = torch.rand(len(texts), 1, dtype=exact, generator=random).to(states.device)[rows]
        sums = (read.logits[:, -1].float() / temperature).softmax(-1).cumsum(-1, dtype=exact)
        token = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)[:, 0].clamp_max(sums.shape[1] - 1)
        if place == 1 and own.forced_bos_token_id is not None:
            token = torch.full_like(token, own.forced_bos_token_id)
        going = lengths[rows] == 0
        texts[rows, place] = token.masked_fill(~going, own.pad_token_id)
        over = going & (torch.isin(token, ends) | (place == most))
        lengths[rows] += over * place
        going = (going & ~over).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) <= KEPT * len(rows):
            rows, states, mask = rows[going], states[going], mask[going]
            cache.batch_select_indices(going)
    places = torch.arange(place, device=states.device)
    return texts[:, : place + 1], (places < lengths[:, None]) & (places >= (own.forced_bos_token_id is not None))


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]] | torch.Tensor) -> list[str]:
    """Return token ids as texts; Pegasus's token for a line break, ``<n>``, becomes one."""
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    if tokenizer.convert_tokens_to_ids(LINE_BREAK) in (None, tokenizer.unk_token_id):
        return texts
    return ["\n".join(line.strip() for line in text.split(LINE_BREAK)).strip() for text in texts]


class InHalves:
    """Apply a function to batches, each a sequence; where the GPU's memory does not hold one, to halves from then on.

    The function returns a list with an element for each of the batch. Raises MemoryFull if one alone is too much.
    """

    def __init__(self, function: Callable[[Sequence], list]) -> None:
        self._function, self._most = function, sys.maxsize

    def __call__(self, batch: Sequence) -> list:
        done = []
        while len(done) < len(batch):
            part = batch[len(done) : len(done) + self._most]
            try:
                done += self._function(part)
                continue
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise MemoryFull(f"the GPU's memory does not hold one document; {LOWER}") from None
            free_accelerator()  # not before: until here, the error holds the tensors
            self._most = len(part) // 2
            print(
                f"WARNING: the GPU ran out of memory; from here on {self._most} documents at a time",
                file=sys.stderr,
                flush=True,
            )
        return done


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
    """Summarize documents, sorted by length so that batches have little padding.

    Args:
        max_source_tokens: longer documents are truncated.
        desc: the progress bar's label; None: no bar.
        shared: distribute the batches over the processes (torchrun); each returns all summaries.
        generate_settings: passed to ``model.generate``; they override the model's generation config.

    Returns:
        One summary per document, in the given order.
    """
    documents = beginnings(documents, tokenizer, max_source_tokens)
    encoded = tokenizer(documents, max_length=max_source_tokens, truncation=True)["input_ids"]
    batches = batches_by_length([len(ids) for ids in encoded], batch_size)
    summaries = [""] * len(encoded)
    was_training = model.training
    model.eval()
    mine, written = my_share(batches) if shared else batches, []

    def write(batch: Sequence[int]) -> list[str]:
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(model.device)
        return decoded(tokenizer, generate(model, inputs, **generate_settings))

    write = InHalves(write)
    for batch in progress(mine, desc=desc, unit="batch") if desc and is_main() else mine:
        written += zip(batch, write(batch), strict=True)
    for i, text in gather(written) if shared else written:
        summaries[i] = text
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
    """Return the model's predictions at every position of a given summary (teacher forcing).

    Returns:
        Logits ``(tokens, vocabulary)`` and the summary's token ids ``(tokens,)``, with the end token and
        without the special tokens that every summary begins with.
    """
    source = tokenizer(document, max_length=max_source_tokens, truncation=True, return_tensors="pt").to(model.device)
    target = tokenizer(text_target=summary, max_length=max_target_tokens, truncation=True, return_tensors="pt")
    labels = target["input_ids"].to(model.device)
    inputs = model.prepare_decoder_input_ids_from_labels(labels=labels)
    logits = model(**source, decoder_input_ids=inputs).logits
    first = opening(tokenizer)
    return logits[0, first:], labels[0, first:]
