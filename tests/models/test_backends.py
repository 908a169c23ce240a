"""PyTorch and CTranslate2 write the same summaries, in the order of their documents."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from distill_utils import cli
from distill_utils.models.backends import (
    FIRST_WINDOW,
    CTranslate2,
    ctranslate2_arguments,
    lacking_hardware,
    load_backend,
)
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.drafting import load_drafted
from distill_utils.models.export import export
from distill_utils.models.generation import summarize
from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from tests.conftest import OLD_PROCESSOR, save_tiny, tiny_bart

pytest.importorskip("ctranslate2")
TEXTS = ["Return the sum of two numbers.", "x", "Plot a line through all of the points. " * 3, "", "Sort it."]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A fresh config, without the traits that CTranslate2 asks for."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer(TEXTS * 20, 300)
    return save_tiny(folder, tokenizer)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    return export(checkpoint, tmp_path_factory.mktemp("exports") / "float32")


@pytest.fixture(scope="module")
def pytorch(checkpoint):
    return load_backend(checkpoint)


@pytest.fixture(scope="module")
def ctranslate2(exported):
    return load_backend(exported)


def sources(runtime):
    return runtime.encode([text for text in TEXTS if text])


def test_a_batch_may_have_any_size(pytorch, ctranslate2):
    many = sources(pytorch) * 6
    batches = [many[:1], many[1:20], many[20:]]
    ours, theirs = (
        list(runtime.write(batches, num_beams=2, max_new_tokens=6, forced_eos_token_id=None))
        for runtime in (ctranslate2, pytorch)
    )
    assert ours == theirs
    assert [len(batch) for batch in ours] == [1, 19, len(many) - 20]
    assert list(ctranslate2.write([], num_beams=2)) == []


def test_what_is_no_float16_is_not_called_so(monkeypatch):
    import ctranslate2

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    assert "no GPU" in lacking_hardware("ctranslate2-float16")
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    assert not lacking_hardware("ctranslate2-float16")


def test_a_processor_without_bfloat16_skips_it_and_times_the_rest():
    """`make study` took hours there, in a backend that the processor emulates."""
    code = (
        "from distill_utils.system.environment import bf16_supported; from distill_utils.models.backends import usable_backends;"
        "print(bf16_supported(), usable_backends(['pytorch-bf16', 'ctranslate2-int8', 'pytorch-fp32']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **OLD_PROCESSOR})  # fmt: skip
    skipped, kept = done.stdout.splitlines()
    assert skipped.startswith("pytorch-bf16 is skipped: no hardware for bfloat16")
    assert kept == "False ['ctranslate2-int8', 'pytorch-fp32']"


def test_a_checkpoint_and_its_export_know_what_they_are(pytorch, ctranslate2):
    assert (pytorch.name, ctranslate2.name) == ("pytorch-fp32", "ctranslate2-float32")
    assert pytorch.max_source_tokens == ctranslate2.max_source_tokens == 64


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 1}, {"min_new_tokens": 5, "max_new_tokens": 7}, {"no_repeat_ngram_size": 2, "num_beams": 1}],
)
def test_both_write_the_same_tokens(pytorch, ctranslate2, settings):
    ours, theirs = (
        [ids for batch in runtime.write([sources(runtime)[:2], sources(runtime)[2:]], **settings) for ids in batch]
        for runtime in (pytorch, ctranslate2)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a == b or (a[:-1] == b and len(a) == settings.get("max_new_tokens", 12)), "but for an end that is forced"
    assert len({tuple(ids) for ids in ours}) > 1


@pytest.mark.parametrize(
    "given",
    [
        {"eos_token_id": "third", "forced_eos_token_id": None},
        {"eos_token_id": [2, "third"], "forced_eos_token_id": 2},
        {"eos_token_id": None},
        {"decoder_start_token_id": None},
        {"min_new_tokens": 50},
        {"repetition_penalty": 2},
        {"early_stopping": True, "length_penalty": 2.0},
    ],
)
def test_a_checkpoints_settings_mean_the_same_in_an_export_and_with_a_draft(pytorch, checkpoint, tmp_path, given):
    """``third``: a token that ends texts which would go on otherwise."""
    (plain,) = pytorch.write([sources(pytorch)], num_beams=1, forced_eos_token_id=None)
    third = plain[0][2]
    given = json.loads(json.dumps(given).replace('"third"', str(third)))
    folder = shutil.copytree(checkpoint, tmp_path / "it")
    write_json(
        folder / "generation_config.json", read_json(folder / "generation_config.json") | {"num_beams": 1} | given
    )
    backend = load_backend(folder)
    (wanted,) = backend.write([sources(backend)])
    if given.get("eos_token_id"):
        assert len(wanted[0]) == 1 + plain[0].index(third)
    (drafted,) = load_drafted(folder, folder).write([sources(backend)])
    assert drafted == wanted
    (exported,) = load_backend(export(folder, tmp_path / "export")).write([sources(backend)])
    for ours, theirs in zip(exported, wanted, strict=True):
        assert ours == theirs or [*ours, 2] == theirs, "but for an end that is forced"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder_repetition_penalty": 1.5}, "has encoder_repetition_penalty"),
        ({"forced_eos_token_id": 14}, "forced_eos_token_id is another"),
    ],
)
def test_settings_without_a_translation_are_refused(checkpoint, tmp_path, given, message):
    folder = shutil.copytree(checkpoint, tmp_path / "it")
    write_json(folder / "generation_config.json", read_json(folder / "generation_config.json") | given)
    with pytest.raises(UserError, match=message):
        export(folder, tmp_path / "export")
    if "encoder_repetition_penalty" in given:
        drafted = load_drafted(folder, folder)
        with pytest.raises(UserError, match=message):
            list(drafted.write([sources(drafted)]))


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_forced_lengths_are_the_same_number_of_steps(pytorch, ctranslate2, steps):
    for runtime in (pytorch, ctranslate2):
        (written,) = runtime.write([sources(runtime)], num_beams=2, min_new_tokens=steps, max_new_tokens=steps)
        assert {len(ids) for ids in written} == {steps}, runtime.name


def test_a_first_token_is_forced_in_both(pytorch, ctranslate2):
    pytorch.model.generation_config.forced_bos_token_id = 0
    try:
        (ours,) = pytorch.write([sources(pytorch)], num_beams=1)
    finally:
        pytorch.model.generation_config.forced_bos_token_id = None
    (theirs,) = ctranslate2.write([sources(ctranslate2)], num_beams=1, forced_bos_token_id=0)
    assert {ids[0] for ids in ours + theirs} == {0}
    assert [ids[:5] for ids in ours] == [ids[:5] for ids in theirs]


def test_summaries_come_in_the_order_of_documents_whatever_the_windows(pytorch, ctranslate2):
    many = TEXTS * (FIRST_WINDOW // 2)  # three windows
    wanted = summarize(pytorch.model, pytorch.tokenizer, TEXTS, max_source_tokens=64)
    wanted[TEXTS.index("")] = ""
    for runtime in (pytorch, ctranslate2):
        assert list(runtime.summarize(iter(many), batch_size=7)) == wanted * (FIRST_WINDOW // 2)


def test_the_first_summaries_do_not_wait_for_the_last_documents(ctranslate2):
    read = []

    def documents():
        for i in range(10 * FIRST_WINDOW):
            read.append(i)
            yield "Sort it."

    next(ctranslate2.summarize(documents()))
    assert len(read) == FIRST_WINDOW


def test_pytorch_keeps_its_threads(exported):
    """Loading set OpenMP's number of threads to one, and PyTorch computed with one from then on."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runtime = CTranslate2(exported)
        list(runtime.write([sources(runtime)] * 2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("spare", [1, 64])
def test_embeddings_padded_beyond_the_tokenizer_are_exported(checkpoint, tmp_path, spare):
    """As for tensor cores, to a multiple of 64; both backends write the same words."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = tiny_bart(vocabulary=len(tokenizer) + spare, positions=64)
    model.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    folder = export(tmp_path / "padded", tmp_path / "exported")
    assert len(AutoTokenizer.from_pretrained(folder)) == len(tokenizer), "the tokenizer is the checkpoint's own"
    settings = {"num_beams": 2, "max_new_tokens": 10}
    written = []
    for source in (tmp_path / "padded", folder):
        runtime = load_backend(source)
        ids = list(runtime.write([sources(runtime)], **settings))
        written.append([tokenizer.decode(i, skip_special_tokens=True) for i in ids[0]])
    assert written[0] == written[1]


def test_int8_is_smaller(exported, checkpoint, tmp_path):
    small = export(checkpoint, tmp_path / "int8", "int8")
    assert (small / "model.bin").stat().st_size < (exported / "model.bin").stat().st_size
    assert CTranslate2(small).name == "ctranslate2-int8"
    assert read_json(small / "export.json")["quantization"] == "int8"


def test_lengths_are_counted_as_ctranslate2_counts():
    arguments = ctranslate2_arguments({"max_length": 62, "min_length": 11, "forced_eos_token_id": 2, "num_beams": 6})
    assert (arguments["min_decoding_length"], arguments["max_decoding_length"]) == (10, 60)
    assert arguments["beam_size"] == 6 and arguments["length_penalty"] == 1.0
    with pytest.raises(UserError, match="has do_sample"):
        ctranslate2_arguments({"do_sample": True})


def test_an_export_takes_no_strangers_place(checkpoint, exported, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(UserError, match="is not an export"):
        export(checkpoint, tmp_path)
    for content in ("{}", "[]", "no json", '{"quantization": "int8"}'):  # a file of that name is not enough
        (tmp_path / "export.json").write_text(content)
        with pytest.raises(UserError, match="is not an export"):
            export(checkpoint, tmp_path)
    (tmp_path / "export.json").unlink()
    copied = shutil.copytree(exported, tmp_path.with_name("copied"))
    (copied / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes.txt, which would be lost"):
        export(checkpoint, copied)
    (copied / "notes.txt").unlink()
    assert export(checkpoint, copied) == copied
    with pytest.raises(UserError, match="is already an export"):
        export(exported, tmp_path / "new")
    with pytest.raises(UserError, match="no quantization 'int3'; there are: float32"):
        export(checkpoint, tmp_path / "new", "int3")
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_bf16_is_a_runtime_of_its_own(checkpoint):
    assert load_backend(checkpoint, "pytorch-bf16").model.dtype == torch.bfloat16


def run(*arguments, text=""):
    return subprocess.run(
        [sys.executable, "-m", "distill_utils", *map(str, arguments)], cwd=ROOT, input=text, capture_output=True, text=True
    )  # fmt: skip


def test_the_command_exports_and_summarizes(checkpoint, pytorch, tmp_path):
    folder = tmp_path / "int8"
    done = run("export", checkpoint, folder, "--quantization", "int8")
    assert (done.returncode, done.stdout) == (0, f"export: {folder}\n"), done.stderr
    wanted = [" ".join(text.split()) for text in pytorch.summarize(TEXTS)]
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"document": "{text}"}}\n' for text in TEXTS))
    for model in (checkpoint, folder):
        done = run("summarize", model, tmp_path / "texts.jsonl")
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) == len(TEXTS) and lines[3] == "" and all(lines[:3]), done.stderr
        assert "line 4, has no text" in done.stderr
        assert model == folder or lines == wanted
    done = run("summarize", folder, text="Sort it.")
    assert done.returncode == 0 and done.stdout.strip()
    done = run("summarize", folder, text=" \n")
    assert done.returncode == 2 and done.stderr.endswith("distill: there is nothing to summarize\n")


def test_the_documented_example_is_real(tmp_path, monkeypatch, capsys):
    section = (ROOT / "docs/serving.md").read_text("utf-8").split("## Summarize")[1]
    document, shell, code = re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)[:3]
    (tmp_path / "read_table.txt").write_text(document)
    monkeypatch.chdir(tmp_path)
    command, output, of_a_student, its_output = shell.splitlines()
    assert command == "$ distill summarize models/docstrings_teacher read_table.txt"
    assert of_a_student == "$ distill summarize runs/docstrings/students/6-3-hidden-0 read_table.txt" and its_output
    assert cli.main(command.split()[2:]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    exec(code, {})
    assert capsys.readouterr().out == f"{output}\n"


def test_a_study_that_needs_ctranslate2_says_so_before_it_starts(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert cli.main(["run", "smoke", "--set", 'speed.runtimes=["ctranslate2-int8"]']) == 2
    assert "CTranslate2 is not installed" in capsys.readouterr().err
