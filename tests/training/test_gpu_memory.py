"""When a GPU's memory runs out: what is said, and that a step in parts is the same step."""

import copy

import pytest
import torch

from distill_utils import cli
from distill_utils.models import backends, generation
from distill_utils.models.backends import PyTorch
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.generation import summarize
from distill_utils.models.student import make_student
from distill_utils.system.errors import MemoryFull, UserError
from distill_utils.training.trainer import DistillationTrainer
from tests.conftest import tiny_bart
from tests.training.test_trainer import Gradients, Padder, arguments, pairs

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
TEXTS = [
    "Return the sum of two numbers.",
    "x",
    "Plot a line through all of the points that are given.",
    "Sort it.",
    "Add one.",
    "Say no.",
    "Go on.",
]


def trainer(folder, teacher, room=99, first=99, **settings):
    """A trainer whose memory holds ``room`` pairs, and ``first`` pairs in its first call."""

    class Small(Gradients):
        calls = 0

        def _distillation_loss(self, model, inputs, labels, num_items):
            self.calls += 1
            loss = super()._distillation_loss(model, inputs, labels, num_items)
            if len(labels) > (first if self.calls == 1 else room):
                raise FULL
            return loss

    args = arguments(folder, **{"alpha": 0.4, "beta": 1.0, "max_grad_norm": 0.0}, **settings)
    student = make_student(teacher, 3, 1)
    return Small(student, args, teacher=copy.deepcopy(teacher), train_dataset=pairs(16), data_collator=Padder())


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}, {"lmbda": 1.0, "sampled_tokens": 6}])
@pytest.mark.parametrize("room", [7, 3, 1])
def test_a_step_in_parts_is_the_same_step(tmp_path, teacher, settings, room, capsys):
    """With accumulation, memory runs out in the second batch: the first one's gradient has to be computed again."""
    made = {}
    for name, memory in {"whole": {}, "parts": {"room": room, "first": 8, "auto_batch_size": True}}.items():
        made[name] = trainer(tmp_path / name, teacher, max_steps=2, **memory, **settings)
        made[name].train()
    whole, parts = made.values()
    assert f"from here on {1 if room == 1 else 2 if room == 3 else 4}" in capsys.readouterr().err.splitlines()[-1]
    for name, gradient in whole.gradient.items():
        torch.testing.assert_close(parts.gradient[name], gradient, rtol=1e-4, atol=1e-7)
    for a, b in zip(whole.state.log_history, parts.state.log_history, strict=True):
        for key in {"loss", "hard_loss", "soft_loss", "grad_norm"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-3)


@pytest.mark.parametrize(
    ("room", "settings", "said"),
    [
        (3, {}, "of 8 pairs at a time; set distillation.auto_batch_size=true, or lower distillation.batch_size"),
        (0, {"auto_batch_size": True}, "of 1 pairs at a time; lower distillation.batch_size"),
    ],
)
def test_what_to_lower_is_said(tmp_path, teacher, room, settings, said):
    with pytest.raises(UserError, match=said):
        trainer(tmp_path, teacher, room, first=room, **settings).train()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 20, 300)


class Memory:
    """Memory that holds the summaries of ``room`` documents; ``tried`` has the sizes of batches."""

    def __init__(self, monkeypatch):
        self.room, self.tried, self.generate = 99, [], generation.generate
        monkeypatch.setattr(generation, "generate", self)
        monkeypatch.setattr(backends, "generate", self)

    def __call__(self, model, inputs, **settings):
        self.tried.append(len(inputs["input_ids"]))
        if self.tried[-1] > self.room:
            raise FULL
        return self.generate(model, inputs, **settings)


@pytest.mark.parametrize("way", ["evaluation", "command"])
def test_summaries_are_written_in_smaller_batches(tokenizer, monkeypatch, capsys, way):
    model, memory = tiny_bart(vocabulary=len(tokenizer)), Memory(monkeypatch)
    backend = PyTorch(model, tokenizer, 20)
    write = {
        "evaluation": lambda: summarize(model, tokenizer, TEXTS, max_source_tokens=20, batch_size=5, max_new_tokens=6),
        "command": lambda: [*backend.summarize(TEXTS, batch_size=5, max_new_tokens=6)],
    }[way]
    whole = write()
    memory.room, memory.tried = 2, []
    assert write() == whole and len({*whole}) > 1
    assert memory.tried == [5, 2, 2, 1, 2]
    said = "WARNING: the GPU ran out of memory; from here on 2 documents at a time"
    assert capsys.readouterr().err.splitlines()[-1] == said
    memory.room = 0
    with pytest.raises(UserError, match="does not hold one document; lower generation"):
        write()


def test_speed_is_not_measured_in_smaller_batches(tokenizer, monkeypatch):
    backend = PyTorch(tiny_bart(vocabulary=len(tokenizer)), tokenizer, 20)
    Memory(monkeypatch).room = 2
    with pytest.raises(torch.OutOfMemoryError):
        list(backend.write([backend.encode(TEXTS)], max_new_tokens=6))


def test_elsewhere_it_is_one_line(monkeypatch, capsys):
    def fails():
        raise FULL

    monkeypatch.setattr(cli, "check_versions", fails)
    assert cli.main(["run", "smoke"]) == 2
    assert capsys.readouterr().err == (
        "distill: the GPU ran out of memory; lower generation.batch_size, generation.num_beams, speed.batch_size or corpus.max_source_tokens\n"
    )


def test_one_process_of_several_does_not_go_on_alone(tmp_path, teacher, monkeypatch, capsys):
    made = trainer(tmp_path, teacher, auto_batch_size=True)
    monkeypatch.setattr(type(made.args), "world_size", 2)
    with pytest.raises(MemoryFull, match="of 8 pairs at a time; lower"):
        DistillationTrainer._divide_more(made, 8)

    def fails(_):
        raise MemoryFull("the GPU ran out of memory; lower it")

    monkeypatch.setattr(cli, "_run", fails)
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["run", "smoke"]) == 2
    assert capsys.readouterr().err == "distill: the GPU ran out of memory; lower it\n"


def test_elsewhere_in_a_training_it_is_said_too(tmp_path, teacher, monkeypatch):
    """While the student samples, or the optimizer makes room for its moments."""
    made = trainer(tmp_path, teacher, auto_batch_size=True, batch_setting="teacher.finetuning.batch_size")

    def fails(*_, **__):
        raise FULL

    monkeypatch.setattr(made, "get_batch_samples", fails)
    said = "out of memory; lower teacher.finetuning.batch_size and raise teacher.finetuning.gradient_accumulation_steps"
    with pytest.raises(MemoryFull, match=said):
        made.train()
