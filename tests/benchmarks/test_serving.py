"""Sections of ``make bench`` about serving, with models and files so small that their times say nothing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import report, serving
from distill_utils.system.artefacts import read_json
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT


def test_every_student_drafts(study, student, monkeypatch):
    pytest.importorskip("ctranslate2")
    runs = [SimpleNamespace(name=f"2-1 {m}", student="2-1", folder=student) for m in ("sft", "kd")]
    monkeypatch.setattr(serving, "planned", lambda _: runs)
    monkeypatch.setattr(serving, "timed", list)
    found = serving.draft(study, documents=4, timed_documents=2)
    tried = [(row["student"], row["proposed"], row["documents"]) for row in found["rows"]]
    assert tried == [("2-1 sft", 4, 4), ("2-1 kd", 4, 4), ("2-1 kd", 2, 2), ("2-1 kd", 6, 2)]
    assert all(row["same"] == row["documents"] for row in found["rows"])
    assert "| 2-1 sft | 4 | 4 of 4 |" in report._draft(found)


def test_what_the_docs_say_of_drafts_is_in_their_file():
    found = read_json(report.RESULTS / "draft.json")
    text = " ".join((ROOT / "docs" / "serving.md").read_text("utf-8").split())
    rows = {(row["student"], row["proposed"]): row for row in found["rows"]}
    speeds = {name: loads[0]["speedup"] for name, loads in found["speeds"].items()}
    assert all(row["same"] == row["documents"] for row in rows.values()) and len({name for name, _ in rows}) == 4
    drafted = {
        name: speed for name, speed in speeds.items() if name.partition(", ")[2] not in ("", "own loop", "CTranslate2")
    }
    best = max(drafted, key=drafted.get)
    assert best == "6-3 hidden, 4 tokens" and f"reaches {drafted[best]:.2f}× the speed" in text
    assert f"CTranslate2 without a draft reaches {speeds['teacher, CTranslate2']:.2f}×" in text
    row, tokens = rows["6-3 hidden", 4], found["tokens"]
    fewer = tokens / row["passes"]
    assert (
        f"has {tokens:.1f} tokens. Drafted by 6-3, it takes {row['passes']:.1f} passes of the teacher, {fewer:.1f} times fewer"
        in text
    )
    assert (
        f"r of at most {(fewer / 1.4 - 1) / 4:.2f}" in text
        and f"means r = {(fewer / drafted[best] - 1) / 4:.2f}" in text
    )
    small = [rows[f"{shape} hidden", 4] for shape in ("6-1", "3-1")]
    assert "accepts only {:.0f} and {:.0f} % of".format(*(100 * row["accepted_share"] for row in small)) in text
    assert "at most {:.2f} and {:.2f}.".format(*((tokens / row["passes"] / 1.4 - 1) / 4 for row in small)) in text


def test_what_the_docs_say_of_comparing_files_is_in_its_file():
    found = read_json(report.RESULTS / "compare_files.json")
    text = " ".join((ROOT / "docs" / "your_data.md").read_text("utf-8").split())
    assert f"Two systems of {found['pairs']:,} summaries took {np.median(found['seconds']):.0f} s" in text


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
