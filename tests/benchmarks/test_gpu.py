"""`make gpu` as it can be tried without one: tiny models, the same script."""

import json
import shutil
import subprocess

import pytest
from packaging.utils import canonicalize_name

from benchmarks import gpu, gpu_wheels
from distill_utils.system.artefacts import read_json
from distill_utils.system.paths import ROOT
from tests.benchmarks.test_full_size import tiny, tokenizer_folder  # noqa: F401


@pytest.fixture
def files(tiny, tokenizer_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "SERVED", {1: 2, 4: 4})
    return ["--tokenizer", str(tokenizer_folder), "--corpus", tiny["corpus.path"], "--tiny"]


def test_a_dry_run_measures_everything(files, tmp_path):
    pytest.importorskip("ctranslate2")
    assert gpu.main(["measure", *files]) == 0
    found = read_json(tmp_path / "runs" / "gpu" / "measure.json")
    assert not found["failed"] and not found["not_begun"]
    by_name = {row["name"]: row for row in found["rows"]}
    for frozen in ("encoder frozen", "all trained"):
        textbook, ours = (by_name[f"training 24 tokens, {frozen}, {way}"] for way in ("textbook", "ours"))
        assert textbook["pairs_per_s"] > 0 and ours["pairs_per_s"] > 0
        assert ours["flops_per_pair"] > 0 and 0 < ours["share_of_matrix_speed"] < 1
    served = [row for name, row in by_name.items() if name.startswith("serving")]
    assert {loads["tokens"] for row in served for shape in row.get("shapes", []) for loads in shape["loads"]} == {1, 4}
    static = by_name["serving 2-1 with a static cache, batch 4"]
    assert static["static"]["summary_tokens"] == static["dynamic"]["summary_tokens"]


def test_what_fails_or_comes_too_late_is_named_and_the_rest_is_kept(files, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no\nsuch kernel")

    monkeypatch.setattr(gpu, "matrix_speed", fails)
    assert gpu.main(["measure", *files, "--seconds", "0.0"]) == 0
    found = read_json(tmp_path / "runs" / "gpu" / "measure.json")
    assert not found["rows"] and "matrix product" in found["not_begun"] and len(found["not_begun"]) > 5
    report = gpu.Report(tmp_path / "report.json", 60)
    report.add("one", fails)
    report.add("two", lambda: {"value": 1})
    found = read_json(report.file)
    assert found["failed"] == {"one": "RuntimeError: no such kernel"} and found["rows"][0]["value"] == 1


def test_both_files_are_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(["measure"])
    assert ended.value.code == 2 and "TOKENIZER=DIR CORPUS=PATH" in capsys.readouterr().err


def test_the_check_writes_each_test_as_it_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k test_the_same")
    assert gpu.check(tmp_path, 120) == 0
    rows = [json.loads(line) for line in (tmp_path / "check.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and {row["outcome"] for row in rows} == {"passed"}
    assert gpu.check(tmp_path, 0.5) == 1 and "stopped after" in capsys.readouterr().err
    shutil.rmtree(tmp_path)


def test_the_wheels_are_those_that_a_machine_lacks(tmp_path, monkeypatch, capsys):
    pins = dict(pin.split("==") for pin in (ROOT / "requirements.lock").read_text().split())
    named = {canonicalize_name(name): version for name, version in pins.items()}
    everything = gpu_wheels.lacking({})
    assert f"transformers=={pins['transformers']}" in everything and not any(
        p.startswith("torch==") for p in everything
    )
    assert [pin.partition("==")[0] for pin in gpu_wheels.lacking(named)] == ["ctranslate2"]
    old = named | {"transformers": "5.0.0", "ctranslate2": "4.8.5"}
    assert gpu_wheels.lacking(old) == [f"transformers=={pins['transformers']}"]

    asked = []
    monkeypatch.setattr(
        gpu_wheels.subprocess,
        "run",
        lambda command, **_: asked.append(command) or subprocess.CompletedProcess(command, 0),
    )
    (tmp_path / "have.txt").write_text("\n".join(f"{name}=={version}" for name, version in old.items()))
    assert gpu_wheels.main([str(tmp_path / "wheels"), "--python", "3.12", "--have", str(tmp_path / "have.txt")]) == 0
    (command,) = asked
    assert (
        command[-1] == f"transformers=={pins['transformers']}"
        and "3.12" in command
        and "0 wheels" in capsys.readouterr().out
    )
