"""The GPU computes what the CPU does, within a stated tolerance; without a GPU, these tests run on the CPU twice.

``make gpu`` runs them alone and keeps their results.
"""

import copy
import json
from contextlib import contextmanager

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from distill_utils.data.tokenization import tokenize
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.generation import generate, sampled
from distill_utils.models.output_head import Projected
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import freeze_encoder, make_student
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import single_run
from distill_utils.system.environment import bf16_supported, free_accelerator
from distill_utils.training.fused_loss import projected_loss
from distill_utils.training.losses import distillation_loss
from distill_utils.training.memory_estimate import CONTEXT, memory_needed
from distill_utils.training.train_student import train_student, training_report
from tests.conftest import WORDS, tiny_bart
from tests.training.test_trainer import Gradients, Padder, arguments, begun, in_fp16, pairs

pytestmark = pytest.mark.gpu
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
#: Relative error of a gradient against float32's on the CPU.
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.06}
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
every_precision = pytest.mark.parametrize("precision", TOLERANCE)


def supported(precision):
    if precision == "bf16" and GPU and not bf16_supported():
        pytest.skip("this GPU has no bfloat16")


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@every_precision
def test_the_loss_and_its_gradient(alpha, precision):
    supported(precision)
    draw = torch.Generator().manual_seed(0)
    states, theirs = torch.randn(300, 64, generator=draw), torch.randn(300, 64, generator=draw)
    weight, other = torch.randn(5000, 64, generator=draw) * 0.2, torch.randn(5000, 64, generator=draw) * 0.2
    labels = torch.randint(0, 5000, (300,), generator=draw)

    own = states.double().requires_grad_()
    wanted = distillation_loss(
        own @ weight.double().T, theirs.double() @ other.double().T, labels, alpha=alpha, temperature=2.0
    ).total
    wanted.backward()

    student = states.to(DEVICE).requires_grad_()
    with torch.autocast(DEVICE, TYPES.get(precision), enabled=precision != "fp32"):
        loss = projected_loss(
            Projected(student, weight.to(DEVICE)), Projected(theirs.to(DEVICE), other.to(DEVICE)), labels.to(DEVICE),
            alpha=alpha, temperature=2.0,
        ).total  # fmt: skip
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=TOLERANCE[precision])
    assert (student.grad.cpu() - own.grad).norm() <= TOLERANCE[precision] * own.grad.norm()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("settings", [{"beta": 1.0}, {"interpolation": 0.5}, {"alpha": 1.0}], ids=str)
@every_precision
def test_the_gradient_of_a_step(tmp_path, teacher, precision, settings, frozen):
    supported(precision)
    settings, found = {"alpha": 0.5, **settings}, []
    for device, kind in (("cpu", "fp32"), (DEVICE, precision)):
        student = make_student(teacher, 3, 1)
        if frozen:
            freeze_encoder(student)
        halves = {name: kind == name for name in TYPES}
        folder = tmp_path / f"{device}-{kind}"
        args = arguments(folder, use_cpu=device == "cpu", max_grad_norm=0.0, **halves, **settings)
        own = copy.deepcopy(teacher) if settings["alpha"] < 1 else None
        trainer = Gradients(student, args, teacher=own, train_dataset=pairs(), data_collator=Padder())
        if args.fp16 and args.use_cpu:
            in_fp16(trainer)
        trainer.train()
        found.append(trainer.gradient)
    wanted, there = found
    whole = sum(g.norm() ** 2 for g in wanted.values()) ** 0.5
    for name, gradient in wanted.items():
        apart = (there[name].cpu() - gradient).norm()
        assert apart <= TOLERANCE[precision] * gradient.norm() + 1e-3 * whole, name


