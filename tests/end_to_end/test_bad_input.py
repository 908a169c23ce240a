"""Wrong data, checkpoints, study files, names and machines: the command says in one line what is wrong and how to mend it, exits with 2,
and goes on with nothing that it was not given. Wrong arguments and settings are in test_study.py.
"""

import csv
import errno
import gzip
import importlib
import io
import json
import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

import distill_utils
from distill_utils import cli
from distill_utils.data.corpus import load_corpus
from distill_utils.data.splits import SPLITS
from distill_utils.data.tokenization import LONG, beginnings
from distill_utils.models import backends, drafting, export
from distill_utils.models import checkpoint as checkpoint_module
from distill_utils.models.bart import train_tokenizer
from distill_utils.studies import loading
from distill_utils.studies.loading import load_study
from distill_utils.system.paths import ROOT
from tests.conftest import tiny_bart

TEACHER = "models/docstrings_teacher"
NAME = "test_bad_input"
RUN = ROOT / "runs" / NAME
COLUMNS = {"corpus.document": "body", "corpus.summary": "title"}


@pytest.fixture(autouse=True)
def as_the_command_does():
    """The libraries say errors only, and nothing is left of a test."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)
    for path in (RUN, ROOT / "figures" / NAME):
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def overrides(settings):
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def refused(capsys, arguments, *parts):
    """The command exits with 2 and says one line, which has all of ``parts`` in it."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    error = capsys.readouterr().err
    lines = [line.rpartition("\r")[2] for line in error.split("\n")]
    lines = [
        line for line in lines if line.strip() and not re.match(r"Generating \w+ split: ", line)
    ]  # bars of datasets
    assert code == 2, error
    assert len(lines) == 1 and lines[0].startswith("distill: "), lines
    assert "Traceback" not in error and lines[0].isprintable()
    for part in parts:
        assert part in lines[0], lines[0]
    return lines[0]


# -- data files -----------------------------------------------------------------------------------------------

ROWS = [{"body": f"Document {i} says {i * 7}", "title": f"title {i * 13}"} for i in range(60)]


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(*rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["body", "title"], *(row.values() for row in rows)])
    return text.getvalue()


def as_parquet(*rows):
    content = io.BytesIO()
    pandas.DataFrame(rows).to_parquet(content)
    return content.getvalue()


