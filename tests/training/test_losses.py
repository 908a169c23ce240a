"""The loss against values computed by hand and against the formula written out."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from distill_utils.models.output_head import Projected
from distill_utils.training import fused_loss
from distill_utils.training.fused_loss import projected_loss
from distill_utils.training.losses import (
    IGNORED,
    distillation_loss,
    divergence,
    entropy,
    hard_loss,
    hidden_loss,
    soft_loss,
)
from tests.helpers.properties import examples


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


def test_hidden_states_by_hand():
    # Of width 2, normalized (3, 1) is (1, −1) and (1, 5) is (−1, 1): 4 apart in both places. (2, 6) is (−1, 1), too.
    ours = [torch.tensor([[[3.0, 1.0], [1.0, 5.0], [9.0, 7.0]]]), torch.tensor([[[1.0, 5.0], [1.0, 5.0], [0.0, 1.0]]])]
    theirs = [
        torch.tensor([[[1.0, 5.0], [2.0, 6.0], [0.0, 1.0]]]),
        torch.tensor([[[2.0, 6.0], [3.0, 1.0], [1.0, 0.0]]]),
    ]
    # Over the two layers (4 + 0) / 2 for the first token and (0 + 4) / 2 for the second; the third does not count.
    loss = hidden_loss(ours, theirs, torch.tensor([[1.0, 3.0, 0.0]]), num_items=4)
    assert loss.item() == pytest.approx((1 * 2 + 3 * 2) / 4, rel=1e-4)
    assert hidden_loss(ours, ours, torch.ones(1, 3), num_items=3).item() == 0


def test_hidden_states_have_to_match():
    one, other = [torch.zeros(1, 2, 4)], [torch.zeros(1, 2, 8)]
    for ours, theirs in ((one, other), (one, one * 2), ([], [])):
        with pytest.raises(ValueError, match="the same number of hidden states"):
            hidden_loss(ours, theirs, torch.ones(1, 2), num_items=2)


def test_temperature_by_hand():
    # At T = 2 the teacher's logits (ln 9, 0) become (ln 3, 0): (3/4, 1/4) again, times T² = 4.
    loss = soft_loss(torch.zeros(1, 2), torch.tensor([[math.log(9), 0.0]]), torch.tensor([0]), temperature=2.0)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


@examples(50)
@given(alpha=st.floats(0, 1), temperature=st.floats(0.5, 8), seed=st.integers(0, 99))
def test_equals_the_formula_in_value_and_gradient(alpha, temperature, seed):
    student, teacher, labels = batch(seed, rows=2, tokens=4, vocabulary=7)
    loss = distillation_loss(student, teacher, labels, alpha=alpha, temperature=temperature).total
    wanted = plain(student, teacher, labels, alpha, temperature)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    (wanted_gradient,) = torch.autograd.grad(wanted, student)
    torch.testing.assert_close(gradient, wanted_gradient.float(), rtol=1e-4, atol=1e-6)


def test_the_jensen_shannon_divergence_by_hand():
    # Teacher (3/4, 1/4), student (1/2, 1/2): halfway lies (5/8, 3/8).
    p, q, m = (0.75, 0.25), (0.5, 0.5), (0.625, 0.375)
    halves = sum(0.5 * sum(a * math.log(a / b) for a, b in zip(x, m, strict=True)) for x in (p, q))
    log_p, log_q = (torch.tensor([x]).log() for x in (p, q))
    assert divergence(log_p, log_q, 0.5).item() == pytest.approx(4 * halves, rel=1e-5)
    forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    backward = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    for interpolation, wanted in ((0, forward), (1e-4, forward), (1 - 1e-4, backward), (1, backward)):
        assert divergence(log_p, log_q, interpolation).item() == pytest.approx(wanted, rel=2e-3)
    assert divergence(log_p, log_p, 0.3).item() == pytest.approx(0, abs=1e-6)
    loss = soft_loss(log_q, log_p, torch.tensor([0]), 1.0, interpolation=0.5)
    assert loss.item() == pytest.approx(4 * halves, rel=1e-5)


@pytest.mark.parametrize("interpolation", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_other_divergences_without_logits_are_the_plain_ones(interpolation, temperature):
    student, teacher, labels = states()
    settings = {"alpha": 0.3, "temperature": temperature, "interpolation": interpolation}
    ours = projected_loss(student, teacher, labels, chunk=7, **settings)
    total = distillation_loss(whole(student), whole(teacher), labels, **settings).total
    assert ours.total.item() == pytest.approx(total.item(), rel=1e-4)
    for a, b in zip(gradients(ours.total, student), gradients(total, student), strict=True):
        assert relative(a, b) < 1e-3


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


# -- without the logits ------------------------------------------------------------------------------------


def states(seed=0, rows=4, tokens=9, width=12, vocabulary=50):
    """Student (with gradients) and teacher of another width, biases included, and labels with padding."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    student = Projected(draw(rows, tokens, width).requires_grad_(), draw(vocabulary, width).requires_grad_(), draw(50))
    teacher = Projected(draw(rows, tokens, 7), draw(vocabulary, 7), draw(vocabulary))
    labels = torch.randint(0, vocabulary, (rows, tokens), generator=generator)
    labels[0, 3:] = IGNORED
    return student, teacher, labels