@contextmanager
def deterministic():
    """On a GPU, the fused attention's gradient and some sums have no fixed order otherwise."""
    torch.use_deterministic_algorithms(GPU, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "settings", [{}, {"bf16": True}, {"fp16": True}, {"lmbda": 0.5, "interpolation": 0.5, "sampled_tokens": 6}], ids=str
)
def test_a_training_resumes_where_it_stopped(tmp_path, teacher, settings):
    supported("bf16" if "bf16" in settings else "fp32")
    settings = {**settings, "use_cpu": not GPU}
    with deterministic():
        whole = begun(tmp_path / "whole", teacher, stop=99, **settings)
        begun(tmp_path / "stopped", teacher, stop=5, **settings)
        resumed = begun(tmp_path / "stopped", teacher, stop=99, **settings)
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        if GPU and name.endswith("k_proj.bias"):
            continue  # its gradient is rounding error alone, which Adam makes a step of
        torch.testing.assert_close(a, b, rtol=0 if not GPU else 1e-4, atol=0 if not GPU else 1e-5, msg=name)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_the_same_summaries(num_beams):
    for seed in range(3):
        model = tiny_bart(seed=seed)
        draw = torch.Generator().manual_seed(seed)
        inputs = {
            "input_ids": torch.randint(4, 40, (6, 12), generator=draw),
            "attention_mask": torch.ones(6, 12).long(),
        }
        inputs["attention_mask"][3:, 7:] = 0
        settings = {"num_beams": num_beams, "max_new_tokens": 15}
        ours = generate(model, inputs, **settings)
        there = generate(model.to(DEVICE), {k: v.to(DEVICE) for k, v in inputs.items()}, **settings)
        assert torch.equal(ours, there.cpu())


