"""Distil as tutorials do, as the baseline of the benchmarks.

Both models run in full, all logits are materialized, batches are random and padded by transformers' collator, and
attention and optimizer are the library's defaults. The loss equals ours without hidden states.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import Seq2SeqTrainer


class TextbookTrainer(Seq2SeqTrainer):
    """Train with α · cross-entropy + (1 − α) · T² · KL(teacher ‖ student), per target token."""

    def __init__(self, *args, teacher, alpha: float, temperature: float, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.alpha, self.temperature = alpha, temperature
        self.model_accepts_loss_kwargs = False  # average over each batch's tokens, as tutorials do

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        if self.alpha == 1 or not model.training:
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        with torch.no_grad(), self.accelerator.autocast():
            wanted = self.teacher(**{k: v for k, v in inputs.items() if k != "labels"}).logits.float()
        divergence = F.kl_div(
            F.log_softmax(outputs.logits / self.temperature, dim=-1),
            F.softmax(wanted / self.temperature, dim=-1),
            reduction="none",
        ).sum(-1)
        counted = inputs["labels"] != -100
        soft = self.temperature**2 * (divergence * counted).sum() / counted.sum()
        return self.alpha * outputs.loss + (1 - self.alpha) * soft
