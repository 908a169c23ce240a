"""The loss against values computed by hand and against the formula written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_utils.losses import IGNORED, distillation_loss, entropy, hard_loss, soft_loss


def batch(seed=0, rows=3, tokens=5, vocabulary=11):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, tokens, vocabulary, generator=generator, dtype=torch.float32)
    teacher = torch.randn(rows, tokens, vocabulary, generator=generator, dtype=torch.float32)
    labels = torch.randint(0, vocabulary, (rows, tokens), generator=generator)
    labels[0, 3:] = IGNORED
    return student.requires_grad_(), teacher, labels


def plain(student, teacher, labels, alpha, temperature):
    """The definition, token by token, in float64."""
    hard, soft, count = 0.0, 0.0, 0
    for row in range(labels.shape[0]):
        for token in range(labels.shape[1]):
            if labels[row, token] == IGNORED:
                continue
            z_s, z_t = student[row, token].double(), teacher[row, token].double()
            p_s, p_t = (z_s / temperature).softmax(-1), (z_t / temperature).softmax(-1)
            hard = hard - z_s.softmax(-1)[labels[row, token]].log()
            soft = soft + (p_t * (p_t / p_s).log()).sum()
            count += 1
    return alpha * hard / count + (1 - alpha) * temperature**2 * soft / count


def test_by_hand():
    # Two tokens, two words. Student: logits (0, 0), so (1/2, 1/2). Teacher: (ln 3, 0), so (3/4, 1/4).
    student = torch.zeros(1, 2, 2)
    teacher = torch.tensor([[[math.log(3), 0.0], [math.log(3), 0.0]]])
    loss = distillation_loss(student, teacher, torch.tensor([[0, 1]]), alpha=0.25, temperature=1.0)
    hard = math.log(2)
    soft = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert loss.hard.item() == pytest.approx(hard)
    assert loss.soft.item() == pytest.approx(soft)
    assert loss.total.item() == pytest.approx(0.25 * hard + 0.75 * soft)


def test_temperature_by_hand():
    # At T = 2 the teacher's logits (ln 9, 0) become (ln 3, 0): (3/4, 1/4) again, times T² = 4.
    loss = soft_loss(torch.zeros(1, 2), torch.tensor([[math.log(9), 0.0]]), torch.tensor([0]), temperature=2.0)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


@given(alpha=st.floats(0, 1), temperature=st.floats(0.5, 8), seed=st.integers(0, 99))
def test_equals_the_formula_in_value_and_gradient(alpha, temperature, seed):
    student, teacher, labels = batch(seed, rows=2, tokens=4, vocabulary=7)
    loss = distillation_loss(student, teacher, labels, alpha=alpha, temperature=temperature).total
    wanted = plain(student, teacher, labels, alpha, temperature)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    (wanted_gradient,) = torch.autograd.grad(wanted, student)
    torch.testing.assert_close(gradient, wanted_gradient.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_padding_changes_nothing(alpha):
    student, teacher, labels = batch()
    loss = distillation_loss(student, teacher, labels, alpha=alpha, temperature=2.0)
    wide = [torch.cat([x.detach(), torch.full((3, 4, 11), 77.0)], dim=1) for x in (student, teacher)]
    wide[0].requires_grad_()
    padded = distillation_loss(*wide, torch.cat([labels, torch.full((3, 4), IGNORED)], 1), alpha=alpha, temperature=2.0)
    torch.testing.assert_close(padded.total, loss.total)
    (gradient,) = torch.autograd.grad(loss.total, student)
    (padded_gradient,) = torch.autograd.grad(padded.total, wide[0])
    torch.testing.assert_close(padded_gradient[:, :5], gradient)
    assert not padded_gradient[:, 5:].any()
    assert not gradient[0, 3:].any(), "ignored labels have no gradient"


def test_alpha_one_is_plain_cross_entropy_exactly():
    student, teacher, labels = batch()
    wanted = torch.nn.functional.cross_entropy(student.flatten(0, 1), labels.flatten())
    for given_teacher in (None, teacher):
        loss = distillation_loss(student, given_teacher, labels, alpha=1.0, temperature=3.0)
        assert torch.equal(loss.total, wanted)
        assert loss.soft == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_a_student_equal_to_its_teacher_has_no_soft_loss(temperature):
    student, _, labels = batch()
    loss = distillation_loss(student, student.detach().clone(), labels, alpha=0.0, temperature=temperature)
    assert loss.soft.item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.total, student)
    assert gradient.abs().max() < 1e-6


def test_parts_of_a_batch_add_up_when_the_whole_count_is_given():
    student, teacher, labels = batch(rows=4)
    count = (labels != IGNORED).sum()
    whole = distillation_loss(student, teacher, labels, alpha=0.4, temperature=2.0).total
    parts = [
        distillation_loss(
            student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], alpha=0.4, temperature=2.0, num_items=count
        ).total
        for i in range(4)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_low_precision_logits_are_reduced_in_float32():
    student, teacher, labels = batch()
    loss = distillation_loss(student.bfloat16(), teacher.bfloat16(), labels, alpha=0.5, temperature=2.0).total
    exact = distillation_loss(
        student.bfloat16().float(), teacher.bfloat16().float(), labels, alpha=0.5, temperature=2.0
    ).total
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact)


def test_hard_loss_leaves_the_teacher_out():
    student, _, labels = batch()
    assert hard_loss(student, labels, num_items=100) < hard_loss(student, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1, "temperature": 1.0}, "alpha must lie in"),
        ({"alpha": 1.1, "temperature": 1.0}, "alpha must lie in"),
        ({"alpha": float("nan"), "temperature": 1.0}, "alpha must lie in"),
        ({"alpha": 0.5, "temperature": 0.0}, "temperature must be"),
        ({"alpha": 0.5, "temperature": float("inf")}, "temperature must be"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    student, teacher, labels = batch()
    with pytest.raises(ValueError, match=message):
        distillation_loss(student, teacher, labels, **settings)


def test_two_vocabularies_or_no_teacher_are_refused():
    student, teacher, labels = batch()
    with pytest.raises(ValueError, match="one vocabulary"):
        distillation_loss(student, teacher[..., :-1], labels, alpha=0.5, temperature=1.0)
    with pytest.raises(ValueError, match="teacher's logits"):
        distillation_loss(student, None, labels, alpha=0.5, temperature=1.0)


def test_entropy_by_hand():
    assert entropy(torch.zeros(3, 4)).tolist() == pytest.approx([math.log(4)] * 3)
    three_to_one = torch.tensor([math.log(9), 0.0])
    assert entropy(three_to_one, 2.0).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
