"""`make gpu` as it can be tried without one: tiny models, the same script."""

import ast
import json
import shutil
import subprocess
import sys
import time
from importlib import metadata

import psutil
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu, gpu_teacher, gpu_wheels, run
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
from distill_utils.system.environment import training_precision
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from distill_utils.training.train_teacher import train_teacher
from tests.benchmarks.test_full_size import tiny, tokenizer_folder  # noqa: F401
from tests.conftest import tiny_bart


@pytest.fixture
def files(tiny, tokenizer_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "ALONE", 2)
    monkeypatch.setattr(gpu, "TOGETHER", 4)
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
        assert textbook["teacher_bytes"] >= ours["teacher_bytes"] > 0
        assert ours["precision"] == textbook["precision"] == training_precision("auto", "bart")
    for runtime in gpu.RUNTIMES:
        loads = [load for shape in by_name[f"serving {runtime}"]["shapes"] for load in shape["loads"]]
        assert {(load["batch_size"], load["documents"], load["tokens"]) for load in loads} == {
            (1, 2, 4), (1, 2, 1), (4, 4, 4), (4, 4, 1),
        }  # fmt: skip
    for search in ("beams", "greedy"):
        static = by_name[f"serving 2-1 with a static cache, {search}, batch 4"]
        assert static["static"]["summary_tokens"] == static["dynamic"]["summary_tokens"]
        assert (static["static"]["num_beams"] == 1) == (search == "greedy")


