"""Compute the distillation loss from logits: hard loss, soft loss, generalized JSD, hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
#: In place of the logarithm of 0, whose product with 0 would be NaN.
LOWEST = torch.finfo(torch.float32).min


@dataclass
class DistillationLoss:
    """The loss and its terms as scalars, in nats per target token; only ``total`` has a gradient."""

    total: Tensor
    hard: Tensor
    soft: Tensor
    hidden: Tensor | None = None


def hard_loss(student_logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Compute the cross-entropy with the references.

    Args:
        student_logits: ``(..., vocabulary)``, any float dtype; computed in float32.
        labels: ``(...)``, int64; −100 is ignored.
        num_items: divisor of the sum, if an optimizer step spans several batches; default: number of labels
            that are not ignored.
    """
    logits, targets = student_logits.flatten(0, -2), labels.flatten()
    total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / label_count(targets != IGNORED, num_items)


def label_count(kept: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Return the divisor of a loss: ``num_items``, or the number of kept labels; 1 for none, so that the loss is 0."""
    count = kept.sum() if num_items is None else torch.as_tensor(num_items, device=kept.device)
    return count.clamp_min(1)


def soft_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    num_items: Tensor | int | None = None,
    interpolation: float = 0.0,
) -> Tensor:
    """Compute T² · KL(teacher_T ‖ student_T), averaged over the tokens that are not ignored.

    The factor T² makes the gradient's magnitude independent of T (Hinton et al. 2015, section 2).

    Args:
        student_logits, teacher_logits: ``(..., vocabulary)`` of the same vocabulary.
            A logit of −∞ excludes a token: 0 · log 0 is 0.
        labels: ``(...)``; −100 marks ignored positions, other values have no effect.
        temperature: T > 0.
        num_items: as in :func:`hard_loss`.
        interpolation: as in :func:`divergence`; 0 is the KL divergence above.
    """
    kept = labels.flatten() != IGNORED
    student = student_logits.flatten(0, -2)[kept].float() / temperature
    teacher = teacher_logits.flatten(0, -2)[kept].float() / temperature
    log_p, log_q = (F.log_softmax(z, dim=-1).clamp_min(LOWEST) for z in (teacher, student))
    return temperature**2 * divergence(log_p, log_q, interpolation) / label_count(kept, num_items)


def divergence(log_p: Tensor, log_q: Tensor, interpolation: float = 0.0) -> Tensor:
    """Interpolate between KL(p ‖ q) at λ = 0 and KL(q ‖ p) at λ = 1; summed over rows, in nats.

    For 0 < λ < 1 and m = λp + (1−λ)q, this is the generalized Jensen–Shannon divergence
    λ·KL(p ‖ m) + (1−λ)·KL(q ‖ m) (Agarwal et al. 2024, arXiv 2306.13649), divided by λ(1−λ). With this
    factor, both KL divergences are its limits, and its magnitude near p = q does not depend on λ.

    Args:
        log_p, log_q: log-probabilities, ``(..., outcomes)``; the teacher's and the student's.
        interpolation: λ in [0, 1].
    """
    if interpolation == 0:
        return F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    if interpolation == 1:
        return F.kl_div(log_p, log_q, log_target=True, reduction="sum")
    log_m = mixture(log_p, log_q, interpolation)
    return (
        F.kl_div(log_m, log_p, log_target=True, reduction="sum") / (1 - interpolation)
        + F.kl_div(log_m, log_q, log_target=True, reduction="sum") / interpolation
    )


def mixture(log_p: Tensor, log_q: Tensor, interpolation: float) -> Tensor:
    return torch.logaddexp(log_p + math.log(interpolation), log_q + math.log1p(-interpolation))


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    num_items: Tensor | int | None = None,
    interpolation: float = 0.0,
) -> DistillationLoss:
    """Compute α·L_hard + (1−α)·L_soft and both terms.

    ``teacher_logits`` may be None only if α = 1 (fine-tuning); the soft loss is then 0.

    Raises:
        ValueError: if α or λ is outside [0, 1], T ≤ 0, the teacher's logits are missing or the shapes differ.
    """
    check_settings(alpha, temperature, interpolation)
    hard = hard_loss(student_logits, labels, num_items)
    if alpha == 1:
        return DistillationLoss(hard, hard.detach(), torch.zeros_like(hard))
    if teacher_logits is None:
        raise ValueError(f"alpha={alpha} requires the teacher's logits")
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher and student must share one vocabulary; their logits have shapes {tuple(teacher_logits.shape)} and {tuple(student_logits.shape)}"
        )
    soft = soft_loss(student_logits, teacher_logits, labels, temperature, num_items, interpolation)
    return DistillationLoss(alpha * hard + (1 - alpha) * soft, hard.detach(), soft.detach())


def hidden_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Tensor, num_items: Tensor | int
) -> Tensor:
    """Compute the intermediate supervision loss between hidden states of student and teacher.

    L_hidden = Σ_tokens weight · mean over layers and width of (norm(h_student) − norm(h_teacher))² / N,
    where norm is a layer norm without gain and bias, so that layers with larger states do not dominate
    (after Shleifer & Rush 2020, arXiv 2010.13002, who sum over layers, and Jiao et al. 2020, arXiv 1909.10351).

    Args:
        student, teacher: states of matched layers, ``(pairs, tokens, d)`` each.
        weights: ``(pairs, tokens)``; 0: the token is ignored.
        num_items: N, as in :func:`hard_loss`.

    Raises:
        ValueError: if the two differ in number or shape, or are empty.
    """
    if [s.shape for s in student] != [t.shape for t in teacher] or not student:
        raise ValueError("student and teacher need the same number of hidden states, with the same shapes")
    kept = weights > 0

    def normalized(states: Tensor) -> Tensor:
        return F.layer_norm(states[kept].float(), states.shape[-1:])

    apart = [(normalized(s) - normalized(t)).square().mean(-1) for s, t in zip(student, teacher, strict=True)]
    return torch.dot(torch.stack(apart).mean(0), weights[kept].float()) / num_items


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the entropy of softmax(logits / T) in nats: ``(..., vocabulary)`` → ``(...)``."""
    log_p = F.log_softmax(logits.float() / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def check_settings(alpha: float, temperature: float, interpolation: float = 0.0) -> None:
    """Raise ValueError unless 0 ≤ α ≤ 1, T > 0 and λ is 0 or lies in [0.001, 1]."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a positive number, not {temperature}")
    if interpolation and not 1e-3 <= interpolation <= 1:  # closer to 0, rounding errors dominate
        raise ValueError(f"interpolation must be 0 or lie in [0.001, 1], not {interpolation}")
