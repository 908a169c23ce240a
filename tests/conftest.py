"""Shared by all tests: no Hub, few threads, tiny models."""

import os
import shutil
import subprocess
import sys
from pathlib import PurePosixPath

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings
from transformers import BartConfig, BartForConditionalGeneration

from distill_utils.studies.loading import load_study
from distill_utils.system.paths import ROOT

SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
if SIDE_BY_SIDE:  # a thread each: threads that wait for each other's cores crawl
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

settings.register_profile("same", derandomize=True, deadline=None)  # a failure comes again, on any machine
settings.load_profile("same")

#: A processor without AVX-512, AMX or bfloat16, as far as the libraries can tell.
OLD_PROCESSOR = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "CT2_FORCE_CPU_ISA": "AVX2"}

#: For texts drawn at random.
WORDS = ["the", "council", "met", "on", "monday", "to", "vote", "about", "trams", "and", "parks", "in", "rainy", "leeds"]  # fmt: skip

#: Files whose tests run the study ``smoke`` itself: one process at a time may hold it.
SMOKE = {
    "test_artefacts",
    "test_browser",
    "test_explore",
    "test_smoke",
    "test_settings",
    "test_widgets",
}
#: What takes longest begins first.
LONGEST = [*sorted(SMOKE), "test_kills", "test_wheel", "test_evidence", "test_hub", "test_distributed"]


def pytest_collection_modifyitems(items) -> None:
    if SIDE_BY_SIDE:
        items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Side by side: the tests of a file stay together, and those that share ``smoke`` do."""
    from xdist.scheduler import LoadScopeScheduling

    class ByStudy(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = PurePosixPath(nodeid.partition("::")[0]).stem
            return "smoke" if file in SMOKE else file

    return ByStudy(config, log)


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


def save_tiny(folder, tokenizer):
    """Save a tiny model with its tokenizer and settings of beam search; return the folder."""
    model = tiny_bart(vocabulary=len(tokenizer), positions=64)
    model.generation_config.update(num_beams=3, max_new_tokens=12, early_stopping=True, forced_eos_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can only be made by root")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # files may still be mapped


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The study ``smoke``, run from nothing: itself, what the command printed and told, and a copy of what it left."""
    code, out, err = distill("run", "smoke", "--fresh")
    assert code == 0, err
    study, copy = load_study("smoke"), tmp_path_factory.mktemp("smoke") / "copy"
    shutil.copytree(study.folder, copy)
    shutil.copytree(study.figures_folder, copy.parent / "figures")
    return study, out, err, copy


@pytest.fixture(scope="module")
def finished(smoke):
    """The study as the run left it, whatever other tests did to it since."""
    study, _, _, copy = smoke
    shutil.rmtree(study.folder, ignore_errors=True)
    shutil.copytree(copy, study.folder)
    return study
