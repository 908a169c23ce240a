"""The distillation loss: logits, or what makes them, and labels enter, L = α·L_hard + (1−α)·L_soft (+ β·L_hidden) leaves.

Hinton, Vinyals & Dean 2015 (arXiv 1503.02531), with the soft part as a KL divergence between the two
models' token distributions at temperature T:

    L_hard = −Σ log p_student(y)                     / N
    L_soft = T² · Σ KL(softmax(z_teacher/T) ‖ softmax(z_student/T)) / N

Both sums run over the target tokens whose label is not −100, and N counts those tokens. In place of the KL divergence
stands, with an ``interpolation`` λ above 0, a generalized Jensen–Shannon divergence (:func:`divergence`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    hidden: Tensor | None = None


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
    interpolation: float = 0.0,
) -> Tensor:
    """T² · KL(teacher_T ‖ student_T), averaged over the tokens that count.

    The factor T² keeps the gradient's size independent of T (Hinton et al. 2015, section 2).

    Args:
        student_logits, teacher_logits: ``(..., vocabulary)`` of the same vocabulary.
        labels: ``(...)``; only says which positions count.
        temperature: T > 0.
        num_items: as in :func:`hard_loss`.
        interpolation: λ of :func:`divergence`; 0 is the KL divergence above.
    """
    kept = labels.flatten() != IGNORED
    student = student_logits.flatten(0, -2)[kept].float() / temperature
    teacher = teacher_logits.flatten(0, -2)[kept].float() / temperature
    apart = divergence(F.log_softmax(teacher, dim=-1), F.log_softmax(student, dim=-1), interpolation)
    return temperature**2 * apart / (kept.sum() if num_items is None else num_items)


def divergence(log_p: Tensor, log_q: Tensor, interpolation: float = 0.0) -> Tensor:
    """From KL(p ‖ q) at λ = 0 to KL(q ‖ p) at λ = 1, summed over rows, in nats.

    In between, with m = λp + (1−λ)q, it is the generalized Jensen–Shannon divergence λ·KL(p ‖ m) + (1−λ)·KL(q ‖ m) of Agarwal
    et al. 2024 (arXiv 2306.13649), divided by λ(1−λ): for distributions that are close it is then as large as the KL divergence
    whatever λ is, and both ends are its limits.

    Args:
        log_p, log_q: log-probabilities, ``(..., outcomes)``; the teacher's and the student's.
        interpolation: λ in [0, 1].
    """
    if interpolation == 0:
        return F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    if interpolation == 1:
        return F.kl_div(log_p, log_q, log_target=True, reduction="sum")
    log_m = _mixture(log_p, log_q, interpolation)
    return (
        F.kl_div(log_m, log_p, log_target=True, reduction="sum") / (1 - interpolation)
        + F.kl_div(log_m, log_q, log_target=True, reduction="sum") / interpolation
    )


def _mixture(log_p: Tensor, log_q: Tensor, interpolation: float) -> Tensor:
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
    """α·L_hard + (1−α)·L_soft, and its two parts.

    ``teacher_logits`` may be None only where α = 1, plain fine-tuning; the soft part is then 0.

    Raises:
        ValueError: α or λ outside [0, 1], T ≤ 0, no teacher where one is needed, or two vocabularies.
    """
    check_settings(alpha, temperature, interpolation)
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
    soft = soft_loss(student_logits, teacher_logits, labels, temperature, num_items, interpolation)
    return DistillationLoss(alpha * hard + (1 - alpha) * soft, hard.detach(), soft.detach())


def hidden_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Tensor, num_items: Tensor | int
) -> Tensor:
    """Intermediate supervision: how far the student's hidden states are from its teacher's.

    L_hidden = Σ_tokens weight · mean over layers and width of (norm(h_student) − norm(h_teacher))² / N, where norm is a
    layer norm over a token's states without gain and bias, so that no layer counts for more because its states are larger
    (after Shleifer & Rush 2020, arXiv 2010.13002, who sum over layers, and Jiao et al. 2020, arXiv 1909.10351).

    Args:
        student, teacher: matched layers' states, ``(pairs, tokens, d)`` each; as many of one as of the other.
        weights: ``(pairs, tokens)``; 0 where a token does not count.
        num_items: N, as in :func:`hard_loss`.

    Raises:
        ValueError: the two do not match in number or in shape.
    """
    if [s.shape for s in student] != [t.shape for t in teacher] or not student:
        raise ValueError("hidden states are compared layer by layer: both sides need as many, of one width")
    kept = weights > 0

    def normalized(states: Tensor) -> Tensor:
        return F.layer_norm(states[kept].float(), states.shape[-1:])

    apart = [(normalized(s) - normalized(t)).square().mean(-1) for s, t in zip(student, teacher, strict=True)]
    return torch.dot(torch.stack(apart).mean(0), weights[kept].float()) / num_items


# -- without the logits ------------------------------------------------------------------------------------


@dataclass
class Projected:
    """What a model's logits are made from: ``states @ weight.T + bias``.

    ``states``: ``(..., d)``, the decoder's last, or None for the projection alone; ``weight``: ``(vocabulary, d)``; ``bias``: ``(vocabulary,)`` or None.
    """

    states: Tensor | None
    weight: Tensor
    bias: Tensor | None = None

    def rows(self, kept: Tensor) -> Projected:
        return Projected(self.states[kept], self.weight, self.bias)

    def cast(self, dtype: torch.dtype) -> Projected:
        """The same with the projection in another precision; :meth:`logits` casts the states."""
        return Projected(self.states, self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def logits(self, part: slice) -> Tensor:
        """Float32 logits ``(rows, vocabulary)`` of some rows, multiplied in the weights' precision."""
        return F.linear(self.states[part].to(self.weight.dtype), self.weight, self.bias).float()


