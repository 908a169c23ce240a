"""Let a student draft its teacher's greedy summaries: the same tokens from fewer passes of the teacher.

Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) without sampling: the student proposes some tokens, one pass
of the teacher scores them all, and those that the teacher would have chosen itself are kept, with one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from distill_utils.models.backends import UNSUPPORTED, Batch, PyTorch, is_export, token_ids, without_padding
from distill_utils.models.checkpoint import load_model
from distill_utils.models.generation import DEFAULT_TOKENS, steps
from distill_utils.models.student import same_weights
from distill_utils.system.errors import UserError

#: Tokens that the student proposes before each pass of the teacher.
PROPOSED = 4


class Drafted(PyTorch):
    """A teacher whose greedy summaries a student drafts, one document at a time.

    Its settings are those of ``model.generate``, but for beams: there are none.

    Attributes:
        proposed, accepted: tokens that the student has proposed, and that the teacher has accepted.
        passes: passes of the teacher's decoder.
    """

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
        max_source_tokens: int | None = None, most: int = PROPOSED,
    ) -> None:  # fmt: skip
        super().__init__(teacher, tokenizer, max_source_tokens)
        self.student, self.most = student.eval().to(teacher.device, teacher.dtype), most
        self._shared = same_weights(teacher.get_encoder(), student.get_encoder())
        self.proposed = self.accepted = self.passes = 0

    @torch.inference_mode()
    def write(self, batches: Sequence[Batch], **settings) -> Iterator[list[list[int]]]:
        own = {**self.model.generation_config.to_dict(), **settings}
        for name in UNSUPPORTED:
            if own.get(name):
                raise UserError(f"a draft serves greedy search only; the generation config has {name}")
        processors = _processors(own, self.model.device)
        most = steps(own, "max") or DEFAULT_TOKENS
        for batch in batches:
            yield [self._written(torch.tensor([ids], device=self.model.device), processors, most, own) for ids in batch]

    def _written(
        self, source: Tensor, processors: LogitsProcessorList, most: int, own: Mapping[str, object]
    ) -> list[int]:
        encoded = self.model.get_encoder()(source)[0]
        teacher = _Decoder(self.model, encoded)
        student = _Decoder(self.student, encoded if self._shared else self.student.get_encoder()(source)[0])
        ends = token_ids(own["eos_token_id"])
        text, ended = torch.tensor([[own["decoder_start_token_id"]]], device=source.device), False
        while not ended and text.shape[1] <= most:
            draft = text
            for _ in range(min(self.most, most - text.shape[1])):
                token = processors(draft, student.logits(draft, 1)[:, 0]).argmax(-1)
                draft = torch.cat([draft, token[:, None]], 1)
                if token.item() in ends:
                    break
            count = draft.shape[1] - text.shape[1]
            scores = teacher.logits(draft, count + 1)
            self.passes, self.proposed = self.passes + 1, self.proposed + count
            for i in range(count + 1):
                token = processors(text, scores[:, i]).argmax(-1)
                text, ended = torch.cat([text, token[:, None]], 1), token.item() in ends
                same = i < count and token == draft[0, text.shape[1] - 1]
                self.accepted += int(same)
                if ended or not same:
                    break
            for decoder in (teacher, student):
                decoder.forget(text.shape[1] - 1)
        return without_padding(text[0, 1:].tolist(), self.tokenizer.pad_token_id)


def load_drafted(source: str | Path, student: str | Path) -> Drafted:
    """Load a teacher and the student that drafts its summaries: checkpoints' folders or ids on the Hub.

    Raises UserError if one cannot be loaded, or if they do not belong together.
    """
    for place in (source, student):
        if is_export(place):
            raise UserError(f"{place} is an export; a draft works with checkpoints alone, in PyTorch")
    teacher, tokenizer = load_model(source)
    drafts, other = load_model(student)
    if tokenizer.get_vocab() != other.get_vocab():
        raise UserError(f"{student} has another vocabulary than {source}; a draft needs the same tokens")
    return Drafted(teacher, drafts, tokenizer)


class _Decoder:
    """A model's decoder for one document, with the keys and values of the tokens that it has read."""

    def __init__(self, model: PreTrainedModel, encoded: Tensor) -> None:
        self._model, self._encoded = model, BaseModelOutput(last_hidden_state=encoded)
        self._cache = EncoderDecoderCache(
            *(DynamicCache(config=model.config.get_text_config(decoder=True)) for _ in range(2))
        )

    def logits(self, text: Tensor, count: int) -> Tensor:
        """Read what is new of a text ``(1, tokens)`` and return its last scores ``(1, count, vocabulary)``."""
        new = text[:, self._cache.get_seq_length() :]
        read = self._model(
            encoder_outputs=self._encoded, decoder_input_ids=new, past_key_values=self._cache, use_cache=True
        )
        return read.logits[:, -count:].float()

    def forget(self, length: int) -> None:
        """Keep the first tokens that were read."""
        self._cache.self_attention_cache.crop(min(0, length - self._cache.get_seq_length()))


def _processors(own: Mapping[str, object], device: torch.device) -> LogitsProcessorList:
    """Return what ``model.generate`` does to the scores of a greedy search, in its order."""
    made, end = LogitsProcessorList(), own["eos_token_id"]
    least, most = (steps(own, side) for side in ("min", "max"))
    if (own.get("repetition_penalty") or 1.0) != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(own["repetition_penalty"]))
    if own.get("no_repeat_ngram_size"):
        made.append(NoRepeatNGramLogitsProcessor(own["no_repeat_ngram_size"]))
    if least:
        made.append(MinLengthLogitsProcessor(least + 1, end, device))
    if own.get("forced_bos_token_id") is not None:
        made.append(ForcedBOSTokenLogitsProcessor(own["forced_bos_token_id"]))
    if own.get("forced_eos_token_id") is not None:
        made.append(ForcedEOSTokenLogitsProcessor((most or 20) + 1, own["forced_eos_token_id"], device))
    return made