GOOD, GOOD_CSV = jsonl(*ROWS), table(*ROWS)
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
    f"  - {{split: {split}, path: {split}.jsonl}}\n" for split in ("train", "dev", "validation")
)
ACCENTS = {"body": "déjà vu", "title": "été"}
#: Name of a file, or names of a folder's files, and contents; what the line says.
BAD_DATA = [
    ({"a.jsonl": ""}, ["a.jsonl is empty", "needs rows with a document and a summary"]),
    ({"a.csv": ""}, ["a.csv is empty"]),
    ({"a.csv": "body,title\n"}, ["a.csv has no rows below its header"]),
    ({"a.parquet": ""}, ["a.parquet is empty"]),
    ({"a.jsonl": jsonl(ROWS[0])}, ["no validation pairs", "1 rows have both sides", "add more such rows"]),
    ({"a.csv": table(ROWS[0])}, ["no validation pairs", "add more such rows"]),
    ({"a.csv": table(*ROWS, ACCENTS).encode("latin-1")}, ["a.csv, line 62, is not UTF-8 text", "save the file as UTF-8"]),
    (
        {"a.jsonl": (GOOD + '{"body": "déjà vu", "title": "x"}\n').encode("latin-1")},
        ["a.jsonl, line 61, is not UTF-8 text", "save the file as UTF-8"],
    ),
    ({"a.csv": GOOD_CSV.encode("utf-16")}, ["a.csv, line 1, is not UTF-8 text"]),
    ({"a.jsonl": GOOD.encode("utf-16")}, ["a.jsonl, line 1, is not UTF-8 text"]),
    ({"a.csv": GOOD_CSV + 'a,"b, c"\n"open,x\nmore,x\n'}, ["a.csv, line 63", "quoted text that starts there", "double the quotes"]),
    ({"a.csv": GOOD_CSV + "only a document\n"}, ["a.csv, line 62, has 1 fields, but the header has 2"]),
    ({"a.csv": GOOD_CSV + "a,b,c,d\n"}, ["a.csv, line 62, has 4 fields, but the header has 2", "double quotes"]),
    ({"a.csv": table({"body": "two\nlines", "title": "x"}, *ROWS) + "a,b,c\n"}, ["a.csv, line 64, has 3 fields"]),
    ({"a.csv": GOOD_CSV.replace(",", ";")}, ["has the columns: body;title"]),
    ({"a.jsonl": GOOD + "{broken\n" + GOOD}, ["a.jsonl, line 61, is not JSON", "character 2"]),
    ({"a.jsonl": GOOD + '{"body": "a\0b", "title": "x"}\n'}, ["a.jsonl, line 61, is not JSON"]),
    ({"a.jsonl": GOOD + '{"body": "a \\ud800", "title": "x"}\n'}, ["a.jsonl, line 61, has a lone surrogate"]),
    ({"a.jsonl": GOOD + '{"body":' + "[" * 10_000 + "\n"}, ["a.jsonl, line 61, is not JSON", "nested too deep"]),
    ({"a.jsonl": GOOD + '["a", "b"]\n'}, ["a.jsonl, line 61, is not an object"]),
    ({"a.jsonl": '"text"\n' * 60}, ["a.jsonl, line 1, is not an object"]),
    ({"a.json": json.dumps(ROWS)[:-20]}, ["a.json is not a valid JSON list: line 1, character"]),
    ({"a.json": json.dumps({"data": ROWS})}, ["'corpus.document' is 'body'", "has the columns: data"]),
    ({"a.csv": GOOD_CSV.replace("title", "headline", 1)}, ["'corpus.summary' is 'title'", "has the columns: body, headline"]),
    ({"a.jsonl": GOOD.replace('"body"', '"text"')}, ["'corpus.document' is 'body'", "has the columns: text, title"]),
    ({"a.jsonl": jsonl(*({"body": i, "title": f"a {i}"} for i in range(60)))}, ["'body'", "has no words", "corpus.document"]),
    ({"a.csv": table(*({"body": "a", "title": i / 7} for i in range(60)))}, ["'title'", "has no words", "corpus.summary"]),
    ({"a.jsonl": jsonl(*({"body": ["a"], "title": f"b {i}"} for i in range(60)))}, ["'body' contains lists", "another column"]),
    ({"a.jsonl": jsonl(*({"body": " ", "title": "b"} for _ in ROWS))}, ["no train pairs", "0 rows have both sides"]),
    ({"a.parquet": as_parquet(*ROWS)[:-100]}, ["a.parquet", "not a complete Parquet file", "copy or create it again"]),
    ({"a.parquet": GOOD}, ["a.parquet", "not a complete Parquet file"]),
    (
        {"a/train.jsonl": GOOD, "a/test.jsonl": jsonl(ROWS[0])},
        ["leaves one test pair", "intervals need at least two"],
    ),
    ({"a.txt": "text"}, ["a.txt has an unknown format: it must end in .jsonl"]),
    ({"a/notes.md": "text"}, ["a has no data files", ".jsonl"]),
    ({"a/train.csv": GOOD_CSV, "a/test.csv": GOOD_CSV + "a,b,c\n"}, ["a/test.csv, line 62, has 3 fields"]),
    ({"a/one.jsonl": GOOD, "a/two.csv": GOOD_CSV}, ["a has files that end in .csv and .jsonl", "keep one kind"]),
    ({"a/data.csv": GOOD_CSV, "a/data.csv.gz": gzip.compress(GOOD_CSV.encode(), mtime=0)}, ["data.csv.gz are one name", "keep one"]),
    ({"a/train.jsonl": GOOD, "a/test.jsonl": GOOD + "{broken\n"}, ["a/test.jsonl, line 61, is not JSON"]),
    ({"a/train.jsonl": GOOD, "a/test.jsonl": ""}, ["a/test.jsonl is empty"]),
    (
        {"a/README.md": CARD + "---\n", "a/train.jsonl": GOOD, "a/dev.jsonl": GOOD, "a/validation.jsonl": GOOD},
        ["has the splits dev and validation, which are the same split", "keep one"],
    ),
    ({"a/train.jsonl": GOOD, "a/test.jsonl": GOOD.replace("title", "other")}, ["'corpus.summary' is 'title'", "a/test.jsonl has the columns: body, other"]),
]  # fmt: skip


