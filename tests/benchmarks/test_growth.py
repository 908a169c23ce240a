"""Time and memory over the number of documents and of pairs, with files so short that they say nothing."""

from types import SimpleNamespace

import pytest

from benchmarks import growth, report
from distill_utils.models.prepared import Prepared
from distill_utils.system.errors import UserError


def test_every_document_is_summarized(study, student, monkeypatch):
    pytest.importorskip("ctranslate2")
    best = SimpleNamespace(name="2-1 sft", folder=student)
    monkeypatch.setattr(growth, "best_student", lambda _: best)
    monkeypatch.setattr(growth, "DOCUMENTS", (2, 100))
    found = growth.documents_growth(study)
    assert [row["documents"] for row in found["rows"]] == [2, 100]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 1e7 for row in found["rows"])
    assert "| 100 |" in report._documents_growth(found)


def test_every_pair_is_cached(study, monkeypatch):
    monkeypatch.setattr(growth, "PAIRS", (300, 700))
    monkeypatch.setitem(growth.TRAINING, "distillation.steps", 1)
    found = growth.pairs_growth(study)
    few, many = found["rows"]
    assert [row["trained_on"] for row in found["rows"]] == [300, 700]
    states = 2 * 32 * 2  # bytes of the states of a document's and of a summary's token in float16, at least
    assert many["bytes"] - few["bytes"] > 400 * states * 10
    assert "| 700 |" in report._pairs_growth(found)


def test_the_documents_differ(study):
    rows = [*growth._repeated(study, 150)]
    assert len({row["document"] for row in rows}) == 150 > len(Prepared(study).corpus["train"])


def test_a_command_that_fails_is_one_line():
    with pytest.raises(UserError, match=r"distill summarize failed: distill: file\.txt cannot be read"):
        growth._measured(["summarize", "/nothing", "file.txt"])


def test_the_marginal_time_is_that_of_the_rows_above():
    rows = [{"pairs": n, "seconds": s, "peak_bytes": 2e9} for n, s in ((10, 1.0), (110, 3.0))]
    assert report._growth(rows, "pairs").splitlines()[-1] == "| 110 | 3 | 20.00 | 2.00 |"