def whole(p):
    return p.states @ p.weight.T + p.bias


def gradients(loss, student):
    return torch.autograd.grad(loss, (student.states, student.weight))


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_without_logits_is_the_plain_one(alpha, temperature, chunk):
    student, teacher, labels = states()
    settings = {"alpha": alpha, "temperature": temperature}
    ours = projected_loss(student, teacher, labels, chunk=chunk, **settings)
    plain_one = distillation_loss(whole(student), whole(teacher), labels, **settings)
    for a, b in ((ours.total, plain_one.total), (ours.hard, plain_one.hard), (ours.soft, plain_one.soft)):
        assert a.item() == pytest.approx(b.item(), rel=1e-5, abs=1e-7)
    for a, b in zip(gradients(3 * ours.total, student), gradients(3 * plain_one.total, student), strict=True):
        assert relative(a, b) < 1e-4
    assert not ours.hard.requires_grad and not ours.soft.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gathered", [1, 8, 9, 10, 1000])
def test_the_weights_gradient_is_the_same_in_parts_of_any_size(monkeypatch, gathered, dtype):
    student, teacher, labels = states()
    assert (labels != IGNORED).sum() > 20, "several parts"

    def found():
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = projected_loss(student, teacher, labels, alpha=0.5, temperature=2.0, chunk=3)
        return gradients(loss.total, student)

    wanted = found()
    monkeypatch.setattr(fused_loss, "ROWS_OF_GRADIENT", gathered)
    for a, b in zip(found(), wanted, strict=True):
        assert relative(a, b) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_the_loss_without_logits_under_autocast():
    student, teacher, labels = states()
    with torch.autocast("cpu", torch.bfloat16):
        ours = projected_loss(student, teacher, labels, alpha=0.5, temperature=2.0, chunk=5)
        logits = [torch.nn.functional.linear(p.states, p.weight, p.bias) for p in (student, teacher)]
        assert logits[0].dtype == torch.bfloat16
        plain_one = distillation_loss(*logits, labels, alpha=0.5, temperature=2.0)
    assert ours.total.dtype == torch.float32
    assert ours.total.item() == pytest.approx(plain_one.total.item(), rel=1e-5)
    for a, b in zip(gradients(ours.total, student), gradients(plain_one.total, student), strict=True):
        assert relative(a, b) < 1e-2  # chunks are summed in another order, in bfloat16


def test_the_loss_without_logits_adds_up_over_accumulated_parts():
    student, teacher, labels = states()
    count = (labels != IGNORED).sum()
    one = projected_loss(student, teacher, labels, alpha=0.4, temperature=2.0).total
    parts = [
        projected_loss(
            Projected(student.states[i : i + 1], student.weight, student.bias),
            Projected(teacher.states[i : i + 1], teacher.weight, teacher.bias),
            labels[i : i + 1], alpha=0.4, temperature=2.0, num_items=count,
        ).total
        for i in range(4)
    ]  # fmt: skip
    torch.testing.assert_close(sum(parts), one)
    for a, b in zip(gradients(sum(parts), student), gradients(one, student), strict=True):
        assert relative(a, b) < 1e-5


