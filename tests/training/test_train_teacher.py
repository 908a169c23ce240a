"""Making a teacher: tokenizer, infilling, the recipe at a tiny size, and the one that is shipped."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_utils import make_teacher
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.checkpoint import load_model, parameter_count
from distill_utils.models.prepared import Prepared
from distill_utils.report.model_cards import first_pass_loss
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.errors import UserError
from distill_utils.training.denoising import DenoisingWindows, infill
from distill_utils.training.optimizers import MuonWithAdamW
from tests.conftest import tiny_bart

MASK = 999


@given(st.integers(1, 80), st.integers(0, 1000))
def test_infilling_hides_thirty_percent_and_keeps_the_rest_in_order(length, seed):
    ids = np.arange(length)
    source = infill(ids, MASK, np.random.default_rng(seed))
    kept = source[source != MASK]
    assert (np.diff(kept) > 0).all() and set(kept) <= set(ids)
    assert length - len(kept) == round(0.3 * length)
    assert not ((source[1:] == MASK) & (source[:-1] == MASK)).any(), "one mask per span"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Return the sum of two numbers.", "def f(x): naïve ☕"] * 20, 300)


def test_tokenizer_is_barts(tokenizer):
    assert len(tokenizer) == 300 or len(tokenizer) < 300
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    ids = tokenizer("naïve ☕ 漢字")["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2) and 3 not in ids, "bytes leave nothing unknown"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "naïve ☕ 漢字"


def test_windows_repeat(tokenizer):
    windows = DenoisingWindows(np.arange(4, 204, dtype=np.int32), tokenizer, 20, 5, seed=1)
    assert windows[3] == windows[3] != windows[4]
    assert len(windows[0]["labels"]) == 22 and tokenizer.mask_token_id in windows[0]["input_ids"]


def test_muon_takes_matrices_in_layers_and_resumes_exactly():
    def run(steps, state=None, weights=None):
        model = tiny_bart()
        if weights:
            model.load_state_dict(weights)
        optimizer = MuonWithAdamW(model, lr=1e-2)
        if state:
            optimizer.load_state_dict(state)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
        for _ in range(steps):
            ids = torch.tensor([[0, 5, 6, 7, 2]])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        return model, optimizer

    whole, optimizer = run(4)
    assert {group["lr"] for group in optimizer.param_groups} == {0.005}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(whole.parameters()))
    first, optimizer = run(2)
    second, _ = run(2, optimizer.state_dict(), first.state_dict())
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_recipe_runs_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    phase = {"batch_size": 4, "warmup_steps": 1, "decay_steps": 1, "evaluation_steps": 2, "steps": 4}
    overrides = {
        "teacher.path": "models/made",
        "teacher.average_checkpoints": 2,
        **{f"teacher.{p}.{k}": v for p in ("denoising", "finetuning") for k, v in phase.items()},
    }
    study = load_study("smoke", overrides)
    folder = make_teacher.make_teacher(study)
    recipe = read_json(folder / "recipe.json")
    assert recipe["kept"] in ("last", "averaged") and recipe["checkpoints_averaged"] == 2
    assert len(recipe["finetuning"]["validation_loss"]) == 2
    assert recipe["corpus_fingerprint"] and recipe["finetuning_pairs"] > 64
    model, _ = Prepared(study).load_teacher()
    assert model.generation_config.max_new_tokens == study.generation.max_new_tokens
    weights = (folder / "model.safetensors").read_bytes()
    assert make_teacher.make_teacher(study) == folder  # from its checkpoints: nothing is trained again
    assert (folder / "model.safetensors").read_bytes() == weights
    assert "ROUGE" in (folder / "README.md").read_text()
    assert "denoising" in (study.folder / "teacher_training" / "train.log").read_text()


def test_a_checkpoint_is_fine_tuned_into_a_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    tokenizer = train_tokenizer(["def name(self): text of a few words"] * 3, 300)
    tiny_bart((2, 2), len(tokenizer), positions=64).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    phase = {"steps": 4, "batch_size": 4, "gradient_accumulation_steps": 2, "warmup_steps": 1, "decay_steps": 1}
    study = load_study(
        "smoke",
        {
            "teacher.path": ["models/made", "owner/published"],
            "teacher.base": "base",
            "teacher.generation.num_beams": 3,
            **{
                f"teacher.finetuning.{k}": v
                for k, v in (phase | {"evaluation_steps": 2, "learning_rate": 1e-3}).items()
            },
        },
    )
    folder = make_teacher.make_teacher(study)
    assert folder == tmp_path / "models" / "made"
    recipe = read_json(folder / "recipe.json")
    assert recipe["finetuning_pairs"] == 64 and len(recipe["finetuning"]["validation_loss"]) == 2
    losses = [loss for _, loss in recipe["finetuning"]["validation_loss"]]
    assert losses[1] < losses[0], "it learns"
    model, _ = Prepared(study).load_teacher()
    assert model.generation_config.num_beams == 3
    assert "4 steps of 8 pairs" in (folder / "README.md").read_text()


@pytest.mark.parametrize("recipe", [None, {"corpus_fingerprint": "another"}])
def test_a_teacher_from_elsewhere_is_not_replaced(tmp_path, monkeypatch, recipe):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    tiny_bart().save_pretrained(tmp_path / "models" / "mine")
    if recipe:
        write_json(tmp_path / "models" / "mine" / "recipe.json", recipe)
    with pytest.raises(UserError, match="not trained on this corpus"):
        make_teacher.make_teacher(load_study("smoke", {"teacher.path": "models/mine"}))


def test_texts_that_are_no_docstrings_need_a_checkpoint_to_start_from(tmp_path):
    with pytest.raises(UserError, match=r"teacher\.base"):
        make_teacher.make_teacher(load_study("xsum", {"teacher.base": ""}))


# -- the teacher in models/docstrings_teacher ------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return Prepared(load_study("docstrings")).teacher_folder


def test_shipped_teacher_is_what_the_study_says(shipped):
    model, tokenizer = load_model(shipped)
    settings = load_study("docstrings").teacher
    config = model.config
    assert (config.encoder_layers, config.decoder_layers) == (settings.encoder_layers, settings.decoder_layers)
    assert min(config.encoder_layers, config.decoder_layers) >= 6
    assert len(tokenizer) == config.vocab_size == settings.vocabulary
    assert parameter_count(model) == read_json(shipped / "recipe.json")["parameters"]


def test_shipped_teacher_is_small_enough_and_safetensors(shipped):
    assert (shipped / "model.safetensors").stat().st_size <= 40e6
    assert not {p.suffix for p in shipped.iterdir()} & {".bin", ".pt", ".pth", ".pkl"}


def test_shipped_config_has_the_keys_ctranslate2_needs(shipped):
    config = read_json(shipped / "config.json")
    assert config["normalize_embedding"] is True
    for key in ("normalize_before", "add_final_layer_norm", "static_position_embeddings"):
        assert config[key] is False


def test_model_card_states_where_the_numbers_come_from(shipped):
    card, recipe = (shipped / "README.md").read_text(), read_json(shipped / "recipe.json")
    assert recipe["corpus_fingerprint"] in card and recipe["machine"]["processor"] in card
    assert f"{recipe['test']['rougeL']:.1f}" in card
    for step, loss in recipe["finetuning"]["validation_loss"]:
        assert f"| {step:,} | {loss:.2f} |" in card


def test_shipped_teacher_beats_every_baseline_by_six_points(shipped):
    recipe = read_json(shipped / "recipe.json")
    assert "lookup" in recipe["baselines"] and recipe["lead"]["rougeL_ci"][0] > 0
    assert recipe["test"]["rougeL"] >= 6 + max(recipe["baselines"].values())
    assert recipe["stutters"] == 0


def test_shipped_teacher_has_not_memorized_its_pairs(shipped):
    """Pairs that it had not seen yet were hardly harder than those it had: most of its gap is no memory."""
    recipe = read_json(shipped / "recipe.json")
    assert first_pass_loss(recipe) <= recipe["training_pairs_loss"] + 0.2


def test_the_loss_before_a_pair_is_seen_is_of_the_first_pass():
    losses = [[step, float(step)] for step in range(10, 401, 10)]
    recipe = {"settings": {"finetuning": {"batch_size": 4, "gradient_accumulation_steps": 2}}, "finetuning_pairs": 1600}
    recipe["finetuning"] = {"training_loss": losses}
    assert first_pass_loss(recipe) == 195, "steps 190 and 200 of the 200 of a pass"
    recipe["finetuning"] = {"training_loss": losses[:5]}
    assert first_pass_loss(recipe) is None
