"""Baselines and the description of texts."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_dataset
from rouge_score.rouge_scorer import RougeScorer

from distill_utils import cli
from distill_utils.evaluation.baselines import baselines
from distill_utils.evaluation.evaluate import evaluate_model
from distill_utils.evaluation.teacher_check import _checked
from distill_utils.metrics.text_statistics import describe_texts, novel_ngrams
from distill_utils.metrics.words import sentences, word_tokenizer
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.prepared import Prepared
from distill_utils.plots.corpus import XSUM_NOVEL_NGRAMS
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import Part
from distill_utils.system.paths import ROOT
from tests.conftest import tiny_bart

DOCUMENT = "scipy.linalg.LinAlgError2D.raise_it(a, b=2)\nRaised by functions. See e.g. `inv`. " + "word " * 20


NEWS = "Rain fell. It fell on Leeds! Was it cold? Yes.\n" + "word " * 20


@pytest.mark.parametrize(
    ("name", "document", "summary"),
    [
        ("lead-sentence", DOCUMENT, "Raised by functions."),
        ("lead-sentence", "No line break here. Second.", "No line break here."),
        ("first-12-words", DOCUMENT, "Raised by functions. See e.g. `inv`. word word word word word word"),
        ("name", DOCUMENT, "raise it"),
        ("name", "scipy.linalg.LinAlgError2D()\nx", "lin alg error 2 d"),
        ("name", "torch.nn.functional.cross_entropy(x)\ny", "cross entropy"),
        ("name", "", ""),
    ],
)
def test_baselines_of_docstrings(name, document, summary):
    assert baselines(load_study("smoke"))[name](document) == summary


def test_ctranslate2_writes_what_pytorch_writes():
    pytest.importorskip("ctranslate2")
    written = {}
    for runtime in ("pytorch-fp32", "ctranslate2-float32"):
        settings = {"name": "test_evaluation", "evidence.runtime": runtime, "teacher.path": "models/docstrings_teacher"}
        study = load_study("smoke", settings)
        try:
            teacher, tokenizer = Prepared(study).load_teacher()
            written[runtime] = evaluate_model(
                Prepared(study), "teacher", teacher, tokenizer, "checkpoint", Part("train", 24)
            )
        finally:
            if runtime != "pytorch-fp32":
                shutil.rmtree(study.folder)
    ours, theirs = written.values()
    assert ours.same_as_pytorch is None and theirs.same_as_pytorch > 0.9
    assert np.mean([a == b for a, b in zip(ours.predictions, theirs.predictions, strict=True)]) > 0.9
    assert len(set(ours.predictions)) > 12


@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("lead-sentence", "Rain fell."),
        ("lead-3-sentences", "Rain fell. It fell on Leeds! Was it cold?"),
        ("first-20-words", "Rain fell. It fell on Leeds! Was it cold? Yes. " + " ".join(["word"] * 10)),
    ],
)
def test_baselines_of_texts(name, summary):
    """Their first line is text, not a name."""
    assert baselines(load_study("xsum"))[name](NEWS) == summary


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("the old bridge closed on day {}", "officials met {} times", "English"),
        ("Иван приехал в город {} мая", "он уехал {} июня", "Unicode"),
    ],
)
def test_references_are_scored_by_their_own_lines(tmp_path, monkeypatch, capsys, first, second, words):
    """Through a table's file: as ``rouge_score`` scores the lines that stand there, against summaries of one line."""
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    lines = [(first.format(i), second.format(i)) for i in range(60)]
    rows = [{"document": f"{b} {a}", "summary": f" {a}\r\n\n{b} \n"} for a, b in lines]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tokenizer = train_tokenizer(["a few words"], 270)
    tiny_bart((1, 1), len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("distill_utils.evaluation.evaluate.summarize", lambda _, __, documents, **___: list(documents))
    overrides = {
        "name": "lines",
        "corpus.path": "rows.jsonl",
        "corpus.max_source_tokens": 32,
        "corpus.max_target_tokens": 16,
    }
    sets = [text for name, value in overrides.items() for text in ("--set", f"{name}={value}")]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "model", "smoke", *sets]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("of Unicode words, without stems\n") == (words == "Unicode")

    corpus = Prepared(load_study("smoke", overrides | {"corpus.path": str(tmp_path / "rows.jsonl")})).corpus
    given = {f"{b} {a}": f"{a}\n{b}" for a, b in lines}
    assert corpus["test"]["summary"][:] == [given[d].replace("\n", " ") for d in corpus["test"]["document"]]
    scorer = RougeScorer(["rougeLsum"], tokenizer=word_tokenizer(words))
    (found,) = (tmp_path / "runs" / "lines" / "evaluations").rglob("evaluation.json")
    wanted = [
        100 * scorer.score(given[text], "\n".join(sentences(text)))["rougeLsum"].fmeasure
        for text in corpus["test"]["document"]
    ]
    assert json.loads(found.read_text())["scores"]["rougeLsum"] == wanted and min(wanted) > 80


@pytest.mark.parametrize(
    ("written", "warned"),
    [
        ("Rain closed the bridge.", False),
        ("Nothing of the kind.", True),  # below the first sentence
        ("The bridge in Leeds. It is old. Rain closed the bridge. More rain is said to be coming on Monday.", True),
    ],
)
def test_a_teacher_is_warned_of_by_rouge_and_by_length(written, warned):
    """Sentences copied in plenty may score well enough; their length tells."""
    rows = Dataset.from_dict(
        {"document": ["The old bridge. Rain closed it."] * 3, "summary": ["Rain closed the bridge."] * 3}
    )
    checked = _checked(load_study("xsum"), rows, [written] * 3, "English")
    assert bool(checked["warning"]) == warned
    assert checked["rows"] == 3 and checked["reference_words"] == 4


def test_novel_ngrams_by_hand():
    pairs = Dataset.from_dict({"document": ["the cat sat on the mat"], "summary": ["A cat sat down"]})
    assert novel_ngrams(pairs, 1) == 50.0  # a, down
    assert novel_ngrams(pairs, 2) == pytest.approx(200 / 3)  # of a cat, cat sat, sat down only one is there
    assert novel_ngrams(pairs, 4) == 100.0
    assert novel_ngrams(pairs, 9) == 0.0


@pytest.mark.skipif(not (ROOT.parent / "shared" / "xsum").is_dir(), reason="XSum's rows are not here")
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_novel_ngrams_of_real_xsum_rows_are_near_the_published_ones(n):
    """600 rows and another tokenization: words 3.5 points lower, the longer ones within 2.5."""
    rows = concatenate_datasets(load_dataset(str(ROOT.parent / "shared" / "xsum")).values())
    assert novel_ngrams(rows, n) == pytest.approx(XSUM_NOVEL_NGRAMS[n], abs=4)


def test_what_rouge_does_not_say_by_hand():
    pairs = Dataset.from_dict({"document": ["a cat sat there", "x y"], "summary": ["a cat sat", "y"]})
    found = describe_texts(["a cat a cat a cat", "y "], pairs, ["a cat", "z"])
    assert found["length_ratio"] == 7 / 4
    assert found["novel_bigrams"] == 40.0, "cat a, twice, of five"
    assert found["repeated_bigrams"] == 60.0, "three of five stood there before"
    assert found["reference_share"] == 50.0
    assert found["teacher_agreement"] == pytest.approx(50 * (2 * (2 / 6) * 1 / (2 / 6 + 1)))
    assert "teacher_agreement" not in describe_texts(["a"], pairs.select([0]))
