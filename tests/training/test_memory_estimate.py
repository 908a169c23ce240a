"""What a study is said to need: counted again on real layers, measured on a real run, and warned of with what lowers it."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config

from distill_utils import cli
from distill_utils.models.output_head import without_head
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import freeze_encoder
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
from distill_utils.system.paths import ROOT
from distill_utils.training import memory_estimate
from distill_utils.training.attention import use_fastest_attention
from distill_utils.training.memory_estimate import available_memory, kept_for_backward, memory_needed, memory_sentence

DOCSTRINGS = {"teacher.path": "models/docstrings_teacher", "distillation.student": "6-3"}


def counted(config: BartConfig, pairs: int, source: int, target: int, bf16: bool, encoder: bool) -> int:
    """Bytes of all tensors that a forward pass saves, but for the weights."""
    model = BartForConditionalGeneration(config).train()
    use_fastest_attention(model)
    if not encoder:
        freeze_encoder(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # tensor and size of every storage: one that is freed would give its address to another

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    ids, mask = torch.randint(4, 60, (pairs, source)), torch.ones(pairs, source, dtype=torch.long)
    targets = torch.randint(4, 60, (pairs, target))
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16), without_head(model):
        model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets)
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize(("width", "inner", "target"), [(256, 1024, 24), (256, 512, 48), (512, 1024, 40)])
def test_what_layers_keep_is_what_they_save(bf16, encoder, width, inner, target):
    def config(layers):
        return BartConfig(
            vocab_size=64, d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_ffn_dim=inner, decoder_ffn_dim=inner,
            encoder_attention_heads=width // 64, decoder_attention_heads=width // 64, max_position_embeddings=256,
        )  # fmt: skip

    def of_two_layers(pairs):  # what is outside the layers falls out
        return counted(config(3), pairs, 96, target, bf16, encoder) - counted(
            config(1), pairs, 96, target, bf16, encoder
        )

    found = of_two_layers(4) - of_two_layers(2)  # and so do weights in bf16, which do not grow with the batch
    assert kept_for_backward(config(2), 2, 96, target, bf16=bf16, encoder=encoder) == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "moment", "named"),
    [
        ({"distillation.batch_size": 4096, "distillation.batch_tokens": 0}, "training 6-3 kd", "distillation.batch_size (4096"),
        ({"generation.batch_size": 4096}, "writing summaries", "generation.batch_size (4096)"),
        ({"speed.batch_size": 4096}, "timing all models", "speed.batch_size (4096)"),
    ],
)  # fmt: skip
def test_too_little_memory_is_warned_of_with_the_settings_that_lower_it(monkeypatch, settings, moment, named):
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: 4_000_000_000)
    study = load_study(
        "smoke", {**DOCSTRINGS, "corpus.max_source_tokens": 128, **settings, "distillation.methods": ["kd"]}
    )
    said, need = memory_sentence(Prepared(study)), memory_needed(Prepared(study))
    assert need.moment == moment and need.bytes > 4e9
    assert (
        said.startswith(f"WARNING: smoke needs about {need.bytes / 1e9:.1f} GB") and "lower " in said and named in said
    )
    key = named.split()[0]
    lower = load_study(
        "smoke", {**DOCSTRINGS, "corpus.max_source_tokens": 128, **settings, key: 2, "distillation.methods": ["kd"]}
    )
    assert memory_needed(Prepared(lower)).bytes < need.bytes / 2
    assert not memory_sentence(Prepared(lower)).startswith("WARNING")


def test_the_documented_savings_lower_what_is_needed():
    def needed(**settings):
        given = {
            **DOCSTRINGS,
            "corpus.max_source_tokens": 128,
            "distillation.methods": ["kd"],
            "distillation.batch_size": 512,
        }
        study = load_study("smoke", {**given, **{f"distillation.{k}": v for k, v in settings.items()}})
        return memory_needed(Prepared(study)).bytes

    usual = needed()
    assert all(
        needed(**s) < usual
        for s in (
            {"batch_size": 64},
            {"gradient_checkpointing": True},
            {"batch_tokens": 2048},
            {"cache_teacher": "states"},
        )
    )
    assert needed(freeze_encoder=False) > usual


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_estimate, "CGROUP", tmp_path)
    monkeypatch.setattr(memory_estimate.psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000))
    monkeypatch.setattr(memory_estimate.psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=100))
    assert available_memory() == 8_100
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    for limit, used, free in (("max", 5, 8_100), ("6000", 1_000, 5_400), ("90000", 1_000, 8_100), ("1000", 1_500, 100)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert available_memory() == free


def test_a_narrower_students_encoder_is_trained():
    def needed(student, freeze):
        given = {
            **DOCSTRINGS,
            "distillation.methods": ["sft"],
            "distillation.student": student,
            "distillation.batch_size": 512,
        }
        study = load_study("smoke", {**given, "distillation.freeze_encoder": freeze})
        return memory_needed(Prepared(study), memory_estimate.planned(study)).bytes

    assert needed("6-3", True) < needed("6-3", False)
    assert needed("6-3-512", True) == needed("6-3-512", False) < needed("6-3", False)


def test_processes_share_a_batch_and_on_the_cpu_the_memory(monkeypatch):
    given = {
        **DOCSTRINGS,
        "corpus.max_source_tokens": 128,
        "distillation.methods": ["kd"],
        "distillation.batch_size": 512,
    }
    study = load_study("smoke", given)
    runs = memory_estimate.planned(study)
    one = memory_needed(Prepared(study), runs).bytes
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert one < memory_needed(Prepared(study), runs).bytes < 2 * one


def test_models_of_another_kind_are_not_estimated(tmp_path):
    T5Config().save_pretrained(tmp_path)
    study = load_study("smoke", {**DOCSTRINGS, "distillation.student": str(tmp_path)})
    assert memory_sentence(Prepared(study), memory_estimate.planned(study)) == ""
    (tmp_path / "config.json").write_text("{")
    assert memory_sentence(Prepared(study)) == ""


def test_it_is_said_before_anything_is_trained(monkeypatch, capsys):
    monkeypatch.setattr("distill_utils.training.train_student.train_student", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: 1_000_000)
    try:
        with pytest.raises(pytest.fail.Exception):
            cli.main(["train", "smoke", "--method", "sft", "--set", "name=test_estimate"])
    finally:
        shutil.rmtree(load_study("smoke", {"name": "test_estimate"}).folder, ignore_errors=True)
    assert re.search(
        r"WARNING: test_estimate needs about 1\.\d GB of memory \(training 2-1 sft\)", capsys.readouterr().err
    )


def test_full_size_comes_near_what_was_measured():
    """The published run at bart-large's size did all in one process; so its models were made and freed in it, too."""
    measured = read_json(ROOT / "figures" / "full_size" / "results.json")
    study = load_study("full_size")
    config = BartConfig(vocab_size=50265, d_model=1024, encoder_ffn_dim=4096, decoder_ffn_dim=4096)
    teacher, student = (
        memory_estimate._shape(BartConfig(**{**config.to_dict(), "decoder_layers": n})) for n in (12, 6)
    )
    assert (teacher.parameters, student.parameters) == tuple(measured["parameters"].values())
    (run,) = [
        run
        for run in memory_estimate.planned(study)
        if run.method == measured["training"]["shape"] or run.method == "kd"
    ]
    assert memory_estimate._training(run, student, teacher).bytes == pytest.approx(
        measured["peak_memory_bytes"], rel=0.25
    )
