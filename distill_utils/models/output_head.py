"""Run a model without its output projection, and apply the projection to its last hidden states later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

#: A logit of probability 0 at any usual temperature, within float16's range.
EXCLUDED = -3e4


@contextmanager
def without_head(model: PreTrainedModel) -> Iterator[None]:
    """Make the model return its last hidden states as ``logits`` while the context is open.

    Replacing the head keeps wrappers of the model (DDP, compilation, autocast) in the call.
    """
    head, bias = model.get_output_embeddings(), getattr(model, "final_logits_bias", None)
    model.set_output_embeddings(torch.nn.Identity())
    if bias is not None:
        model.final_logits_bias = torch.zeros((), dtype=bias.dtype, device=bias.device)
    try:
        yield
    finally:
        model.set_output_embeddings(head)
        if bias is not None:
            model.final_logits_bias = bias


def projected(model: PreTrainedModel, states: torch.Tensor | None = None) -> Projected:
    """Return a model's last hidden states with its output projection, or the projection alone."""
    head = model.get_output_embeddings()
    if head.bias is not None and head.bias.requires_grad:
        raise ValueError("a projection with a trainable bias is not supported: its gradient would be lost")
    biases = [b for b in (head.bias, getattr(model, "final_logits_bias", None)) if b is not None]
    return Projected(states, head.weight, sum(b.flatten() for b in biases) if biases else None)


@dataclass
class Projected:
    """The factors of logits, ``states @ weight.T + bias``.

    ``states``: the decoder's last hidden states ``(..., d)``, or None for the projection alone;
    ``weight``: ``(vocabulary, d)``; ``bias``: ``(vocabulary,)`` or None.
    """

    states: Tensor | None
    weight: Tensor
    bias: Tensor | None = None

    def rows(self, kept: Tensor) -> Projected:
        return Projected(self.states[kept], self.weight, self.bias)

    def cast(self, dtype: torch.dtype) -> Projected:
        """Cast the projection; :meth:`logits` casts the states.

        A bias of −∞, which excludes a token, becomes a number whose probability is 0: 0 · log 0 would be NaN.
        """
        bias = None if self.bias is None else self.bias.clamp_min(EXCLUDED).to(dtype)
        return Projected(self.states, self.weight.to(dtype), bias)

    def logits(self, part: slice) -> Tensor:
        """Return float32 logits ``(rows, vocabulary)`` of some rows, computed in the weights' precision."""
        return F.linear(self.states[part].to(self.weight.dtype), self.weight, self.bias).float()
