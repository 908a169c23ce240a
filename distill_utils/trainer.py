"""A ``Seq2SeqTrainer`` that distils: a student and a frozen teacher enter, a trained student leaves.

Only the loss differs from the parent; data, optimizer, logging, saving and resuming are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments

from distill_utils.losses import DistillationLoss, check_settings, distillation_loss


@dataclass
class DistillationTrainingArguments(Seq2SeqTrainingArguments):
    """``Seq2SeqTrainingArguments`` with the two settings of the distillation loss."""

    alpha: float = field(
        default=0.5,
        metadata={"help": "Weight of the hard loss; the soft loss has 1 - alpha. 1 is plain fine-tuning."},
    )
    temperature: float = field(
        default=2.0, metadata={"help": "Softens both distributions in the soft loss; 1 leaves them as they are."}
    )

    def __post_init__(self) -> None:
        check_settings(self.alpha, self.temperature)
        super().__post_init__()


class DistillationTrainer(Seq2SeqTrainer):
    """Trains ``model`` with L = α·L_hard + (1−α)·L_soft against ``teacher``.

    The teacher runs in eval mode, without gradients, in the student's autocast precision; it is not a
    part of the model and so never saved. It may be left out where ``args.alpha`` is 1.

    Every log entry made while training has ``hard_loss`` and ``soft_loss``, averaged over the target
    tokens since the entry before. The validation loss is the hard loss whatever α is, so that
    students trained in different ways can be compared by it.

    The parent divides by the gradient accumulation steps only for models that do not accept loss
    arguments. BART's ``forward`` accepts them and then ignores ``num_items_in_batch``, which would
    make four accumulated batches weigh as four steps; here every loss is divided by that number.
    """

    args: DistillationTrainingArguments

    def __init__(self, model: PreTrainedModel, args: DistillationTrainingArguments, *, teacher=None, **kwargs) -> None:
        if args.alpha < 1 and teacher is None:
            raise ValueError(f"alpha is {args.alpha}, so a teacher is needed")
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = True  # compute_loss below honours num_items_in_batch
        self.teacher = teacher
        if teacher is not None:
            self.teacher = teacher.to(args.device).eval().requires_grad_(False)
        self._parts = torch.zeros(2, device=args.device)  # sums of both losses since step _parts_since
        self._parts_since: int | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        outputs = model(**inputs)
        training = model.training
        loss = distillation_loss(
            outputs.logits,
            self._teacher_logits(inputs) if training and self.args.alpha < 1 else None,
            labels,
            alpha=self.args.alpha if training else 1.0,
            temperature=self.args.temperature,
            num_items=num_items_in_batch if training else None,
        )
        if training:
            self._add_parts(loss)
        total = loss.total
        if training and num_items_in_batch is not None and self.args.average_tokens_across_devices:
            total = total * self.accelerator.num_processes  # DDP averages gradients; the sum is wanted
        return (total, {"logits": outputs.logits}) if return_outputs else total

    def _teacher_logits(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), self.accelerator.autocast():
            return self.teacher(**inputs).logits

    def _add_parts(self, loss: DistillationLoss) -> None:
        if self._parts_since is None:  # the first step, which is not step 0 when training is resumed
            self._parts_since = self.state.global_step
        self._parts += torch.stack([loss.hard, loss.soft])

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self._parts_since is not None:
            steps = max(1, self.state.global_step - self._parts_since)
            hard, soft = (self.accelerator.gather(self._parts[None]).sum(0) / steps).tolist()
            logs = {**logs, "hard_loss": hard, "soft_loss": soft}
            self._parts.zero_()
            self._parts_since = self.state.global_step
        super().log(logs, *args, **kwargs)