def test_what_fails_or_comes_too_late_is_named_and_the_rest_is_kept(files, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no\nsuch kernel")

    monkeypatch.setattr(gpu, "matrix_speed", fails)
    monkeypatch.setattr(gpu, "Sides", fails)
    assert gpu.main(["measure", *files, "--seconds", "0.0"]) == 0
    found = read_json(tmp_path / "runs" / "gpu" / "measure.json")
    assert (
        not found["rows"]
        and not found["failed"]
        and "matrix product" in found["not_begun"]
        and len(found["not_begun"]) > 5
    )
    report = gpu.Report(tmp_path / "report.json", 60)
    report.add("one", fails)
    report.add("two", lambda: {"value": 1})
    report.add("three", lambda: {"value": float("nan")})
    found = read_json(report.file)
    assert found["failed"].pop("three").startswith("ValueError") and len(found["rows"]) == 1
    assert found["failed"] == {"one": "RuntimeError: no such kernel"} and found["rows"][0]["value"] == 1


def test_without_the_matrix_speed_and_a_backend_the_rest_is_measured(files, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise UserError("CTranslate2 is not installed")

    for name in ("matrix_speed", "measure_shapes"):
        monkeypatch.setattr(gpu, name, fails)
    monkeypatch.setattr(gpu, "static_caches", lambda *_: None)
    assert gpu.main(["measure", *files]) == 1
    found = read_json(tmp_path / "runs" / "gpu" / "measure.json")
    assert found["failed"].keys() == {"matrix product", *(f"serving {runtime}" for runtime in gpu.RUNTIMES)}
    assert len(found["rows"]) >= 4 and not any("share_of_matrix_speed" in row for row in found["rows"])


def test_without_parts_both_are_run(files, monkeypatch):
    begun = []
    monkeypatch.setattr(gpu, "check", lambda *_: begun.append("check") or 0)
    monkeypatch.setattr(gpu, "measure", lambda *_: begun.append("measure") or 0)
    assert gpu.main(files) == 0 and begun == ["check", "measure"]
    assert gpu.main(["check"]) == 0 and begun.pop() == "check"
    with pytest.raises(SystemExit):
        gpu.main(["other", *files])


def test_the_teacher_from_carried_text_is_the_one_from_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    assert gpu_teacher.main([str(tmp_path / "text"), "--study", "smoke"]) == 0
    small = {f"teacher.{phase}.steps": 4 for phase in ("denoising", "finetuning")}
    _, _, recipe = train_teacher(Prepared(load_study("smoke", small)))
    report = gpu.Report(tmp_path / "report.json", 60)
    gpu.teacher(report, tmp_path / "text", tiny=True)
    (row,) = read_json(report.file)["rows"]
    assert row["validation_loss"] == recipe["final_validation_loss"] and row["test_pairs"] == 8
    assert row["finetuning_pairs"] == recipe["finetuning_pairs"] > 64
    assert row["shipped"]["finetuning_s"] > 0 and row["shipped"]["machine"]["processor"]


def test_where_bfloat16_is_missing_both_sides_train_in_fp16(files, monkeypatch):
    monkeypatch.setattr(run, "FP16", True)
    monkeypatch.setattr(run, "training_precision", lambda *_: "fp16")
    given = {"name": "gpu", "teacher.tokenizer": files[1], "corpus.path": files[3], **gpu.TINY}
    sides = gpu._sides(given, 24)
    ours, textbook = (sides.trainer(way, frozen=True, bf16=False) for way in ("ours", "textbook"))
    assert ours.args.fp16 and textbook.args.fp16 and ours.teacher is sides.ours
    assert sides.ours.dtype == torch.float16 and sides.theirs.dtype == torch.float32


def test_graphs_are_counted_in_the_last_epoch_alone():
    epoch = gpu.LastEpoch()
    gpu.counters["stats"]["unique_graphs"] += 3
    for graphs in (2, 1):
        epoch.on_epoch_begin()
        gpu.counters["stats"]["unique_graphs"] += graphs
        epoch.on_epoch_end()
    assert epoch.new_graphs == 1 and epoch.seconds >= 0


@pytest.mark.parametrize("beams", [1, 3])
def test_the_steps_are_compiled_but_not_the_first_pass(monkeypatch, beams):
    passes = []

    def compiled(forward, **_):
        return lambda *args, **kwargs: passes.append("step") or forward(*args, **kwargs)

    model = tiny_bart()
    settings = {"cache_implementation": "static", "num_beams": beams, "min_new_tokens": 5, "max_new_tokens": 5}
    inputs = {"input_ids": torch.randint(4, 40, (2, 6)), "attention_mask": torch.ones(2, 6).long()}
    wanted = model.generate(**inputs, **settings)
    monkeypatch.setattr(torch, "compile", compiled)
    gpu.compile_steps(model)
    assert torch.equal(model.generate(**inputs, **settings), wanted) and len(passes) == 4


def test_both_files_are_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(["measure"])
    assert ended.value.code == 2 and "TOKENIZER=DIR CORPUS=PATH" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        gpu.main(["measure", "--tokenizer", "t", "--corpus", "c", "--text", "nowhere"])
    assert ended.value.code == 2 and "python -m benchmarks.gpu_teacher nowhere" in capsys.readouterr().err


def test_the_check_writes_each_test_as_it_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k test_the_same")
    assert gpu.check(tmp_path, 120) == 0
    rows = [json.loads(line) for line in (tmp_path / "check.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and {row["outcome"] for row in rows} == {"passed"}
    assert gpu.check(tmp_path, 0.5) == 1 and "stopped after" in capsys.readouterr().err
    shutil.rmtree(tmp_path)


def test_a_check_that_is_stopped_leaves_no_process(tmp_path, monkeypatch, capsys):
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/group\nsetsid sleep 300 &\necho $! > {tmp_path}/own\nwait\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(script))
    assert gpu.check(tmp_path, 2) == 1
    for name in ("group", "own"):
        started = int((tmp_path / name).read_text())
        for _ in range(50):
            gone = not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE
            if gone:
                break
            time.sleep(0.1)
        assert gone, name


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


def imported(files):
    """The distributions that files import as they are loaded, those of the project's modules included."""
    names, waiting, seen = set(), list(files), set()
    while waiting:
        file = waiting.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        nodes = list(ast.parse(file.read_text("utf-8")).body)
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
                continue
            for module in modules:
                top = module.partition(".")[0]
                if top in ("benchmarks", "distill_utils", "tests"):
                    waiting += [
                        ROOT / f"{module.replace('.', '/')}.py",
                        ROOT / module.replace(".", "/") / "__init__.py",
                    ]
                elif top not in sys.stdlib_module_names:
                    names.add(top)
    found = metadata.packages_distributions()
    return {canonicalize_name(found[name][0]) for name in names}


def test_the_wheels_hold_what_the_check_and_the_measurement_import():
    files = [ROOT / "tests" / "conftest.py", *(ROOT / "tests" / "gpu").glob("*.py"), ROOT / "benchmarks" / "gpu.py"]
    wanted = imported([*files, ROOT / "tests" / "system" / "test_distributed.py"])
    fetched = {canonicalize_name(Requirement(pin).name) for pin in gpu_wheels.lacking({})}
    assert {"torch", "hypothesis", "accelerate", "transformers"} <= wanted <= fetched | {"torch"}
    assert {canonicalize_name(name) for name in gpu_wheels.NEEDED} <= fetched


def test_a_needed_package_without_a_pin_is_named(monkeypatch):
    monkeypatch.setattr(gpu_wheels, "NEEDED", ("transformers", "unheard-of"))
    with pytest.raises(UserError, match="unheard-of: needed"):
        gpu_wheels.lacking({})