@pytest.mark.parametrize("num_items", [None, 0, 3])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_batch_without_a_single_label_is_no_loss(alpha, num_items):
    student, teacher, labels = states()
    settings = {"alpha": alpha, "temperature": 1.0, "num_items": num_items}
    none = torch.full_like(labels, IGNORED)
    for loss in (
        projected_loss(student, teacher, none, **settings),
        distillation_loss(whole(student), whole(teacher), none, **settings),
    ):
        assert loss.total == loss.hard == loss.soft == 0
        assert not any(g.any() for g in gradients(loss.total, student))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [0.02, 4.0], ids=["flat", "peaked"])
def test_the_loss_without_logits_in_float16_keeps_small_gradients(alpha, size):
    """Each of 50,000 tokens has a gradient of about 1 / 50,000 / items, which float16 does not have."""
    generator = torch.Generator().manual_seed(0)
    rows, width, vocabulary = 64, 32, 50_000
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    weight = (size * torch.randn(vocabulary, width, generator=generator) / width**0.5).half().float()
    ours, theirs = (torch.randn(rows, width, generator=generator).half().float() for _ in range(2))
    theirs = (ours + 0.3 * theirs).half().float()
    student = Projected(ours.requires_grad_(), weight.clone().requires_grad_())
    with torch.autocast("cpu", torch.float16):
        loss = projected_loss(
            student, Projected(theirs, weight), labels, alpha=alpha, temperature=2.0, num_items=10_000
        )
    found = gradients(loss.total, student)
    exact = Projected(ours.detach().double().requires_grad_(), weight.double().requires_grad_())
    z, t = exact.states @ exact.weight.T, theirs.double() @ weight.double().T
    hard = -z.log_softmax(-1)[range(rows), labels].sum()
    p, log_q = (t / 2).softmax(-1), (z / 2).log_softmax(-1)
    soft = (p * (p.log() - log_q)).sum()
    wanted = gradients((alpha * hard + (1 - alpha) * 4 * soft) / 10_000, exact)
    for a, b in zip(found, wanted, strict=True):
        assert relative(a.double(), b) < 0.01


@pytest.mark.parametrize("interpolation", [0.0, 0.5])
@pytest.mark.parametrize("who", ["teacher", "both"])
def test_a_token_that_is_excluded_by_a_logit_of_minus_infinity_does_not_count(who, interpolation):
    student, teacher, labels = states()
    excluded = 3
    labels[labels == excluded] = 4
    bias = teacher.bias.clone()
    bias[excluded] = -math.inf
    teacher = Projected(teacher.states, teacher.weight, bias)
    if who == "both":
        own = student.bias.clone()
        own[excluded] = -math.inf
        student = Projected(student.states, student.weight, own)
    settings = {"alpha": 0.3, "temperature": 2.0, "interpolation": interpolation}
    one = projected_loss(student, teacher, labels, chunk=5, **settings)
    other = distillation_loss(whole(student), whole(teacher), labels, **settings)
    kept = labels != IGNORED
    p, q = ((whole(x)[kept].double() / 2).softmax(-1) for x in (teacher, student))
    if interpolation:
        m = (p + q) / 2

        def kl(a, b):
            return torch.where(a > 0, a * (a / b).log(), 0.0).sum()

        wanted = 2 * (kl(p, m) + kl(q, m))
    else:
        wanted = torch.where(p > 0, p * (p / q).log(), 0.0).sum()
    for loss in (one, other):
        assert loss.soft.item() == pytest.approx(4 * float(wanted.detach()) / int(kept.sum()), rel=1e-4)
        assert all(g.isfinite().all() for g in gradients(loss.total, student))


