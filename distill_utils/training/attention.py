"""Train on CPU with eager attention whose mask has the precision of the scores.

Under bfloat16 autocast, transformers adds a float32 mask to bfloat16 scores. On CPU this takes
3.5 ms per layer of the default study; with a bfloat16 mask it takes 0.23 ms. The backward pass of
the fused kernel is slower than both.
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
    position_bias: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Compute softmax(scaling · Q Kᵀ + bias + mask) V for ``(pairs, heads, tokens, width)`` tensors.

    The bias is T5's of relative positions, ``(1, heads, queries, keys)``.

    Returns:
        The output ``(pairs, tokens, heads, width)`` and the weights ``(pairs, heads, queries, keys)``.
    """
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(2, 3))
    if position_bias is not None:
        scores = scores + position_bias.to(scores.dtype)
    if attention_mask is not None:
        lowest = torch.finfo(scores.dtype).min  # float32's minimum would round to -inf
        scores = scores + attention_mask.clamp_min(lowest).to(scores.dtype)
    weights = nn.functional.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, plain_attention)
AttentionMaskInterface.register(NAME, eager_mask)


def use_fastest_attention(model: PreTrainedModel) -> None:
    """Train with :func:`plain_attention` on CPU, and with the fused kernel on an accelerator."""
    if not torch.accelerator.is_available():
        model.set_attn_implementation(NAME)
