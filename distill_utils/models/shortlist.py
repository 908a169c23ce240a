"""Restrict a decoder's vocabulary to the tokens that can come, so that its output projection computes fewer logits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Shortlist:
    """The tokens that summaries of given documents may have.

    These are a fixed part, most frequent in training summaries, the special tokens, and the tokens of the documents, each also
    in its other forms: with and without a space before it, in lower and upper case. Documents of a batch share their tokens.

    Attributes:
        fixed: ids that are always allowed, in ascending order.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, fixed: Iterable[int]) -> None:
        self.tokenizer, self.fixed = tokenizer, sorted({*fixed, *tokenizer.all_special_ids})

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, summaries: Iterable[str], count: int) -> Shortlist:
        """Return the shortlist with the ``count`` most frequent tokens of summaries; of equally frequent ones the first."""
        texts = [*summaries]
        ids = tokenizer(text_target=texts, add_special_tokens=False)["input_ids"] if texts else []
        counts = Counter(token for text in ids for token in text)
        return cls(tokenizer, [token for token, _ in counts.most_common(count)])

    @cached_property
    def forms(self) -> list[list[int]]:
        """Of each id, those of the same word; a token without letters or digits has itself alone."""
        size, same = len(self.tokenizer), defaultdict(list)
        words = [
            self.tokenizer.convert_tokens_to_string([t]) for t in self.tokenizer.convert_ids_to_tokens(range(size))
        ]
        folded = [word.strip().casefold() for word in words]
        for token, word in enumerate(folded):
            same[word].append(token)
        return [same[word] if any(map(str.isalnum, word)) else [token] for token, word in enumerate(folded)]

    def candidates(self, batch: Sequence[Sequence[int]]) -> list[int]:
        """Return the ids that the summaries of a batch of documents, given as ids, may have, in ascending order."""
        seen = {token for ids in batch for token in ids if token < len(self.forms)}
        return sorted({*self.fixed, *(form for token in seen for form in self.forms[token])})

    def ctranslate2_map(self) -> str:
        """Return the same as CTranslate2's vocabulary map: lines of a source token, a tab and its targets.

        The line without a source token has those that are always allowed. A name with white space, which separates the
        names, cannot be listed.
        """
        names = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        lines = [("", self.fixed), *zip(names, self.forms, strict=True)]
        return "".join(
            f"{source}\t{' '.join(names[t] for t in targets if not _has_space(names[t]))}\n"
            for source, targets in lines
            if not _has_space(source)
        )


def _has_space(name: str) -> bool:
    return any(map(str.isspace, name))


class _Few(torch.nn.Module):
    """An output projection that computes some rows; the logits of the others are −∞."""

    def __init__(self, head: torch.nn.Module, ids: Tensor) -> None:
        super().__init__()
        self.ids, self.size, self.weight = ids, head.weight.shape[0], head.weight[ids]
        self.bias = None if head.bias is None else head.bias[ids]

    def forward(self, states: Tensor) -> Tensor:
        logits = states.new_full((*states.shape[:-1], self.size), -torch.inf)
        logits[..., self.ids] = F.linear(states, self.weight, self.bias)
        return logits


@contextmanager
def shortened(model: PreTrainedModel, ids: list[int]) -> Iterator[None]:
    """Let the model write tokens of these ids only while the context is open; those without an embedding are left out."""
    head = model.get_output_embeddings()
    rows = [token for token in ids if token < len(head.weight)]
    model.set_output_embeddings(_Few(head, torch.tensor(rows, device=head.weight.device)))
    try:
        yield
    finally:
        model.set_output_embeddings(head)