def test_a_frozen_projection_gets_no_gradient():
    student, teacher, labels = states()
    frozen = Projected(student.states, student.weight.detach(), student.bias)
    loss = projected_loss(frozen, teacher, labels, alpha=0.5, temperature=2.0)
    (a,) = torch.autograd.grad(loss.total, student.states)
    b, _ = gradients(projected_loss(student, teacher, labels, alpha=0.5, temperature=2.0).total, student)
    assert torch.equal(a, b)


def test_the_loss_without_logits_checks_what_it_is_given():
    student, teacher, labels = states()
    with pytest.raises(ValueError, match="one vocabulary"):
        projected_loss(student, Projected(teacher.states, teacher.weight[:-1]), labels, alpha=0.5, temperature=1.0)
    with pytest.raises(ValueError, match="teacher's outputs"):
        projected_loss(student, None, labels, alpha=0.5, temperature=1.0)
    with pytest.raises(ValueError, match="temperature must be"):
        projected_loss(student, teacher, labels, alpha=0.5, temperature=0.0)


# -- properties, of batches of any shape -------------------------------------------------------------------

ALPHAS = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
WARMTHS = st.sampled_from([0.5, 1.0, 2.0, 8.0]) | st.floats(0.5, 8)
DIVERGENCES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
SETTINGS = st.fixed_dictionaries({"alpha": ALPHAS, "temperature": WARMTHS, "interpolation": DIVERGENCES})


@st.composite
def batches(draw, scales=(0.1, 1.0, 4.0)):
    """Student's and teacher's logits ``(tokens, vocabulary)`` and labels, of which at least one counts."""
    tokens, vocabulary = draw(st.integers(1, 9)), draw(st.integers(2, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    student, teacher = (
        draw(st.sampled_from(scales)) * torch.randn(tokens, vocabulary, generator=generator) for _ in range(2)
    )
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.7]))] = IGNORED
    labels[0] = 0
    return student, teacher, labels


def order(count, seed):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def with_gradient(student, teacher, labels, **settings):
    """The loss and its gradient for the student's logits."""
    student = student.clone().requires_grad_()
    loss = distillation_loss(student, teacher, labels, **settings)
    return loss, torch.autograd.grad(loss.total, student)[0]