def written(folder, files):
    """Write files; returns the one that there is, or the folder that they are in."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / next(iter(files)).split("/")[0]


def evaluation(path, **settings):
    return ["evaluate", TEACHER, "smoke", *overrides({"name": NAME, "corpus.path": path, **COLUMNS, **settings})]


@pytest.fixture(scope="module")
def teacher():
    return checkpoint_module.load_model(ROOT / TEACHER)


@pytest.fixture
def loaded(monkeypatch, teacher):
    """The shipped teacher is not loaded again: what is wrong is something else."""
    for module in (checkpoint_module, backends, drafting):
        monkeypatch.setattr(module, "load_model", lambda _: teacher)


@pytest.mark.parametrize(("files", "parts"), BAD_DATA, ids=[" ".join(parts)[:70] for _, parts in BAD_DATA])
def test_data_that_cannot_be_a_corpus(loaded, tmp_path, capsys, files, parts):
    refused(capsys, evaluation(written(tmp_path, files)), *parts)


@pytest.mark.parametrize("command", [["train", "smoke", "--method", "sft"], ["run", "smoke"]])
def test_every_command_that_reads_a_corpus_says_it(tmp_path, capsys, command):
    path = written(tmp_path, {"a.jsonl": GOOD + "{broken\n"})
    settings = {"name": NAME, "corpus.path": path, "teacher.path": TEACHER, "distillation.student": "6-3"}
    if command[0] == "run":
        settings["teacher.path"] = "[]"  # random weights, which are made of the corpus before anything else
        settings["distillation.student"] = "2-1"
    refused(capsys, [*command, *overrides(settings)], "a.jsonl, line 61, is not JSON")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"corpus.path": "no\0where"}, ["no such file or folder"]),
        ({"corpus.path": "x" * 5000}, ["File name too long", "give a shorter name"]),
        ({"corpus.configuration": "../x"}, ["'corpus.configuration' should be a name, not a path"]),
        ({"corpus.configuration": "/etc"}, ["'corpus.configuration' should be a name, not a path"]),
        ({"corpus.configuration": "a\\b"}, ["'corpus.configuration' should be a name, not a path"]),
        ({"corpus.configuration": ".."}, ["'corpus.configuration' should be a name, not a path"]),
        ({"corpus.summary": "body"}, ["'corpus.summary' should be another column"]),
        ({"corpus.path": "nobody/nothing"}, ["the dataset nobody/nothing", "HF_HUB_OFFLINE is set", "hf download"]),
    ],
)
def test_settings_of_a_corpus_that_cannot_be(loaded, tmp_path, capsys, settings, parts):
    given = evaluation(written(tmp_path, {"a.jsonl": GOOD}), **settings)
    refused(capsys, given, *parts)


def test_one_test_pair_of_docstrings_is_refused_as_one_of_a_file(loaded, capsys):
    settings = {"name": NAME, "corpus.max_test": 1}
    refused(capsys, ["evaluate", TEACHER, "smoke", *overrides(settings)], "the corpus leaves one test pair")


def pairs(path):
    """Per split, the corpus that a command would read of a file."""
    whole = {f"corpus.max_{split}": 0 for split in SPLITS}
    made = load_study("smoke", {"name": NAME, "corpus.path": str(path), **COLUMNS, **whole})
    corpus = load_corpus(made)
    return [row for split in SPLITS for row in corpus[split]], json.loads((RUN / "corpus/statistics.json").read_text())


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_mark_at_a_files_beginning_is_no_part_of_column_or_text(tmp_path, name):
    content = GOOD_CSV if name == "a.csv" else GOOD
    rows, _ = pairs(written(tmp_path, {name: content.encode("utf-8-sig")}))
    assert len(rows) == 60 and "\ufeff" not in json.dumps(rows, ensure_ascii=False)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_nul_in_a_text_is_read_as_a_space(tmp_path, name):
    row = {"body": "before\0after", "title": "here\0there"}
    make = {"a.csv": table, "a.jsonl": jsonl, "a.parquet": as_parquet}[name]
    rows, _ = pairs(written(tmp_path, {name: make(*ROWS, row)}))
    assert ("before after", "here there") in [(row["document"], row["summary"]) for row in rows]


def test_a_summary_longer_than_its_document_is_kept_and_counted(loaded, tmp_path, capsys):
    long = {"body": "short", "title": "a title that says more than there is"}
    path = written(tmp_path, {"a.jsonl": jsonl(*ROWS, long)})
    assert cli.main(evaluation(path)) == 0
    assert "longer than" not in capsys.readouterr().err
    rows, statistics = pairs(path)
    assert len(rows) == 61 and statistics["steps"]["kept: summary longer than its document"] == 1


def test_columns_the_wrong_way_round_are_warned_of(loaded, tmp_path, capsys):
    path = written(tmp_path, {"a.jsonl": GOOD})
    assert cli.main(evaluation(path, **{"corpus.document": "title", "corpus.summary": "body"})) == 0
    form, warning = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line][::-1]
    assert "60 of 60 summaries" in warning and "swapped?" in warning
    assert "records another form of documents than this study's: line_breaks = True" in form


def test_no_two_pairs_have_one_name_whatever_names_were_given(tmp_path):
    names = ["a", "a", "a#2", "a", "", "a#2"] * 10
    rows, _ = pairs(
        written(tmp_path, {"a.jsonl": jsonl(*({**row, "id": n} for row, n in zip(ROWS, names, strict=True)))})
    )
    assert len({row["id"] for row in rows}) == len(rows) == 60


def test_files_that_an_editor_keeps_are_no_data(tmp_path):
    files = {"a/data.csv": GOOD_CSV, "a/.ipynb_checkpoints/train.jsonl": GOOD, "a/.~lock.x.jsonl": ""}
    assert len(pairs(written(tmp_path, files))[0]) == 60


def test_a_full_disk_is_not_the_datas_fault(loaded, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distill_utils.data.tables.Dataset.from_generator", full)
    refused(capsys, evaluation(written(tmp_path, {"a.csv": GOOD_CSV})), "the disk is full")


def test_pairs_of_one_id_are_told_apart_and_said(loaded, tmp_path, capsys):
    path = written(tmp_path, {"a.jsonl": jsonl(*({**row, "id": i // 2} for i, row in enumerate(ROWS)))})
    assert cli.main(evaluation(path)) == 0
    assert "30 duplicate ids" in next(line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    rows, _ = pairs(path)
    assert {row["id"] for row in rows} == {f"{i}{mark}" for i in range(30) for mark in ("", "#2")}


def test_a_row_without_an_id_gets_one_of_its_own(tmp_path):
    path = written(
        tmp_path, {"a.jsonl": jsonl(*({**row, "id": f"r{i}" if i % 2 else None} for i, row in enumerate(ROWS)))}
    )
    rows, _ = pairs(path)
    assert len({row["id"] for row in rows}) == 60 and "None" not in {row["id"] for row in rows}


# -- texts to summarize -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", "", ["there is nothing to summarize"]),
        ("a.jsonl", "\n", ["there is nothing to summarize"]),
        ("a.txt", "déjà vu".encode("latin-1"), ["a.txt is not UTF-8 text", "save the file as UTF-8"]),
        ("a.txt", "a text".encode("utf-16"), ["a.txt is not UTF-8 text"]),
        ("a.txt", "a text".encode("utf-16-le"), ["a.txt contains NUL bytes", "save it as UTF-8"]),
        ("a.txt", "a\0text", ["a.txt contains NUL bytes"]),
        ("a.jsonl", '{"document": "a text"}'.encode("utf-16"), ["a.jsonl, line 1, is not UTF-8 text"]),
        ("a.jsonl", '{"document": "a text"}\n{broken\n', ["a.jsonl, line 2, is not JSON"]),
        ("a.jsonl", "[" * 10_000, ["a.jsonl, line 1, is not JSON"]),
        ("a.jsonl", "[1]", ["a.jsonl, line 1, is not an object"]),
        ("a.jsonl", '{"text": "a"}', ["line 1, has no 'document' (it has text)", "name the text's key with --column"]),
        ("a.jsonl", '{"document": 3}', ["line 1, has a number or a truth value instead of text in 'document'"]),
        ("a.jsonl", '{"document": ["a"]}', ["line 1, has a list instead of text in 'document'"]),
        ("a.jsonl", '{"document": "half a \\ud800 character"}', ["line 1, has a lone surrogate"]),
        ("a.ndjson", '{"document": "a", "document": "b"}', ["a.ndjson, line 1, has 'document' more than once"]),
        ("a.jsonl.gz", "no gzip", ["a.jsonl.gz cannot be decompressed"]),
        ("a.csv", "document\na text\n", ["a.csv is neither a text nor .jsonl"]),
    ],
)
def test_texts_that_cannot_be_summarized(loaded, tmp_path, capsys, name, content, parts):
    path = written(tmp_path, {name: content})
    capsys.readouterr()
    empty = "nothing to summarize" in parts[0] and name == "a.txt"
    if empty:  # which text it was is said before
        assert cli.main(["summarize", TEACHER, str(path)]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"distill: {parts[0]}"
    else:
        refused(capsys, ["summarize", TEACHER, path], *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("", ["cannot be read"]),
        (str(ROOT), ["cannot be read: Is a directory"]),
        ("/nowhere", ["/nowhere cannot be read: No such file"]),
        ("no\0where", ["is not a valid file name"]),
        ("x" * 5000, ["File name too long"]),
        ("a\x1b[2Jb\nc", ["cannot be read"]),
    ],
)
def test_files_that_cannot_be_summarized(capsys, name, parts):
    refused(capsys, ["summarize", TEACHER, name], *parts)


def summarized(capsys, path):
    assert cli.main(["summarize", TEACHER, str(path)]) == 0
    return capsys.readouterr().out


def test_a_mark_at_the_beginning_changes_no_summary(loaded, tmp_path, capsys):
    paths = [written(tmp_path, {"a.txt": "hello there"}), written(tmp_path, {"b.txt": b"\xef\xbb\xbfhello there"})]
    paths.append(written(tmp_path, {"c.jsonl": '{"document": "hello there"}'.encode("utf-8-sig")}))
    assert len({summarized(capsys, path) for path in paths}) == 1


def test_what_a_document_may_hold_is_read_as_in_a_corpus(loaded, tmp_path, capsys):
    paths = [
        written(tmp_path, {f"{i}.jsonl": json.dumps({"document": f"two{mark}words"})}) for i, mark in enumerate("\0 ")
    ]
    assert len({summarized(capsys, path) for path in paths}) == 1


@pytest.fixture
def tokenized(monkeypatch):
    """How many characters were given to a tokenizer at most at once."""
    most, real = [0], PreTrainedTokenizerBase.__call__

    def call(self, text=None, *args, **kwargs):
        given = [text] if isinstance(text, str) else text or []
        most[0] = max(most[0], *map(len, given), 0)
        return real(self, text, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", call)
    return most


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_of_a_document_of_10_MB_only_the_beginning_is_tokenized(loaded, tokenized, tmp_path, capsys, name):
    text = "The quick brown fox jumps over the lazy dog. " * 230_000
    long = summarized(capsys, written(tmp_path, {name: text if name == "a.txt" else json.dumps({"document": text})}))
    assert 0 < tokenized[0] <= 2 * LONG
    assert long == summarized(capsys, written(tmp_path, {"b.txt": text[:5000]}))


def test_a_document_of_10_MB_is_a_row_like_others(loaded, tokenized, tmp_path):
    row = {"body": "The quick brown fox. " * 500_000, "title": "title 13"}
    assert cli.main(evaluation(written(tmp_path, {"a.jsonl": jsonl(*ROWS, row)}))) == 0
    assert 0 < tokenized[0] <= 2 * LONG


@pytest.mark.parametrize(
    "text", ["word " * LONG, "x" * 3 * LONG, " " * 3 * LONG + "x", "!?" * LONG, "\n" * 2 * LONG + "ab", "é" * 2 * LONG]
)
def test_what_is_cut_before_tokenizing_is_cut_after_it_otherwise(text):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / TEACHER)
    (cut,) = beginnings([text], tokenizer, 128)
    whole, short = (tokenizer(t, max_length=128, truncation=True)["input_ids"] for t in (text, cut))
    assert len(cut) < len(text) and whole == short


def test_what_a_tokenizer_takes_together_is_not_cut_apart():
    """As one that makes one token of any number of spaces, or that keeps the end of a text."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / TEACHER)
    text = "word " * LONG
    tokenizer.truncation_side = "left"
    assert beginnings([text], tokenizer, 128) == [text]

    class Together:
        truncation_side, get_vocab = "right", tokenizer.get_vocab

        def __call__(self, text, max_length, truncation):
            return {"input_ids": tokenizer(" ".join(text.split()))["input_ids"][:max_length]}

    spaces = " " * 2 * LONG + "end"
    whole, cut = beginnings([spaces, text], Together(), 128)
    assert whole == spaces and len(cut) < len(text)


