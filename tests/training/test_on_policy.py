"""On-policy distillation: what the student samples, what is scored, and that nothing else changes."""

import copy

import pytest
import torch

from distill_utils.models.student import freeze_encoder, make_student
from distill_utils.training.losses import IGNORED
from distill_utils.training.trainer import DistillationTrainer
from tests.training.test_trainer import Gradients, Padder, arguments, pairs, trained

SETTINGS = {"alpha": 0.3, "interpolation": 0.9, "temperature": 1.0, "sampled_tokens": 7}


def trainer(folder, teacher, student=None, cls=DistillationTrainer, **settings):
    student = student or make_student(teacher, 3, 1)
    args = arguments(folder, **{**SETTINGS, **settings})
    return cls(student, args, teacher=teacher, train_dataset=pairs(), data_collator=Padder())


def batch(count=8):
    return Padder()([pairs(count)[i] for i in range(count)])


def test_without_samples_it_is_jsd_to_the_bit(tmp_path, teacher):
    jsd = trained(tmp_path / "jsd", teacher, max_steps=4, **SETTINGS)
    gkd = trained(tmp_path / "gkd", teacher, max_steps=4, lmbda=1e-300, **SETTINGS)
    for a, b in zip(jsd.model.parameters(), gkd.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_student_samples_and_stops_at_the_end_token(tmp_path, teacher):
    made = trainer(tmp_path, teacher, lmbda=1.0)
    found = made._on_policy(batch(), 0)
    again, other = made._on_policy(batch(), 0), made._on_policy(batch(), 1)
    labels = found["labels"]
    assert torch.equal(labels, again["labels"]), "of the same step and batch"
    assert labels.shape != other["labels"].shape or not torch.equal(labels, other["labels"])
    assert labels.shape[1] <= 7 and "sampled" in found
    inputs = found["decoder_input_ids"]
    assert (inputs[:, 0] == teacher.config.decoder_start_token_id).all()
    assert torch.equal(inputs[:, 1:][labels[:, :-1] >= 0], labels[:, :-1][labels[:, :-1] >= 0])
    end = teacher.config.eos_token_id
    for row in labels.tolist():
        kept = [token for token in row if token != IGNORED]
        assert kept and end not in kept[:-1] and row == kept + [IGNORED] * (len(row) - len(kept))
    assert len({tuple(row) for row in labels.tolist()}) > 4, "samples, not one text"


def test_samples_follow_the_students_distribution(tmp_path, teacher):
    """The first token of many samples of one document, against the softmax at that position."""
    made = trainer(tmp_path, teacher, lmbda=1.0, sampling_temperature=0.7, sampled_tokens=2)
    made.model.generation_config.update(
        num_beams=4, no_repeat_ngram_size=1, min_new_tokens=2, top_k=3
    )  # not for samples
    one = pairs(1)[0]
    many = Padder()([one] * 4000)
    labels = made._on_policy(many, 0)["labels"][:, 0]
    start = torch.full((1, 1), teacher.config.decoder_start_token_id)
    with torch.no_grad():
        logits = made.model(input_ids=many["input_ids"][:1], decoder_input_ids=start).logits[0, 0]
    wanted = (logits / 0.7).softmax(-1)
    found = torch.bincount(labels, minlength=len(wanted)) / len(labels)
    assert (found - wanted).abs().max() < 4 * (0.25 / 4000) ** 0.5


def test_global_randomness_is_left_alone(tmp_path, teacher):
    made = trainer(tmp_path, teacher, lmbda=1.0)
    torch.manual_seed(3)
    made._on_policy(batch(), 0)
    first = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(first, torch.rand(3))


def test_a_share_of_the_batches_is_sampled(tmp_path, teacher):
    made = trainer(tmp_path, teacher, **{**SETTINGS, "lmbda": 0.3, "sampled_tokens": 1})
    count = sum("sampled" in made._on_policy(batch(), i) for i in range(200))
    assert 40 < count < 80


def divergence(p, q, beta):
    """β·KL(p ‖ m) + (1 − β)·KL(q ‖ m) with m = β·p + (1 − β)·q (Agarwal et al. 2024), over β·(1 − β) as our scale."""
    m = beta * p + (1 - beta) * q
    both = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
    return both / (beta * (1 - beta))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_of_three_tokens_is_the_formula_and_references_count_for_nothing(
    tmp_path, teacher, frozen, temperature
):
    student = make_student(teacher, 3, 1)
    if frozen:
        freeze_encoder(student)
    made = trainer(tmp_path, teacher, student, lmbda=1.0, temperature=temperature)
    source = torch.tensor([[5, 6, 7, 8, 2]])
    labels = torch.tensor([[9, 30, 2]])
    inputs = {"input_ids": source, "attention_mask": torch.ones_like(source), "sampled": torch.ones(())}
    decoder = student.prepare_decoder_input_ids_from_labels(labels=labels)
    student.train()
    loss = made._distillation_loss(student, inputs | {"decoder_input_ids": decoder}, labels, None)
    with torch.no_grad():
        q, p = (
            (model.eval()(input_ids=source, decoder_input_ids=decoder).logits.double() / temperature).softmax(-1)[0]
            for model in (student, teacher)
        )
    wanted = temperature**2 * divergence(p, q, SETTINGS["interpolation"]).mean()
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-4)

    padded = {
        "input_ids": torch.cat([source, torch.full((1, 3), 1)], 1),
        "attention_mask": torch.tensor([[1] * 5 + [0] * 3]), "sampled": torch.ones(()),
    }  # fmt: skip
    longer = torch.cat([labels, torch.full((1, 2), IGNORED)], 1)
    decoder = student.prepare_decoder_input_ids_from_labels(labels=longer)
    again = made._distillation_loss(student.train(), padded | {"decoder_input_ids": decoder}, longer, None)
    assert again.total.item() == pytest.approx(loss.total.item(), rel=1e-5)


