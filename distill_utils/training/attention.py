"""Attention for training on CPU: the library's plain one, kept in one precision.

Under bfloat16 autocast the library adds a float32 mask to bfloat16 scores, which on CPU takes fifteen times as long as
adding one of the same precision (3.5 against 0.23 ms for a layer of the default study); the fused kernel's backward
pass is slower than either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "plain"


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """softmax(scaling · Q Kᵀ + mask) V; queries, keys and values are ``(pairs, heads, tokens, width)``.

    Returns:
        ``(pairs, tokens, heads, width)``, and the weights ``(pairs, heads, queries, keys)``.
    """
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(2, 3))
    if attention_mask is not None:
        lowest = torch.finfo(scores.dtype).min  # float32's own lowest would round to minus infinity
        scores = scores + attention_mask.clamp_min(lowest).to(scores.dtype)
    weights = nn.functional.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, plain_attention)
AttentionMaskInterface.register(NAME, eager_mask)


def use_fastest_attention(model: PreTrainedModel) -> None:
    """For training: the above on CPU; the library's choice (fused) on an accelerator."""
    if not torch.accelerator.is_available():
        model.set_attn_implementation(NAME)