def test_the_same_samples():
    model = tiny_bart()
    inputs = {"input_ids": torch.randint(4, 40, (6, 12)), "attention_mask": torch.ones(6, 12).long()}
    found = [
        sampled(model.to(device), {k: v.to(device) for k, v in inputs.items()}, temperature=1.0, most=9, seed=1)
        for device in ("cpu", DEVICE)
    ]
    assert torch.equal(found[0][0], found[1][0].cpu()) and torch.equal(found[0][1], found[1][1].cpu())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A teacher and pairs, as files."""
    draw = torch.Generator().manual_seed(0)
    text = lambda count: " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (count,), generator=draw))  # noqa: E731
    rows = [{"document": text(30), "summary": text(6)} for _ in range(120)]
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenizer = train_tokenizer([row["document"] for row in rows], 300)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=4, decoder_layers=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=128, dropout=0.0, init_std=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


def test_training_from_caches_and_online(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    logs = {}
    for cached in (False, True):
        study = load_study("smoke", {
            "name": "gpu_test", "corpus.path": str(folders / "pairs.jsonl"), "corpus.max_source_tokens": 60, "corpus.max_target_tokens": 20,
            "teacher.path": str(folders / "teacher"), "distillation.precision": "fp32", "distillation.steps": 4, "distillation.validations": 1,
            "distillation.student": "4-2", "distillation.batch_size": 8, "distillation.cache_teacher": "states" if cached else "",
            "distillation.cache_encoder": cached,
        })  # fmt: skip
        run = single_run(study, "4-2", "hidden")
        train_student(Prepared(study), run)
        logs[cached] = [e for e in training_report(Prepared(study), run)["log"] if "soft_loss" in e]
    for a, b in zip(logs[True], logs[False], strict=True):
        for name in ("hard_loss", "soft_loss", "hidden_loss"):
            assert a[name] == pytest.approx(b[name], rel=3e-3), "the cache is in float16"


def large(folders, folder):
    """A study whose training takes gigabytes on a GPU, mostly for the model and its activations; all texts are of full length."""
    draw = torch.Generator().manual_seed(0)
    text = lambda count: " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (count,), generator=draw))  # noqa: E731
    rows = [{"document": text(80), "summary": text(30)} for _ in range(400)]
    (folder / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = BartConfig.from_pretrained(
        folders / "teacher", d_model=1024, encoder_ffn_dim=4096, decoder_ffn_dim=4096, encoder_attention_heads=16,
        decoder_attention_heads=16, vocab_size=2000, dropout=0.1, init_std=0.02,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder / "teacher")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "teacher" / name).write_bytes((folders / "teacher" / name).read_bytes())
    return load_study("smoke", {
        "name": "gpu_memory", "corpus.path": str(folder / "long.jsonl"), "corpus.max_source_tokens": 60, "corpus.max_target_tokens": 20,
        "corpus.max_train": 256, "teacher.path": str(folder / "teacher"), "distillation.steps": 3, "distillation.validations": 0,
        "distillation.student": "4-2", "distillation.batch_size": 256, "distillation.freeze_encoder": False,
        "distillation.cache_teacher": "", "distillation.cache_encoder": False,
    })  # fmt: skip


def test_the_texts_of_the_memory_estimate_have_full_length(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    monkeypatch.setattr(BartForConditionalGeneration, "__init__", lambda *_: None)  # half a gigabyte
    monkeypatch.setattr(BartForConditionalGeneration, "save_pretrained", lambda _, folder: folder.mkdir(exist_ok=True))
    study = large(folders, tmp_path)
    tokens = tokenize(Prepared(study).corpus["train"], AutoTokenizer.from_pretrained(folders / "teacher"), study.corpus)
    assert len(tokens) == study.distillation.batch_size
    assert {len(ids) for ids in tokens["input_ids"]} == {60} and {len(ids) for ids in tokens["labels"]} == {20}


@pytest.mark.skipif(not GPU, reason="a GPU counts its memory exactly")
@pytest.mark.parametrize("method", ["sft", "kd"])
def test_the_memory_estimate(folders, tmp_path, monkeypatch, method):
    """The estimate is an upper bound and not far above.

    It counts a teacher in float32 and a second student, which a GPU has freed when the training's memory peaks: about an eighth
    of the estimate here. Its context is in no tensor.
    """
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    study = large(folders, tmp_path)
    prepared, run = Prepared(study), single_run(study, "4-2", method)
    needed = memory_needed(prepared, [run]).bytes - CONTEXT
    free_accelerator()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train_student(prepared, run)
    used = torch.cuda.max_memory_allocated() - before
    assert 0.6 * needed < used < 1.15 * needed, f"{used / 1e9:.2f} GB of {needed / 1e9:.2f}"


@pytest.mark.skipif(not GPU, reason="needs a GPU's memory to fill")
def test_a_batch_that_does_not_fit_is_divided(tmp_path):
    """Memory is limited to three quarters of what a step adds: it has to be divided, and is the same step.

    Nearly all of that is activations, over half a gigabyte; the weights of the student are 14 MB.
    """
    config = BartConfig(
        vocab_size=40, d_model=256, encoder_layers=3, decoder_layers=3, encoder_ffn_dim=1024, decoder_ffn_dim=1024,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=32, dropout=0.0, init_std=0.05,
    )  # fmt: skip
    torch.manual_seed(0)
    wide, many, found, step = BartForConditionalGeneration(config).eval(), pairs(1024), {}, 0
    for name in ("first", "whole", "divided"):  # the first creates cuBLAS's workspaces, too
        args = arguments(
            tmp_path / name,
            use_cpu=False,
            per_device_train_batch_size=len(many),
            max_grad_norm=0.0,
            auto_batch_size=True,
        )
        trainer = Gradients(
            make_student(wide, 3, 1), args, teacher=copy.deepcopy(wide), train_dataset=many, data_collator=Padder()
        )
        free_accelerator()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if name == "divided":  # the limit is of what PyTorch reserves, in blocks of 2 MB and more
            limit = torch.cuda.memory_reserved() + 0.75 * step
            torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        try:
            trainer.train()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        step = torch.cuda.max_memory_allocated() - before
        found[name] = trainer
    assert found["whole"]._divided_by == 1 and found["divided"]._divided_by > 1
    wanted = found["whole"].gradient
    whole = sum(gradient.norm() ** 2 for gradient in wanted.values()) ** 0.5
    for name, gradient in wanted.items():
        assert (found["divided"].gradient[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-4 * whole, name
