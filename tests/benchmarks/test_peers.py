"""Other libraries are measured in processes of their own; what cannot run is named, and the rest is measured."""

import subprocess
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from benchmarks import encoders, peers, report, shortlists
from distill_utils.models.backends import CTranslate2, load_backend
from distill_utils.models.export import export
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student
from distill_utils.studies.loading import load_study
from distill_utils.system.errors import UserError
from tests.benchmarks.test_full_size import tiny, tokenizer_folder  # noqa: F401

pytest.importorskip("ctranslate2")
#: As CTranslate2's converter wants them; see ``export.FAMILIES``.
TRAITS = {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False, "static_position_embeddings": False}  # fmt: skip
HERE = peers.Peer("ctranslate2", "float32", None)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose best student is a tiny model, and whose teacher is one, too."""
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    study = load_study("smoke", {"speed.tokens": 4})
    prepared, folder = Prepared(study), tmp_path / "student"
    teacher, tokenizer = prepared.load_teacher()
    model = make_student(teacher, 2, 1)
    model.config.update(TRAITS)
    model.generation_config.update(num_beams=2, max_new_tokens=6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for module in (peers, shortlists):
        monkeypatch.setattr(module, "best_student", lambda _: SimpleNamespace(name="2-1 sft", folder=folder))
        monkeypatch.setattr(module, "ROUNDS", 1)
    return study


def test_a_worker_writes_what_the_library_writes_here(study, tmp_path):
    backend = load_backend(tmp_path / "student")
    sources = [[ids] for ids in backend.encode(Prepared(study).corpus["test"]["document"][:])]
    own = CTranslate2(export(tmp_path / "student", tmp_path / "export"))
    wanted = [*own.write(sources, max_new_tokens=6)]
    with peers.started(HERE, tmp_path / "student", backend.tokenizer, 48) as remote:
        assert [*remote.write(sources, num_beams=2, max_new_tokens=6)] == wanted
        assert remote.versions.keys() >= {"ctranslate2", "torch"}
        process = remote._process
    assert process.poll() is not None


def test_all_are_measured_and_what_fails_is_named(study, monkeypatch, capfd):
    missing = peers.Peer("openvino", "int8", None)  # not in this environment
    monkeypatch.setattr(peers, "PEERS", (missing, HERE))
    found = peers.peers(study, timed_documents=2, scored_documents=4)
    assert found["failed"].keys() == {"OpenVINO, int8"} and "ModuleNotFoundError" in found["failed"]["OpenVINO, int8"]
    assert "Traceback" in capfd.readouterr().err
    assert found["speeds"].keys() == {row["system"] for row in found["rows"]} and len(found["rows"]) == 5
    for loads in found["speeds"].values():
        assert [(load["batch_size"], load["tokens"], load["documents"]) for load in loads] == [(1, 4, 2), (2, 4, 2)]
    page = report._peers(found)
    assert "OpenVINO, int8 was left out" in page and page.count("| ours, ") == 4
    assert "CTranslate2, its defaults, float32" in page

    class Stopping(CTranslate2):
        def write(self, *_, **__):
            raise UserError("stopped in the middle")

    monkeypatch.setattr(peers, "CTranslate2", Stopping)
    monkeypatch.setattr(peers, "PEERS", (missing,))
    found = peers.peers(study, timed_documents=2, scored_documents=4)
    assert found["speeds"].keys() == {peers.OURS} and len(found["failed"]) == 4
    assert "was left out: stopped in the middle" in report._peers(found)


def test_shortlists_are_measured(study, monkeypatch):
    monkeypatch.setattr(shortlists, "SHORTLISTS", (30, 90))
    monkeypatch.setattr(shortlists, "BATCH", 4)
    found = shortlists.shortlist(study)
    few, many = found["covered"]
    assert 0 < few["share"] < many["share"] <= 1 and few["fixed"] <= few["candidates"] < many["candidates"]
    assert [row["tokens"] for row in found["rows"]] == [0, 30, 90] * 2
    assert "teacher, int8, 30 tokens" in report._shortlist(found)


def test_the_encoder_options_are_measured(study, tmp_path, monkeypatch):
    runs = [
        SimpleNamespace(student=shape, method="hidden", group=group, folder=tmp_path / folder)
        for shape, group, folder in (
            ("2-1", "main", "student"),
            ("1-1", "shapes", "student"),
            ("2-1", "budgets", "another"),
        )
    ]
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.json").write_text("{}")
    update = {"distillation": study.distillation.model_copy(update={"student": "2-1"})}
    own = study.model_copy(update=update | {"evidence": study.evidence.model_copy(update={"shapes_method": "hidden"})})
    for name, value in (("timed", lambda _: runs), ("ROUNDS", 1), ("BATCH", 4), ("SOURCES", (8,)), ("BATCH_TOKENS", 60)):  # fmt: skip
        monkeypatch.setattr(encoders, name, value)
    found = encoders.encoder(own)
    assert [row["system"] for row in found["rows"]] == [
        "2-1, int8",
        "1-1, int8",
        "2-1, int8, 8 tokens read",
        "2-1, float32",
    ]
    assert found["rows"][1]["rougeL_change"] == 0, "the same student"
    page = report._encoder(found)
    assert "| 2-1, int8 | " in page and found["batching"].keys() >= {"as they come", "by length"}
    assert all(f"| {way} | " in page for way in found["batching"])
    monkeypatch.setattr(encoders, "timed", lambda _: runs[1:])
    with pytest.raises(UserError, match="distill run docstrings_shapes"):
        encoders.encoder(own)


def test_a_shortened_document_keeps_its_end(study, tmp_path):
    folder = export(tmp_path / "student", tmp_path / "export")
    short, whole = encoders._Shortened(folder, 8), CTranslate2(folder, 8)
    documents = Prepared(study).corpus["test"]["document"][:3]
    long = [CTranslate2(folder, 40).encode(documents)]
    assert [*short.write(long, max_new_tokens=6)] == [*whole.write([whole.encode(documents)], max_new_tokens=6)]


def test_batches_of_equal_tokens_hold_all_documents(monkeypatch):
    monkeypatch.setattr(encoders, "BATCH_TOKENS", 60)
    ordered = [[1] * n for n in (50, 30, 30, 20, 5, 5)]
    batches = encoders._by_tokens(ordered)
    assert [ids for batch in batches for ids in batch] == ordered
    assert [len(batch) for batch in batches] == [1, 2, 3]


def test_a_shortlist_at_large_size_is_measured(tiny, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    monkeypatch.setattr(shortlists, "LARGE", 20)
    monkeypatch.setattr(shortlists, "LARGE_DOCUMENTS", (1, 2))
    monkeypatch.setattr(shortlists, "LARGE_RUNTIMES", ("pytorch-fp32", "ctranslate2-int8"))
    found = shortlists.large_shortlist(load_study("full_size", {**tiny, "name": "large"}))
    assert len(found["rows"]) == 6 and found["bounds"].keys() == {"pytorch-fp32", "ctranslate2-int8"}
    for bound in found["bounds"].values():
        whole, student, short = bound.values()
        assert whole == 1 < student < short
    assert "12-6, 20 tokens | ctranslate2-int8" in report._large_shortlist(found)


def test_an_environment_is_installed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    commands, codes = [], [0, 1]

    def run(command, **_):
        commands.append(command)
        (tmp_path / "runs" / "peers" / "torchao").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, codes[0] if len(commands) != 2 else codes[1])

    monkeypatch.setattr(peers.subprocess, "run", run)
    with pytest.raises(UserError, match="torchao cannot be installed"):
        peers.installed("torchao")
    codes[1] = 0
    commands.clear()
    assert peers.installed("torchao") == peers.installed("torchao")
    assert len(commands) == 4 and "torchao==0.18.0" in commands[2] and commands[2][0].endswith("torchao/bin/python")
    assert any(part.startswith("torch==") for part in commands[1])
    monkeypatch.setenv("TORCH", "torch==2.13.0 --index-url here")
    peers.installed("torchao")
    assert len(commands) == 8 and commands[5][-2:] == ["--index-url", "here"]


def test_an_emulated_processor_stays_one(monkeypatch):
    for given, kept in (("AVX2", "AVX2"), ("AVX512", None)):
        monkeypatch.setenv("CT2_FORCE_CPU_ISA", given)
        assert peers.environment().get("CT2_FORCE_CPU_ISA") == kept and "PATH" in peers.environment()


def test_a_worker_that_stops_is_one_line(tmp_path):
    with ExitStack() as stack, pytest.raises(UserError, match=r"CTranslate2, its defaults, float32 stopped: .*nothing"):
        stack.enter_context(peers.started(HERE, tmp_path / "nothing", None, 48))