def same(ours, wanted):
    """Both are (loss, gradient)."""
    for part in ("total", "hard", "soft"):
        torch.testing.assert_close(getattr(ours[0], part), getattr(wanted[0], part), rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(ours[1], wanted[1], rtol=1e-3, atol=2e-4)


@examples(60)
@given(batches(), WARMTHS, DIVERGENCES)
def test_the_soft_loss_is_above_zero_unless_the_distributions_are_equal(given_batch, temperature, interpolation):
    student, teacher, labels = given_batch
    kept = labels != IGNORED
    soft = soft_loss(student, teacher, labels, temperature, interpolation=interpolation)
    apart = (student / temperature).softmax(-1)[kept] - (teacher / temperature).softmax(-1)[kept]
    # Pinsker: either KL divergence is at least 2·(total variation)²; the others, so scaled, are as large near equality.
    assert soft >= -1e-4
    assert soft > 0 or apart.abs().max() < 1e-2
    itself = soft_loss(student, student + 3, labels, temperature, interpolation=interpolation)
    assert itself.item() == pytest.approx(0, abs=2e-4)
    if interpolation in (0, 1):
        variation = apart.abs().sum(-1) / 2
        assert soft >= temperature**2 * 2 * variation.square().mean() - 1e-4


@examples(60)
@given(batches(), WARMTHS, DIVERGENCES)
def test_exchanging_teacher_and_student_mirrors_the_divergence(given_batch, temperature, interpolation):
    student, teacher, labels = given_batch
    there = soft_loss(student, teacher, labels, temperature, interpolation=interpolation)
    back = soft_loss(teacher, student, labels, temperature, interpolation=1 - interpolation)
    torch.testing.assert_close(there, back, rtol=1e-3, atol=2e-4)


@examples(60)
@given(batches(), SETTINGS, st.integers(0, 99))
def test_a_constant_over_all_logits_of_a_token_changes_nothing(given_batch, settings, seed):
    student, teacher, labels = given_batch
    generator = torch.Generator().manual_seed(seed)
    more, other = (20 * torch.randn(len(labels), 1, generator=generator) for _ in range(2))
    same(
        with_gradient(student + more, teacher + other, labels, **settings),
        with_gradient(student, teacher, labels, **settings),
    )


@examples(60)
@given(batches(), SETTINGS, st.integers(0, 99))
def test_the_order_of_vocabulary_and_tokens_changes_nothing(given_batch, settings, seed):
    student, teacher, labels = given_batch
    words, tokens = order(student.shape[1], seed), order(len(labels), seed)
    moved = torch.where(labels == IGNORED, IGNORED, words.argsort()[labels.clamp_min(0)])
    loss, gradient = with_gradient(student, teacher, labels, **settings)
    same(with_gradient(student[:, words], teacher[:, words], moved, **settings), (loss, gradient[:, words]))
    same(with_gradient(student[tokens], teacher[tokens], labels[tokens], **settings), (loss, gradient[tokens]))


@examples(60)
@given(batches(), SETTINGS, st.integers(0, 4), st.sampled_from([0.0, 77.0, -1e4]))
def test_padding_anywhere_changes_neither_value_nor_gradient(given_batch, settings, place, filling):
    student, teacher, labels = given_batch
    place = min(place, len(labels))

    def padded(rows, value):
        return torch.cat([rows[:place], torch.full((3, *rows.shape[1:]), value), rows[place:]])

    loss, gradient = with_gradient(
        padded(student, filling), padded(teacher, -filling), padded(labels, IGNORED), **settings
    )
    assert not gradient[place : place + 3].any()
    same(
        (loss, torch.cat([gradient[:place], gradient[place + 3 :]])),
        with_gradient(student, teacher, labels, **settings),
    )
    assert not gradient[padded(labels, IGNORED) == IGNORED].any()


@examples(60)
@given(batches(), SETTINGS)
def test_the_loss_lies_between_its_parts(given_batch, settings):
    loss = distillation_loss(*given_batch, **settings)
    low, high = sorted([loss.hard.item(), loss.soft.item() if settings["alpha"] < 1 else loss.hard.item()])
    assert low - 1e-4 <= loss.total.item() <= high + 1e-4
    alpha = settings["alpha"]
    assert loss.total.item() == pytest.approx(alpha * loss.hard.item() + (1 - alpha) * loss.soft.item(), rel=1e-5)


@examples(40)
@given(batches(scales=(0.5, 1.0)), DIVERGENCES)
def test_at_a_high_temperature_the_soft_loss_is_half_the_variance_of_the_logits_difference(given_batch, interpolation):
    """Hinton et al. 2015, equation 4, of which this is the integral: so T² keeps the gradient's size, whatever the divergence."""
    student, teacher, labels = given_batch
    kept = labels != IGNORED
    wanted = (student - teacher)[kept].var(-1, correction=0).mean().item() / 2
    soft = soft_loss(student, teacher, labels, 40.0, interpolation=interpolation)
    assert soft.item() == pytest.approx(wanted, rel=0.1, abs=0.02)


@examples(60)
@given(
    st.lists(st.sampled_from([-1e4, -50.0, 0.0, 1.0, 1e4]), min_size=4, max_size=8),
    st.integers(0, 99),
    SETTINGS,
)
@example([1e4, -1e4, -1e4, 0.0], 1, {"alpha": 0.5, "temperature": 0.5, "interpolation": 0.1})
def test_extreme_logits_have_a_finite_loss_and_gradient(values, seed, settings):
    student = torch.tensor([values])
    teacher = student[:, order(len(values), seed)]
    labels = torch.tensor([seed % len(values)])
    plain_one = with_gradient(student, teacher, labels, **settings)
    made = Projected(student.clone().requires_grad_(), torch.eye(len(values)))
    without = projected_loss(made, Projected(teacher, torch.eye(len(values))), labels, **settings)
    found = (without, torch.autograd.grad(without.total, made.states)[0])
    for loss, gradient in (plain_one, found):
        assert torch.isfinite(loss.total) and torch.isfinite(gradient).all()
        assert loss.hard >= 0 and loss.soft >= -1e-4, "0 up to rounding, times T²"
    torch.testing.assert_close(found[0].total, plain_one[0].total, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1], plain_one[1], rtol=1e-3, atol=1e-3)


