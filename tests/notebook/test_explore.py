"""The numbers of the interactive plots agree with the losses, the metric and the results."""

import numpy as np
import pytest
import torch
from transformers import DataCollatorForSeq2Seq

from distill_utils.data.corpus import load_corpus
from distill_utils.data.tokenization import tokenize
from distill_utils.evaluation.results import load_results
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import freeze_encoder, load_student
from distill_utils.notebook.explore import BatchLoss, Positions, Summaries, shared_words, trade
from distill_utils.training.losses import distillation_loss, soft_loss


def test_a_position_is_what_the_loss_is_made_of(finished):
    positions = Positions(Prepared(finished))
    at = [positions.at(1, i, 2.0) for i in range(positions.tokens(1))]
    teacher, student, labels = positions._read(1)
    assert np.mean([p.soft for p in at]) == pytest.approx(float(soft_loss(student, teacher, labels, 2.0)), rel=1e-4)
    assert at[0].before == "" and at[0].wanted in load_corpus(finished)["test"][1]["summary"]
    p = torch.softmax(teacher[0] / 2.0, -1)
    q = torch.softmax(student[0] / 2.0, -1)
    assert max(at[0].teacher) == pytest.approx(float(p.max())) and max(at[0].student) == pytest.approx(float(q.max()))
    assert at[0].teacher_entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-4)


def test_the_loss_plot_has_the_losses_value_and_gradient_at_every_alpha(finished):
    study = finished
    assert study.distillation.freeze_encoder and study.distillation.temperature not in (1.0, 4.0)
    batch = BatchLoss(Prepared(study), pairs=4, temperatures=(1.0, 4.0))
    assert batch.temperatures == (1.0, study.distillation.temperature, 4.0)
    teacher, tokenizer = Prepared(study).load_teacher()
    student = load_student(study, study.distillation.student, teacher, tokenizer).eval()
    rows = tokenize(load_corpus(study)["train"].select(range(4)), tokenizer, study.corpus).remove_columns("length")
    inputs = DataCollatorForSeq2Seq(tokenizer, model=student)([rows[i] for i in range(4)])
    labels = inputs.pop("labels")
    freeze_encoder(student)
    for alpha, temperature in ((0.0, 4.0), (0.3, 1.0), (1.0, 4.0)):
        student.zero_grad()
        found = distillation_loss(
            student(**inputs).logits, teacher(**inputs).logits.detach(), labels, alpha=alpha, temperature=temperature
        )
        found.total.backward()
        norm = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm()
        at = batch.at(alpha, temperature)
        assert at.total == pytest.approx(float(found.total), rel=1e-4)
        assert at.gradient_norm == pytest.approx(float(norm), rel=1e-3)


def test_the_gradient_of_the_loss_plot_includes_an_encoder_that_the_study_trains(finished):
    norms = {}
    for student in ("2-1-16", "2-1"):
        for freeze in (True, False):
            d = finished.distillation.model_copy(update={"student": student, "freeze_encoder": freeze})
            loss = BatchLoss(
                Prepared(finished.model_copy(update={"distillation": d})), pairs=2, temperatures=(d.temperature,)
            )
            norms[student, freeze] = loss.at(0.5, d.temperature).gradient_norm
    assert norms["2-1", True] < norms["2-1", False]
    assert norms["2-1-16", True] == norms["2-1-16", False], "a narrower encoder is trained"


def test_summaries_are_searched_and_ordered(finished):
    found = Summaries(Prepared(finished))
    everything = found.found()
    assert everything == list(range(len(found.test)))
    word = found.test[2]["summary"].split()[0]
    assert 2 in found.found(word.upper()) and found.found("no such words anywhere") == []
    a, b = found.systems[0], found.systems[-1]
    ahead = [
        found.evaluations[a].scores["rougeL"][i] - found.evaluations[b].scores["rougeL"][i]
        for i in found.found("", (a, b))
    ]
    assert ahead == sorted(ahead, reverse=True)
    rows = found.example(0)
    assert [row["what"] for row in rows[:3]] == ["document", "reference", "teacher"]
    assert rows[2]["text"] == found.evaluations["teacher"].predictions[0]
    assert [name for name, _ in found.of_text("Return the sum of two numbers.")] == found.systems


@pytest.mark.parametrize(
    ("text", "reference", "n", "marked"),
    [
        ("Reads the tables.", "it reads a table", 1, ["Reads", "tables"]),
        ("Reads the tables.", "it reads a table", 2, []),
        ("Read a table, now", "it reads a table", 2, ["Read", "a", "table"]),
        ("", "x", 1, []),
        ("a_b", "a b", 2, ["a", "b"]),
    ],
)
def test_what_is_marked_is_what_rouge_counts(text, reference, n, marked):
    pieces = shared_words(text, reference, n)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, same in pieces if same] == marked
    if text:
        assert (rouge_scores([text], [reference])[f"rouge{n}"][0] > 0) == bool(marked)


def test_words_of_other_alphabets_are_marked():
    pieces = shared_words("l'été à Köln", "Köln, l\u2019été", kind="Unicode")
    assert [piece for piece, same in pieces if same] == ["l", "été", "Köln"]


def test_the_trade_has_a_point_for_every_timed_system(finished):
    results = load_results(finished)
    size = results["settings"]["speed"]["batch_size"]
    points = trade(results, "rougeL", results["generation"]["num_beams"], size, None, ["pytorch-fp32"])
    assert {p["name"] for p in points} == {s["name"] for s in results["systems"] if s.get("speeds")}
    assert all(p["summaries_per_s"] > 0 for p in points)
    for beams, tokens, runtimes in ((99, None, ["pytorch-fp32"]), (2, None, []), (2, 99, ["pytorch-fp32"])):
        assert trade(results, "rougeL", beams, size, tokens, runtimes) == []