# -- checkpoints ------------------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").write_text("")
from transformers import BartConfig, BartForConditionalGeneration, BartTokenizer
class Config(BartConfig):
    model_type = "mine"
class Model(BartForConditionalGeneration):
    config_class = Config
class Tokenizer(BartTokenizer):
    pass
"""
AUTO_MAP = {"AutoConfig": "mine.Config", "AutoModelForSeq2SeqLM": "mine.Model"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer(["a few words to learn from"] * 3, 270)
    model = tiny_bart((2, 2), 270)
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def having(name, **changed):
    """Change a JSON file of a checkpoint; what is None is taken out."""

    def change(folder):
        content = json.loads((folder / name).read_text()) | changed
        (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def holding(name, content):
    return lambda folder: (folder / name).write_bytes(content.encode())


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def half(name):
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def lacking(*parts):
    """Take the tensors out whose names have one of ``parts`` in them."""

    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return change


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_larger_tokenizer(folder):
    train_tokenizer(["a few words to learn from, and some others beside them"] * 3, 290).save_pretrained(folder)


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"model.shared.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def of_its_own_kind(folder):
    (folder / "mine.py").write_text(CODE)
    having("config.json", model_type="mine", auto_map=AUTO_MAP)(folder)


BAD_CHECKPOINTS = {
    "pickle": (pickled, ["no *.safetensors file", "can run code", "distill convert"]),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), ["has no tokenizer", "save_pretrained"]),
    "no vocabulary": (without("tokenizer.json"), ["has no tokenizer (tokenizer.json"]),
    "half a tokenizer": (half("tokenizer.json"), ["tokenizer.json is not JSON", "copy it again"]),
    "no tokenizer's JSON": (holding("tokenizer.json", "{}"), ["cannot be loaded"]),
    "tokenizer's config": (holding("tokenizer_config.json", "{"), ["tokenizer_config.json is not JSON"]),
    "larger tokenizer": (with_larger_tokenizer, ["tokens in its tokenizer, but 270 in its model", "own tokenizer"]),
    "vocabulary of the config": (having("config.json", vocab_size=300), ["(1, 270)", "config.json requires (1, 300)"]),
    "half of the weights": (half("model.safetensors"), ["weights in", "damaged or incomplete", "copy them again"]),
    "no weights": (holding("model.safetensors", ""), ["damaged or incomplete", "copy them again"]),
    "a pointer to weights": (holding("model.safetensors", "version https://git-lfs"), ["damaged or incomplete"]),
    "a lost shard": (sharded, ["cannot be loaded", "model-00002-of-00002.safetensors"]),
    "a lost tensor": (lacking("decoder.layers.1.fc1.weight"), ["lack 1 tensors", "model.decoder.layers.1.fc1.weight"]),
    "a lost layer": (lacking("encoder.layers.0."), ["the weights in", "lack 16 tensors", "a file is missing"]),
    "lost embeddings": (lacking("shared", "embed_tokens", "lm_head"), ["the weights in", "lack"]),
    "more layers": (having("config.json", decoder_layers=3), ["lack 26 tensors", "decoder.layers.2."]),
    "fewer layers": (having("config.json", decoder_layers=1), ["more layers than its config.json", "decoder.layers.1."]),
    "wider": (having("config.json", d_model=32), ["config.json requires", "different models"]),
    "broken config": (holding("config.json", '{"model_type": '), ["config.json is not JSON", "copy it again"]),
    "empty config": (holding("config.json", ""), ["config.json is not JSON"]),
    "no object": (holding("config.json", "[]"), ["config.json is not a JSON object"]),
    "no config": (without("config.json"), ["there is no checkpoint in", "it has no config.json"]),
    "only a decoder": (having("config.json", model_type="gpt2"), ["is a gpt2, which is not an encoder–decoder"]),
    "another kind": (having("config.json", model_type="t5"), ["lack", "tensors that its config.json requires"]),
    "an unknown kind": (having("config.json", model_type="x"), ["of the type 'x'", "use another type, such as bart"]),
    "no kind": (having("config.json", model_type=None), ["of the type None (model_type in config.json)"]),
    "a width that is a word": (having("config.json", d_model="wide"), ["cannot be loaded", "d_model"]),
    "a negative width": (having("config.json", d_model=-16), ["cannot be loaded", "negative dimension"]),
    "broken generation": (holding("generation_config.json", "{"), ["generation_config.json is not JSON"]),
    "no beams": (having("generation_config.json", num_beams=0), ["generation config in", "num_beams = 0; it should be 1 or more"]),
    "too long": (having("generation_config.json", max_new_tokens=99), ["max_new_tokens = 99; it should be 1 to 32"]),
    "no such token": (having("generation_config.json", decoder_start_token_id=999), ["= 999; it should be 0 to 269"]),
    "code of its own": (of_its_own_kind, ["type 'mine'", "its own code (auto_map) is never run"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_checkpoints_that_cannot_be_used(copied, tmp_path, capsys, case):
    change, parts = BAD_CHECKPOINTS[case]
    change(copied)
    refused(capsys, ["summarize", copied, written(tmp_path, {"a.txt": "a few words"})], str(copied), *parts)
    assert not list(copied.glob("ran"))


@pytest.mark.parametrize("draft", [False, True])
def test_what_a_checkpoint_leaves_open_is_said_in_one_line(copied, tmp_path, capsys, draft):
    text = written(tmp_path, {"a.txt": "a few words"})
    more = ["--draft", str(copied)] if draft else []
    having("generation_config.json", max_new_tokens=20, num_beams=1)(copied)
    assert cli.main(["summarize", str(copied), str(text), *more]) == 0
    expected = capsys.readouterr()
    assert not expected.err
    having("generation_config.json", max_new_tokens=None)(copied)
    having("config.json", task_specific_params={"summarization": {"prefix": "summarize: "}})(copied)
    assert cli.main(["summarize", str(copied), str(text), *more]) == 0
    said = capsys.readouterr()
    length, prefix = said.err.splitlines()
    assert said.out == expected.out and "sets no maximum length, so summaries end after 20 tokens" in length
    assert "asks for the prefix 'summarize: '; write it before each document" in prefix
    assert cli.main(["summarize", str(copied), str(written(tmp_path, {"b.txt": "summarize: a few"})), *more]) == 0
    assert "prefix" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["evaluate"], ["export"]])
def test_every_command_that_reads_a_checkpoint_says_it(copied, tmp_path, capsys, monkeypatch, command):
    lacking("decoder.layers.1.fc1.weight")(copied)
    to = ["smoke", *overrides({"name": NAME})] if command == ["evaluate"] else [tmp_path / "export"]
    monkeypatch.setattr(export, "import_ctranslate2", lambda: None)  # it is optional, and not come to
    refused(capsys, [*command, copied, *to], "lack 1 tensors")
    assert not (tmp_path / "export").exists() and not RUN.exists()


def test_a_checkpoints_code_is_never_run_and_nobody_is_asked_whether_it_may(copied, tmp_path, capsys, monkeypatch):
    """Where the model's kind is one that transformers has, its own code is not needed."""
    text = written(tmp_path, {"a.txt": "a few words"})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    expected = summarized_by(copied, text, capsys)
    (copied / "mine.py").write_text(CODE)
    (copied / "custom_generate").mkdir()
    (copied / "custom_generate" / "generate.py").write_text(CODE)
    having("config.json", auto_map=AUTO_MAP)(copied)
    having("tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Tokenizer", None]})(copied)
    assert summarized_by(copied, text, capsys) == expected
    having("tokenizer_config.json", tokenizer_class="Tokenizer")(copied)
    cli.main(["summarize", str(copied), str(text)])
    assert not list(copied.rglob("ran"))