@examples(60)
@given(batches(), SETTINGS, st.data())
def test_any_parts_of_a_batch_add_up_in_value_and_gradient(given_batch, settings, data):
    student, teacher, labels = given_batch
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels))))
    count = (labels != IGNORED).sum()
    loss, gradient = with_gradient(student, teacher, labels, **settings)
    total, added = 0.0, torch.zeros_like(gradient)
    for part in part_of.unique():  # some hold nothing that counts
        own = part_of == part
        found, added[own] = with_gradient(student[own], teacher[own], labels[own], num_items=count, **settings)
        total += found.total
    torch.testing.assert_close(total, loss.total.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(added, gradient, rtol=1e-3, atol=1e-5)


@st.composite
def projections(draw):
    """What makes the logits of student and teacher, and labels, of which at least one counts."""
    rows, tokens, vocabulary = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    made = []
    for width in (draw(st.integers(1, 5)), draw(st.integers(1, 5))):
        bias = torch.randn(vocabulary, generator=generator) if draw(st.booleans()) else None
        states = torch.randn(rows, tokens, width, generator=generator)
        made.append(Projected(states, torch.randn(vocabulary, width, generator=generator), bias))
    labels = torch.randint(0, vocabulary, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) < draw(st.sampled_from([0.0, 0.5]))] = IGNORED
    labels[-1, -1] = 0
    made[0].states.requires_grad_()
    made[0].weight.requires_grad_()
    return *made, labels


def logits_of(p):
    return torch.nn.functional.linear(p.states, p.weight, p.bias)


@examples(80)
@given(projections(), SETTINGS, st.integers(1, 20))
def test_the_loss_without_logits_is_the_plain_one_in_chunks_of_any_size(given_projections, settings, chunk):
    student, teacher, labels = given_projections
    wanted = distillation_loss(logits_of(student), logits_of(teacher), labels, **settings)
    ours = projected_loss(student, teacher, labels, chunk=chunk, **settings)
    for part in ("total", "hard", "soft"):
        torch.testing.assert_close(getattr(ours, part), getattr(wanted, part), rtol=1e-4, atol=2e-4)
    for a, b in zip(gradients(ours.total, student), gradients(wanted.total, student), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=5e-4)


@examples(40)
@given(st.integers(0, 999), st.integers(1, 3), st.floats(0.1, 9), st.floats(-9, 9))
def test_hidden_states_are_compared_whatever_their_size_and_offset(seed, layers, size, offset):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = ([torch.randn(2, 3, 8, generator=generator) for _ in range(layers)] for _ in range(2))
    weights = torch.rand(2, 3, generator=generator).round(decimals=1)
    loss = hidden_loss(ours, theirs, weights, num_items=5).item()
    assert 0 <= loss <= 4 * weights.sum().item() / 5 + 1e-4, (
        "two normalized states are at most twice their length apart"
    )
    moved = hidden_loss([size * s + offset for s in ours], theirs, weights, num_items=5).item()
    assert moved == pytest.approx(loss, rel=1e-2, abs=1e-3)
    assert hidden_loss(theirs, ours, weights, num_items=5).item() == pytest.approx(loss, rel=1e-4)
    assert hidden_loss(ours[::-1], theirs[::-1], weights, num_items=5).item() == pytest.approx(loss, rel=1e-4)


@examples(40)
@given(batches(), WARMTHS)
def test_entropy_rises_with_the_temperature_up_to_the_logarithm_of_the_vocabulary(given_batch, temperature):
    logits, _, _ = given_batch
    cool, warm = entropy(logits, temperature), entropy(logits, 2 * temperature)
    assert (cool >= -1e-5).all() and (cool <= warm + 1e-5).all() and (warm <= math.log(logits.shape[1]) + 1e-5).all()
    assert entropy(logits, 1e4).tolist() == pytest.approx([math.log(logits.shape[1])] * len(logits), abs=1e-4)