def projected_loss(
    student: Projected,
    teacher: Projected | None,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    num_items: Tensor | int | None = None,
    interpolation: float = 0.0,
    chunk: int | None = None,
) -> DistillationLoss:
    """:func:`distillation_loss` without ever holding the logits.

    Rows whose label is −100 are dropped; the others are projected a chunk at a time, and the gradient is
    made in the forward pass, when a chunk's logits are at hand (the idea is Liger Kernel's, Hsu et al. 2024,
    arXiv 2410.10989). Under autocast the projections multiply in its precision; all else is float32.

    Args:
        student, teacher: ``(..., d)`` states with their projections; the two may differ in d, not in vocabulary.
        labels: ``(...)``, int64.
        chunk: rows projected at a time; None: what was fastest here (:func:`rows_at_a_time`).

    Raises:
        ValueError: as :func:`distillation_loss`.
    """
    check_settings(alpha, temperature, interpolation)
    if alpha < 1 and teacher is None:
        raise ValueError(f"alpha is {alpha}, so the loss needs the teacher's outputs")
    if teacher is not None and len(teacher.weight) != len(student.weight):
        raise ValueError(
            f"the teacher has {len(teacher.weight):,} tokens, the student {len(student.weight):,}: both must share one vocabulary"
        )
    kept = labels != IGNORED
    device = student.states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.states.dtype
    rows = student.rows(kept)
    teacher = teacher.rows(kept) if alpha < 1 else None
    total, hard, soft = _ProjectedLoss.apply(
        rows.states, rows.weight, rows.bias, teacher, labels[kept], alpha, temperature, interpolation,
        kept.sum() if num_items is None else num_items, dtype, chunk or rows_at_a_time(rows.weight),
    )  # fmt: skip
    return DistillationLoss(total, hard, soft)


ROWS_ON_ACCELERATOR = 256