def test_the_gradient_is_that_of_fixed_targets(tmp_path, teacher):
    """None goes through the sampling: a step on the same texts, given as fixed targets, has the same gradient."""
    made = trainer(tmp_path / "own", teacher, cls=Gradients, lmbda=1.0, max_grad_norm=0.0)
    order = next(iter(made.get_train_dataloader()))
    texts = made._on_policy(order, 0)["labels"]
    made.train()

    class Fixed(Gradients):
        def get_batch_samples(self, *args):
            batches, _ = super().get_batch_samples(*args)
            own = [{**b, "labels": texts, "sampled": torch.ones(())} for b in batches]
            return own, self._get_num_items_in_batch(own, self.args.device)

    fixed = trainer(tmp_path / "fixed", copy.deepcopy(teacher), cls=Fixed, max_grad_norm=0.0)
    fixed.train()
    for name, a in made.gradient.items():
        torch.testing.assert_close(a, fixed.gradient[name], rtol=1e-5, atol=1e-8)


def test_accumulated_batches_are_weighted_by_the_tokens_that_were_sampled(tmp_path, teacher):
    made = trainer(tmp_path, teacher, lmbda=1.0, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    batches, count = made.get_batch_samples(iter(made.get_train_dataloader()), 2, made.args.device)
    assert len(batches) == 2 and int(count) == sum(int((b["labels"] != IGNORED).sum()) for b in batches)


def test_batches_have_room_for_what_the_student_may_write(tmp_path, teacher):
    limited = {"batch_tokens": 64, "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 8}
    for lmbda, most in ((0.0, 64), (1.0, 64)):
        made = trainer(tmp_path, teacher, lmbda=lmbda, **{**SETTINGS, "sampled_tokens": 20, **limited})
        tokens = [
            len(b["labels"]) * (b["input_ids"].shape[1] + (20 if lmbda else b["labels"].shape[1]))
            for b in made.get_train_dataloader()
        ]
        assert max(tokens) <= most and sum(len(b["labels"]) for b in made.get_train_dataloader()) == len(pairs())


def test_what_the_student_writes_is_in_no_cache(tmp_path, teacher):
    args = arguments(tmp_path, lmbda=1.0, **SETTINGS)
    with pytest.raises(ValueError, match="no cache"):
        DistillationTrainer(
            make_student(teacher, 3, 1), arguments(tmp_path, lmbda=0.5, alpha=1.0), train_dataset=pairs()
        )
    cached = pairs().add_column("teacher_states", [[0.0] * 16] * 8)
    with pytest.raises(ValueError, match="no cache"):
        DistillationTrainer(
            make_student(teacher, 3, 1), args, teacher=teacher, train_dataset=cached, data_collator=Padder()
        )
    with pytest.raises(ValueError, match="lmbda"):
        arguments(tmp_path, lmbda=1.5)
