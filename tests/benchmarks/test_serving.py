"""Sections of ``make bench`` about serving, with models and files so small that their times say nothing."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import report, serving
from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student
from distill_utils.studies.loading import load_study
from distill_utils.system.errors import UserError


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    return load_study("smoke")


def test_every_student_drafts(study, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    teacher, tokenizer = Prepared(study).load_teacher()
    make_student(teacher, 2, 1).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    runs = [SimpleNamespace(name=f"2-1 {m}", student="2-1", folder=tmp_path / "student") for m in ("sft", "kd")]
    monkeypatch.setattr(serving, "planned", lambda _: runs)
    monkeypatch.setattr(serving, "timed", list)
    found = serving.draft(study, documents=4, timed_documents=2)
    tried = [(row["student"], row["proposed"], row["documents"]) for row in found["rows"]]
    assert tried == [("2-1 sft", 4, 4), ("2-1 kd", 4, 4), ("2-1 kd", 2, 2), ("2-1 kd", 6, 2)]
    assert all(row["same"] == row["documents"] for row in found["rows"])
    assert "| 2-1 sft | 4 | 4 of 4 |" in report._draft(found)


def test_files_as_long_as_asked_are_compared(study, monkeypatch):
    seen = []

    def run(command, **settings):
        seen.append([Path(file).read_text("utf-8").splitlines() for file in command[4:]])
        return subprocess_run(command, **settings)

    subprocess_run = serving.subprocess.run
    monkeypatch.setattr(serving.subprocess, "run", run)
    found = serving.compare_files(study, pairs=10, words=8, runs=1)
    (files,) = seen
    assert len(files) == 3 and len({tuple(lines) for lines in files}) == 3
    assert all(len(lines) == 10 and {len(line.split()) for line in lines} == {8} for lines in files)
    assert "2 systems of 10 summaries each" in report._compare_files(found)
    with pytest.raises(UserError, match="training documents of smoke have 16 words; compare_files needs 10,000"):
        serving.compare_files(study, pairs=10_000, words=8, runs=1)
