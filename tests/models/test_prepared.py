"""What a study shares is made when it is first used, and once."""

import pytest

from distill_utils.models import prepared as module
from distill_utils.models.checkpoint import checkpoint_hash
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study


def test_a_named_teacher_is_loaded_without_a_corpus(monkeypatch):
    for name in ("load_corpus", "corpus_statistics"):
        monkeypatch.setattr(module, name, lambda _: pytest.fail("it needs no corpus"))
    prepared = Prepared(load_study("docstrings"))
    model, _ = prepared.load_teacher()
    assert model.config.vocab_size and prepared.teacher_hash == checkpoint_hash(prepared.teacher_folder)


def test_the_corpus_is_loaded_and_the_teacher_hashed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "load_corpus", lambda _: calls.append("corpus") or {})
    monkeypatch.setattr(module, "checkpoint_hash", lambda _: calls.append("hash") or "abc")
    prepared = Prepared(load_study("docstrings"))
    for _ in range(2):
        assert (prepared.corpus, prepared.teacher_hash) == ({}, "abc")
    assert sorted(calls) == ["corpus", "hash"]