def summarized_by(checkpoint, text, capsys):
    assert cli.main(["summarize", str(checkpoint), str(text)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("", ["checkpoint's name is empty"]),
        ("/nowhere", ["there is no checkpoint in /nowhere", "neither a folder nor an id"]),
        ("no\0where", ["there is no checkpoint in no[U+0000]where"]),
        ("x" * 5000, ["File name too long", "give a shorter name"]),
        ("../..", ["there is no checkpoint in ../..: it has no config.json"]),
        ("README.md", ["there is no checkpoint in README.md"]),
        ("nobody/..", ["nobody/.. is neither a folder nor an id on the Hub"]),
        ("nobody/nаme", ["there is no checkpoint in nobody/nаme"]),  # the a is Cyrillic
        ("nobody/nothing", ["the model nobody/nothing", "HF_HUB_OFFLINE is set", "hf download nobody/nothing"]),
    ],
)
def test_checkpoints_that_are_not_there(capsys, name, parts):
    refused(capsys, ["evaluate", name, "smoke", *overrides({"name": NAME})], *parts)


# -- study files ------------------------------------------------------------------------------------------------

OTHERS = "the studies are: cnn_dailymail, docstrings, docstrings_ablations, docstrings_budgets, docstrings_full, docstrings_half, docstrings_shapes, full_size, mine, smoke, xsum"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write the study file ``mine.toml`` beside the shipped ones."""
    folder = Path(shutil.copytree(loading.STUDIES, tmp_path / "studies"))
    monkeypatch.setattr(loading, "STUDIES", folder)

    def write(content):
        (folder / "mine.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / "mine.toml"

    return write


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("title = \n", ["mine.toml is not valid TOML", "line 1, column"]),
        ('title = "a"\ntitle = "b"\n', ["mine.toml is not valid TOML", "line 2"]),
        ('title = "é"'.encode("latin-1"), ["mine.toml is not UTF-8 text; save it as UTF-8"]),
        ('title = "a"'.encode("utf-16"), ["mine.toml is not UTF-8 text"]),
        ("", ["setting 'title' is missing"]),
        ('like = "nowhere"\n', ["mine.toml is like 'nowhere', which does not exist", "smoke"]),
        ('like = "../smoke"\n', ["mine.toml is like '../smoke', which does not exist"]),
        ("like = 3\n", ["mine.toml is like 3, which does not exist"]),
        ('like = ["smoke"]\n', ["mine.toml is like ['smoke'], which does not exist"]),
        ('like = ""\n', ["mine.toml is like '', which does not exist"]),
        ('like = "mine"\n', ["mine.toml is like 'mine', which leads back to itself"]),
        ('title = "a"\nlike = "smoke"\n[corpus]\npth = "x"\n', ["'corpus.pth'; did you mean 'corpus.path'?"]),
        ('title = "a"\ncorpus = 3\n', ["'corpus' should be a section of settings, not 3"]),
        ("title = 3\n", ["setting 'title' should be a valid string, not 3"]),
        ('title = "a"\nname = "../x"\n', ["'name' should be at most 100"]),
    ],
)
def test_study_files_that_cannot_be_read(mine, capsys, content, parts):
    mine(content)
    refused(capsys, ["report", "mine"], *parts)
    refused(
        capsys, ["report", "smoke", "--set", "seed=-1"], "'seed' should be greater than or equal to 0"
    )  # other studies can be used
    with pytest.raises(SystemExit) as helped:
        cli.main(["run", "--help"])
    assert helped.value.code == 0


def test_two_study_files_that_are_like_each_other(mine, capsys):
    mine('like = "other"\n').with_name("other.toml").write_text('like = "mine"\n')
    refused(capsys, ["report", "mine"], "other.toml is like 'mine', which leads back to itself")


def test_a_folder_in_place_of_a_study_file(mine, capsys):
    mine("").unlink()
    (loading.STUDIES / "mine.toml").mkdir()
    refused(capsys, ["report", "mine"], "mine.toml cannot be read: Is a directory")


def test_a_study_file_may_have_a_mark_and_a_title_any_characters(mine, capsys):
    mine('\ufefftitle = "100 % of it"\nlike = "smoke"\n')
    refused(capsys, ["report", "mine"], "mine has no results yet")
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert "100 % of it" in " ".join(capsys.readouterr().out.split())


# -- names that could lead elsewhere ------------------------------------------------------------------------------

ELSEWHERE = [
    "../x", "/x", "a/b", "a\\b", "", ".", "..", "x\0", "x" * 300, "smoke\n", "x\n", "x y", "Smoke", "tést", "ѕmoke", "ｓmoke", "~", "x\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_run_cannot_be_named_out_of_its_folder(capsys, name):
    refused(
        capsys,
        ["run", "smoke", "--set", f"name={name}"],
        "setting 'name' should be at most 100 lower-case letters",
    )
    refused(capsys, ["report", name], f"there is no study {name!r}"[:60], "the studies are: cnn_dailymail")
    refused(capsys, ["train", "smoke", "--method", name], "there is no method", "the methods are")
    for folder in (ROOT, ROOT / "runs"):
        assert not [name for name in ("x", "b", "Smoke", "tést", "~", "x y") if (folder / name).exists()]


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "..", ".", "./..", "no\0where", "2-1\n", "２-１", "2-" + "9" * 90, "2-1/../x"]
)
def test_a_student_cannot_be_named_out_of_the_students_folder(monkeypatch, capsys, name):
    monkeypatch.setattr("distill_utils.run_study.warn_of_teacher", lambda _: None)  # which has nothing to do with it
    settings = overrides({"name": NAME, "teacher.path": TEACHER})
    refused(capsys, ["train", "smoke", *settings, "--method", "copy", "--student", name], "there is no checkpoint in")
    assert not list(RUN.glob("students/*"))


@pytest.mark.parametrize("ready", ["..", ".", "a b", "ﬀ\u202e", "...", "-rf", "a\nb"])
def test_a_ready_students_folder_is_one_name_under_students(ready):
    folder = load_study("smoke", {"name": NAME}).student_folder(f"somewhere/{ready}", "kd", 0)
    assert folder.parent.resolve() == (RUN / "students").resolve() == folder.resolve().parent
    assert re.fullmatch(r"[A-Za-z0-9._-]+", folder.name)


@pytest.mark.parametrize("name", ["../../x", "a/b/c", "a", "a/..", "a/b\n", "/a/b", "a/" + "b" * 200, "a/b\0", "a/ｂ"])
def test_a_repository_that_cannot_be(capsys, name):
    settings = overrides({"name": NAME})
    refused(capsys, ["train", "smoke", *settings, "--method", "sft", "--push-to-hub", name], "repository")


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", str(2**32)])
def test_a_seed_that_cannot_be(capsys, seed):
    refused(capsys, ["train", "smoke", "--method", "copy", "--seed", seed], "must be an integer from 0 to 4294967295")
    refused(capsys, ["run", "smoke", "--set", f"seed={seed}"], "setting 'seed'")


# -- the machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["run", "smoke"], ["train", "smoke", "--method", "copy"], ["evaluate", TEACHER, "smoke"]]
)
def test_a_file_stands_where_the_runs_folder_should_be(loaded, capsys, command):
    RUN.parent.mkdir(exist_ok=True)
    RUN.write_text("")
    refused(capsys, [*command, *overrides({"name": NAME})], str(RUN), "move")
    assert RUN.read_text() == ""


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    "command", [["run", "smoke"], ["train", "smoke", "--method", "copy"], ["evaluate", TEACHER, "smoke"]]
)
def test_a_folder_that_cannot_be_written(loaded, capsys, monkeypatch, command, number):
    made = Path.mkdir

    def mkdir(self, *arguments, **settings):
        if NAME in str(self):
            raise OSError(number, os.strerror(number), str(self))
        return made(self, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(capsys, [*command, *overrides({"name": NAME})], str(RUN), os.strerror(number), "writable")


@pytest.mark.parametrize(
    ("package", "version", "parts"),
    [
        ("torch", "2.1.0+cpu", ["torch 2.1.0+cpu is installed, and torch>=", "make setup, or pip install 'torch>="]),
        ("transformers", "4.40.0", ["transformers 4.40.0 is installed, and transformers", "pip install"]),
        ("transformers", "7.0.0", ["transformers 7.0.0 is installed, and transformers", "pip install"]),
        ("datasets", None, ["datasets is not installed, and datasets", "pip install"]),
    ],
)
def test_libraries_that_are_missing_or_of_another_time(capsys, monkeypatch, package, version, parts):
    real = metadata.version

    def installed(name):
        if name != package:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    refused(capsys, ["report", "smoke"], *parts)


def test_a_python_that_is_too_old(capsys, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    with pytest.raises(SystemExit) as stopped:
        importlib.reload(distill_utils)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("distill: Python 3.10 is too old: make setup PYTHON=")
