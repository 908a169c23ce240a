"""A document is written for a model in one form, in a study and by `distill summarize`."""

import re
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import T5Config

from distill_utils.data.reading import (
    NAME,
    Reading,
    corpus_reading,
    own_prefix,
    reading_warning,
    record_reading,
    recorded_reading,
    unrecorded_warning,
)
from distill_utils.evaluation.baselines import baselines
from distill_utils.models.backends import load_backend
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.export import export
from distill_utils.models.student import load_student
from distill_utils.studies.loading import load_study
from tests.conftest import tiny_bart
from tests.data.test_tables import ROWS, read, write
from tests.helpers.properties import examples

DIALOGUE = "Ann:  Are you coming?\r\n Ben: No.\n\nAnn: Why?  "
READINGS = st.builds(
    Reading, st.booleans(), st.sampled_from(["", "summarize: ", "x", " a:\n\n", "TL;DR\t"]) | st.text(max_size=3)
)


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (Reading(), "Ann: Are you coming? Ben: No. Ann: Why?"),
        (Reading(line_breaks=True), "Ann: Are you coming?\nBen: No.\n\nAnn: Why?"),
        (Reading(prefix="summarize: "), "summarize: Ann: Are you coming? Ben: No. Ann: Why?"),
    ],
)
def test_the_form_of_a_dialogue(reading, text):
    assert reading.applied(DIALOGUE) == text
    assert reading.applied(" \n ") == "", "no document"


@examples(100)
@given(READINGS, st.text())
def test_a_document_in_its_form_stays(reading, text):
    assert reading.applied(reading.applied(text)) == reading.applied(text)


def test_a_study_reads_its_documents_so(tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"body": f"{DIALOGUE}{i}", "title": row["title"]} for i, row in enumerate(ROWS)]
    )
    for given_, start in (({}, "Ann: Are you coming? Ben"), ({"line_breaks": True}, "Ann: Are you coming?\nBen")):
        assert all(text.startswith(start) for text in read(path, **given_)[0]["train"]["document"])
    for prefix in ("Summarize:\n\n", " summarize:  "):
        documents = read(path, prefix=prefix)[0]["train"]["document"]
        assert all(text.startswith(f"{prefix}Ann") and text.lower().count("summarize") == 1 for text in documents)
    corpus, _ = read(path, prefix="summarize: ")
    assert all(text.startswith("summarize: Ann") for text in corpus["train"]["document"])
    assert not any("summarize" in text for text in corpus["train"]["summary"])
    study = load_study("xsum", {"corpus.path": str(path), "corpus.prefix": "summarize: "})
    assert {f(corpus["train"]["document"][0])[:4] for f in baselines(study).values()} == {"Ann:"}


@pytest.mark.parametrize("line_breaks", [False, True])
def test_a_student_summarizes_a_text_as_its_study_did(tmp_path, line_breaks):
    tokenizer = train_tokenizer([DIALOGUE, "summarize: "] * 20, 300)
    study = load_study(
        "xsum", {"corpus.path": "x.jsonl", "corpus.line_breaks": line_breaks, "corpus.prefix": "summarize: "}
    )
    teacher = tiny_bart(vocabulary=len(tokenizer), positions=64)
    student = load_student(study, "2-1", teacher, tokenizer)
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    sources = [tmp_path / "student"]
    pytest.importorskip("ctranslate2")
    sources.append(export(tmp_path / "student", tmp_path / "export"))
    for source in sources:
        backend = load_backend(source)
        assert backend.reading == corpus_reading(study.corpus) == Reading(line_breaks, "summarize: ")
        settings = {"num_beams": 1, "max_new_tokens": 8}
        read_as = [backend.reading.applied(DIALOGUE)]
        assert [*backend.summarize([DIALOGUE], **settings)] == [*backend.summarize_as_given(read_as, **settings)]


def test_a_checkpoint_without_a_record_reads_one_line():
    assert recorded_reading(T5Config()) == recorded_reading({}) == recorded_reading({NAME: "damaged"}) == Reading()
    config = T5Config()
    record_reading(config, load_study("docstrings").corpus)
    assert recorded_reading(config) == Reading(line_breaks=True)


@pytest.mark.parametrize(
    ("model", "study", "said", "served"),
    [
        ({}, {}, "", ""),
        ({}, {"line_breaks": True}, "", "distill summarize writes its documents on one line"),
        ({"task": "summarize: "}, {}, "--set 'corpus.prefix=summarize: '", ""),
        ({"task": "summarize: "}, {"prefix": "summarize: "}, "", "has no 'document_reading'"),
        ({"task": None}, {}, "", ""),
        ({"recorded": Reading(prefix="summarize: ")}, {}, "another form .*: prefix = 'summarize: '", ""),
        ({"recorded": Reading(True, "x")}, {"prefix": "x"}, "another form .*: line_breaks = True$", ""),
        ({"recorded": Reading(True, "x"), "task": "y"}, {"prefix": "x", "line_breaks": True}, "", ""),
    ],
)
def test_a_model_that_asks_for_another_form_than_the_studys_is_said(model, study, said, served):
    config = T5Config(task_specific_params={"summarization": {"prefix": model["task"]}} if "task" in model else None)
    if "recorded" in model:
        setattr(config, NAME, asdict(model["recorded"]))
    corpus = load_study("xsum", {f"corpus.{name}": value for name, value in study.items()}).corpus
    for warning, wanted in ((reading_warning, said), (unrecorded_warning, served)):
        found = warning(config, corpus)
        assert bool(found) == bool(wanted) and re.search(wanted, found)
    assert own_prefix(config) == (("" if "recorded" in model else model.get("task")) or "")
