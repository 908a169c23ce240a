"""Shared by all tests: no Hub, few threads, tiny models."""

import os
import shutil
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from distill_utils.study import ROOT, load_study


def tiny_bart(
    layers: tuple[int, int] = (3, 3), vocabulary: int = 40, seed: int = 0, positions: int = 32
) -> BartForConditionalGeneration:
    """A BART of a few thousand parameters with weights large enough for its outputs to differ."""
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=vocabulary, d_model=16, encoder_layers=layers[0], decoder_layers=layers[1], encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=positions,
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, init_std=0.3,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


@pytest.fixture
def teacher() -> BartForConditionalGeneration:
    return tiny_bart()


def distill(*arguments, **environment):
    """Run the command; returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "distill_utils", *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The study ``smoke``, run from nothing: itself, what the command printed and told, and a copy of what it left."""
    code, out, err = distill("run", "smoke", "--fresh")
    assert code == 0, err
    study, copy = load_study("smoke"), tmp_path_factory.mktemp("smoke") / "copy"
    shutil.copytree(study.folder, copy)
    return study, out, err, copy


@pytest.fixture(scope="module")
def finished(smoke):
    """The study as the run left it, whatever other tests did to it since."""
    study, _, _, copy = smoke
    shutil.rmtree(study.folder, ignore_errors=True)
    shutil.copytree(copy, study.folder)
    return study
