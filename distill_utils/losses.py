"""The distillation loss: logits and labels enter, L = α·L_hard + (1−α)·L_soft leaves.

Hinton, Vinyals & Dean 2015 (arXiv 1503.02531), with the soft part as a KL divergence between the two
models' token distributions at temperature T:

    L_hard = −Σ log p_student(y)                     / N
    L_soft = T² · Σ KL(softmax(z_teacher/T) ‖ softmax(z_student/T)) / N

Both sums run over the target tokens whose label is not −100, and N counts those tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


@dataclass
class DistillationLoss:
    """The loss and its parts, in nats per target token; scalars, ``total`` with a gradient."""

    total: Tensor
    hard: Tensor
    soft: Tensor


def hard_loss(student_logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Cross-entropy on the references.

    Args:
        student_logits: ``(..., vocabulary)``, any float dtype; computed in float32.
        labels: ``(...)``, int64; positions of −100 do not count.
        num_items: what the sum is divided by, when one optimizer step spans several batches;
            by default the number of labels that count here.
    """
    logits, targets = student_logits.flatten(0, -2), labels.flatten()
    if num_items is None:
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum") / num_items


def soft_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """T² · KL(teacher_T ‖ student_T), averaged over the tokens that count.

    The factor T² keeps the gradient's size independent of T (Hinton et al. 2015, section 2).

    Args:
        student_logits, teacher_logits: ``(..., vocabulary)`` of the same vocabulary.
        labels: ``(...)``; only says which positions count.
        temperature: T > 0.
        num_items: as in :func:`hard_loss`.
    """
    kept = labels.flatten() != IGNORED
    student = student_logits.flatten(0, -2)[kept].float() / temperature
    teacher = teacher_logits.flatten(0, -2)[kept].float() / temperature
    divergence = F.kl_div(
        F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1), log_target=True, reduction="sum"
    )
    return temperature**2 * divergence / (kept.sum() if num_items is None else num_items)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> DistillationLoss:
    """α·L_hard + (1−α)·L_soft, and its two parts.

    ``teacher_logits`` may be None only where α = 1, plain fine-tuning; the soft part is then 0.

    Raises:
        ValueError: α outside [0, 1], T ≤ 0, no teacher where one is needed, or two vocabularies.
    """
    check_settings(alpha, temperature)
    hard = hard_loss(student_logits, labels, num_items)
    if alpha == 1:
        return DistillationLoss(hard, hard.detach(), torch.zeros_like(hard))
    if teacher_logits is None:
        raise ValueError(f"alpha is {alpha}, so the loss needs the teacher's logits")
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher logits have shape {tuple(teacher_logits.shape)}, the student's "
            f"{tuple(student_logits.shape)}: both must share one vocabulary"
        )
    soft = soft_loss(student_logits, teacher_logits, labels, temperature, num_items)
    return DistillationLoss(alpha * hard + (1 - alpha) * soft, hard.detach(), soft.detach())


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / T) in nats: ``(..., vocabulary)`` → ``(...)``."""
    log_p = F.log_softmax(logits.float() / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def check_settings(alpha: float, temperature: float) -> None:
    """Raise ValueError unless 0 ≤ α ≤ 1 and T > 0."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a positive number, not {temperature}")