def rows_at_a_time(weight: Tensor) -> int:
    """How many rows of logits to hold: enough for a matrix product, few enough to stay near the processor.

    On 2 CPU cores 96 to 130 rows were fastest for 8,000 and for 50,265 tokens; on an accelerator nothing was measured.
    """
    return max(96, (1 << 20) // len(weight)) if weight.device.type == "cpu" else ROWS_ON_ACCELERATOR


class _ProjectedLoss(torch.autograd.Function):
    """(total, hard, soft) of rows that all count; only ``total`` has a gradient, for states and weight."""

    @staticmethod
    def forward(ctx, states, weight, bias, teacher, labels, alpha, temperature, interpolation, num_items, dtype, chunk):
        with torch.autocast(states.device.type, enabled=False):
            student = Projected(states, weight, bias).cast(dtype)
            teacher = None if teacher is None else teacher.cast(dtype)
            gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
            sums = torch.zeros(2, device=states.device)
            for start in range(0, len(states), chunk):
                part = slice(start, start + chunk)
                z, losses = _loss_of_chunk(
                    student.logits(part), teacher, labels[part], part, alpha, temperature, interpolation
                )
                sums += losses
                z = z.div_(num_items).to(dtype)
                if gradient is not None:
                    gradient[part] = z @ student.weight
                if weight_gradient is not None:
                    weight_gradient += z.T @ states[part].to(dtype)
        hard, soft = sums / num_items
        ctx.save_for_backward(gradient, weight_gradient)
        ctx.mark_non_differentiable(hard, soft)
        ctx.set_materialize_grads(False)
        return alpha * hard + (1 - alpha) * soft if alpha < 1 else hard.clone(), hard, soft

    @staticmethod
    def backward(ctx, scale, *_):
        gradient, weight_gradient = ctx.saved_tensors
        if scale is None:
            return (None,) * 11
        scaled = (None if g is None else g * scale for g in (gradient, weight_gradient))
        return *scaled, *(None,) * 9


def _loss_of_chunk(
    z: Tensor,
    teacher: Projected | None,
    labels: Tensor,
    part: slice,
    alpha: float,
    temperature: float,
    interpolation: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of α·hard + (1−α)·soft for logits ``z``, summed over rows, and both sums; overwrites ``z``."""
    targets = labels[:, None]
    log_q = F.log_softmax(z, dim=-1)
    hard = -log_q.gather(1, targets).sum()
    if teacher is None:
        gradient = log_q.exp_()
        gradient.scatter_add_(1, targets, gradient.new_full(targets.shape, -1.0))
        return gradient, torch.stack([hard, torch.zeros_like(hard)])
    if temperature == 1:
        gradient = log_q.exp()
        soft, soft_grad = _soft_of_chunk(log_q, teacher, part, temperature, interpolation)
        gradient.mul_(alpha).add_(soft_grad, alpha=1 - alpha)
    else:
        gradient = log_q.exp_().mul_(alpha)
        log_q = F.log_softmax(z.div_(temperature), dim=-1)
        soft, soft_grad = _soft_of_chunk(log_q, teacher, part, temperature, interpolation)
        gradient.add_(soft_grad, alpha=(1 - alpha) * temperature)
    gradient.scatter_add_(1, targets, gradient.new_full(targets.shape, -alpha))
    return gradient, torch.stack([hard, temperature**2 * soft])


def _soft_of_chunk(
    log_q: Tensor, teacher: Projected, part: slice, temperature: float, interpolation: float
) -> tuple[Tensor, Tensor]:
    """The divergence summed over rows, and its gradient for the softened logits; overwrites ``log_q``."""
    log_p = teacher.logits(part)
    log_p = F.log_softmax(log_p.div_(temperature) if temperature != 1 else log_p, dim=-1)
    if interpolation:
        apart, slope = _slope(log_p, log_q, interpolation)
        return apart, log_q.exp_().mul_(slope)
    p = log_p.exp()
    apart = torch.dot(p.flatten(), log_p.sub_(log_q).flatten())
    return apart, log_q.exp_().sub_(p)


def _slope(log_p: Tensor, log_q: Tensor, interpolation: float) -> tuple[Tensor, Tensor]:
    """:func:`divergence` and what q is multiplied by to make its gradient for the logits.

    For the probability q_i the derivative is log(q_i / m_i) / λ, up to what all i share; the softmax takes its mean under q away.
    """
    log_m = log_p if interpolation == 1 else _mixture(log_p, log_q, interpolation)
    slope = (log_q - log_m).div_(interpolation)
    return divergence(log_p, log_q, interpolation), slope - (log_q.exp() * slope).sum(-1, keepdim=True)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / T) in nats: ``(..., vocabulary)`` → ``(...)``."""
    log_p = F.log_softmax(logits.float() / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def check_settings(alpha: float, temperature: float, interpolation: float = 0.0) -> None:
    """Raise ValueError unless 0 ≤ α ≤ 1, T > 0 and λ is 0 or lies in [0.001, 1]."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a positive number, not {temperature}")
    if interpolation and not 1e-3 <= interpolation <= 1:  # nearer to 0 only rounding is left of it
        raise ValueError(f"interpolation must be 0 or lie in [0.001, 1], not {interpolation}")
