"""Corpora of the user's own: files, folders, what is dropped, how they are split."""

import datetime
import decimal
import json
import os
import re
from pathlib import Path

import pandas
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from distill_utils.data import tables
from distill_utils.data.corpus import corpus_key
from distill_utils.data.near_duplicates import leakage, overlap
from distill_utils.data.splits import SPLITS, split_of
from distill_utils.data.tables import content_key, pairs_fingerprint, read_pairs, references
from distill_utils.data.tokenization import cut_counts
from distill_utils.studies.loading import load_study
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from tests.helpers.properties import examples, lists

ROWS = [{"body": f" Document {i} says {i * 7}. ", "title": f"title {i * 13}"} for i in range(60)]
XSUM = ROOT.parent / "shared" / "xsum"


def settings(path, **overrides):
    given = {"corpus.path": str(path), "corpus.document": "body", "corpus.summary": "title"}
    return load_study("xsum", given | {f"corpus.{k}": v for k, v in overrides.items()}).corpus


def read(path, **overrides):
    return read_pairs(settings(path, **overrides), path.parent / "hub.json")


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    elif path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    else:
        pandas.DataFrame(rows).to_parquet(path)
    return path


def columns(corpus):
    return {split: list(zip(corpus[split]["document"], corpus[split]["summary"], strict=True)) for split in SPLITS}


@pytest.mark.parametrize("name", ["my.jsonl", "my.csv", "my.parquet"])
def test_one_file_is_split_by_a_hash_of_the_summary(tmp_path, name):
    corpus, statistics = read(write(tmp_path / name, ROWS))
    for split in SPLITS:
        assert corpus[split].column_names == ["id", "document", "summary"] and len(corpus[split]) > 0
        assert all(split_of(summary) == split for summary in corpus[split]["summary"])
    assert sum(map(len, corpus.values())) == statistics["rows"]["train"] == 60
    assert corpus["train"][0]["document"] == corpus["train"][0]["document"].strip()


def test_the_format_makes_no_difference(tmp_path):
    found = [read(write(tmp_path / name, ROWS))[0] for name in ("my.jsonl", "my.csv", "my.parquet")]
    assert len({pairs_fingerprint(corpus) for corpus in found}) == 1


def test_rows_with_an_empty_side_are_dropped_and_counted(tmp_path):
    rows = [*ROWS, {"body": None, "title": "x"}, {"body": " \n", "title": "y"}, {"body": "z", "title": ""}]
    corpus, statistics = read(write(tmp_path / "my.jsonl", rows))
    assert statistics["dropped"] == {"empty document": 2, "empty summary": 1}
    assert sum(map(len, corpus.values())) == 60


@pytest.mark.parametrize(
    ("count", "said"), [(3, ""), (60, "60 of 120 rows of .* are dropped: 60 with an empty summary")]
)
def test_many_dropped_rows_are_said(tmp_path, capsys, count, said):
    read(write(tmp_path / "my.jsonl", ROWS + [{"body": "a document", "headline": "x"}] * count))
    assert bool(re.search("are dropped", err := capsys.readouterr().err)) == bool(said) and re.search(said, err)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        (
            "a.tsv",
            r"first\nsecond\tx C:\\dir",
            r"1 of 61 texts in the column 'body' of \S+ have a backslash such as in \\n",
        ),
        ("a.csv", r"C:\\dir", r"such as in \\\\"),
        ("a.csv", r"10\,GeV in \alpha", ""),
        ("a.jsonl", r"\nu and \tau", ""),
    ],
)
def test_escapes_that_are_read_as_they_stand_are_said(tmp_path, capsys, name, row, said):
    rows = [*ROWS, {"body": row, "title": "x"}]
    path = write(tmp_path / name, rows) if name != "a.tsv" else tmp_path / name
    if name == "a.tsv":
        path.write_text(
            "".join(f"{row['body']}\t{row['title']}\n" for row in [{"body": "body", "title": "title"}, *rows])
        )
    for _ in range(2):  # the second time out of the cache
        corpus, _ = read(path)
        assert row in [text for part in corpus.values() for text in part["document"]]
        assert ("backslash" in (err := capsys.readouterr().err)) == bool(said) and re.search(said, err)


@pytest.mark.parametrize("mark", ["'", '"', "`"])
def test_texts_between_quotes_are_said(tmp_path, capsys, mark):
    rows = [{"body": row["body"], "title": f"{mark}{row['title']}{mark}"} for row in ROWS]
    read(write(tmp_path / "a.jsonl", [*rows, *ROWS[:3]]))
    assert "60 of 63 texts in the column 'title' of" in capsys.readouterr().err
    read(write(tmp_path / "b.jsonl", [*rows, *ROWS[:9]]))
    assert "between quotes" not in capsys.readouterr().err


def test_a_first_batch_that_is_all_empty_does_no_harm(tmp_path):
    corpus, statistics = read(write(tmp_path / "my.jsonl", [{"body": "", "title": ""}] * 1000 + ROWS))
    assert statistics["dropped"]["empty document"] == 1000 and sum(map(len, corpus.values())) == 60


def test_words_that_pandas_takes_for_missing_are_text(tmp_path):
    corpus, statistics = read(write(tmp_path / "my.csv", [*ROWS, {"body": "null", "title": "NA"}]))
    assert statistics["dropped"] == {"empty document": 0, "empty summary": 0}
    assert ("null", "NA") in [pair for pairs in columns(corpus).values() for pair in pairs]


def test_a_folders_splits_are_kept_and_a_missing_one_comes_out_of_train(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.jsonl", [{"body": "held", "title": "out"}, {"body": "also", "title": "kept"}])
    corpus, statistics = read(tmp_path)
    assert columns(corpus)["test"] == [("held", "out"), ("also", "kept")]
    assert all(split_of(summary) == "validation" for summary in corpus["validation"]["summary"])
    assert all(split_of(summary) != "validation" for summary in corpus["train"]["summary"])
    assert (
        len(corpus["train"]) + len(corpus["validation"]) == 60 and "validation out of train" in statistics["split_by"]
    )


@pytest.mark.parametrize(("name", "content"), [("b.parquet", None), ("b.csv", "body,title\n"), ("b.jsonl", "")])
def test_an_empty_file_among_others_is_passed_over_and_named(tmp_path, capsys, name, content):
    folder = tmp_path / "part"
    folder.mkdir()
    write(folder / f"a{Path(name).suffix}", ROWS)
    if content is None:
        pandas.DataFrame(ROWS[:0], columns=["body", "title"], dtype="string").to_parquet(folder / name)
    else:
        (folder / name).write_text(content)
    for _ in range(2):  # the second time out of the cache
        corpus, _ = read(folder)
        assert sum(map(len, corpus.values())) == 60
        assert re.search(rf"WARNING: \S+{name}: no rows; passed over", capsys.readouterr().err)


def test_a_limit_draws_the_same_pairs_wherever_they_stand(tmp_path):
    few, _ = read(write(tmp_path / "a.jsonl", ROWS), max_train=10)
    reversed_, _ = read(write(tmp_path / "b.jsonl", ROWS[::-1]), max_train=10)
    assert len(few["train"]) == 10
    assert sorted(columns(few)["train"]) == sorted(columns(reversed_)["train"])


#: Few summaries, so that some are shared.
SUMMARIES = lists(st.sampled_from([f"title {i}" for i in range(20)]) | st.text(max_size=5), 0, 40)


def pairs_of(summaries):
    return Dataset.from_dict({"id": [str(i) for i in range(len(summaries))], "summary": summaries})


@examples(50)
@given(SUMMARIES, st.integers(1, 20), st.integers(0, 20), st.randoms(use_true_random=False))
def test_what_a_limit_draws_is_part_of_what_a_larger_one_draws_in_the_order_it_came(summaries, limit, more, random):
    pairs = pairs_of(summaries)
    few, many = (tables.drawn_pairs(pairs, size)["id"] for size in (limit, limit + more))
    assert list(few) == sorted(set(few), key=int) and len(few) == min(limit, len(pairs))
    assert set(few) <= set(many)
    assert list(tables.drawn_pairs(pairs, limit)["id"]) == list(few), "drawn twice"
    elsewhere = pairs.select(random.sample(range(len(pairs)), len(pairs)))
    assert set(tables.drawn_pairs(elsewhere, limit)["id"]) == set(few), "wherever they stand"
    assert len(tables.drawn_pairs(pairs, 0)) == len(pairs), "0 is no limit"


@examples(50)
@given(SUMMARIES)
def test_every_row_is_in_the_split_of_its_summary_whatever_the_others_are(summaries):
    pairs = pairs_of(summaries)
    shares = {split: tables.in_split(pairs, lambda part, wanted=split: part == wanted) for split in SPLITS}
    assert sorted(int(i) for share in shares.values() for i in share["id"]) == list(range(len(pairs)))
    for split, share in shares.items():
        assert list(share["id"]) == [str(i) for i, summary in enumerate(summaries) if split_of(summary) == split]


def test_a_changed_file_is_read_again(tmp_path):
    study = load_study("xsum", {"corpus.path": str(write(tmp_path / "my.jsonl", ROWS))})
    key = corpus_key(study)
    assert corpus_key(study) == key
    write(tmp_path / "my.jsonl", ROWS[:-1])
    assert corpus_key(study) != key


def test_a_renamed_split_is_read_again(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "rows.jsonl", ROWS)
    key = content_key(settings(tmp_path))
    (tmp_path / "validation").rename(tmp_path / "test")
    assert content_key(settings(tmp_path)) != key


def test_splits_of_a_fetched_dataset_by_other_names(tmp_path, monkeypatch):
    for name, rows in {"train": ROWS, "dev": ROWS[:3], "extra": ROWS[:2]}.items():
        (tmp_path / "c0ffee" / "default" / name).mkdir(parents=True)
        write(tmp_path / "c0ffee" / "default" / name / "0000.parquet", rows)
    monkeypatch.setattr(tables, "fetch_dataset", lambda *_: tmp_path / "c0ffee")
    corpus, statistics = read_pairs(settings("owner/name"), tmp_path / "hub.json")
    assert len(corpus["validation"]) == 3 and "test out of train" in statistics["split_by"]
    assert statistics["unused"] == {"extra": 2} and statistics["revision"] == "c0ffee"


def test_texts_become_one_line(tmp_path):
    rows = [{"body": "Two\nlines\tand  more", "title": f"a\n{i}"} for i in range(60)]
    corpus, _ = read(write(tmp_path / "my.jsonl", rows))
    assert corpus["train"][0]["document"] == "Two lines and more" and "\n" not in "".join(corpus["train"]["summary"])


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("a\nb {}", "a\nb {}"),
        (" a \r\n\r\n b  {}\n", "a\nb {}"),
        ("a\rb {}", "a\nb {}"),
        ("a b {}\n", None),
        ("a\x85b {}", None),
    ],
)
@pytest.mark.parametrize("name", ["my.jsonl", "my.csv", "my.parquet"])
def test_a_summarys_lines_are_kept_for_scoring(tmp_path, name, written, kept):
    """Beside the summary of one line, which the models read; a corpus without such lines is as it was."""
    if name == "my.csv" and "\r" in written:
        pytest.skip("pandas changes the line ends that it writes")
    rows = [{"body": f"Document {i}", "title": written.format(i)} for i in range(60)]
    corpus, _ = read(write(tmp_path / name, rows))
    for part in corpus.values():
        assert all(text.startswith("a b ") for text in part["summary"])
        wanted = [kept.format(text[4:]) for text in part["summary"]] if kept else None
        assert (part["lines"][:] if kept else "lines" not in part.column_names) == (wanted or True)
        assert references(part) == (wanted or part["summary"][:])
    plain, _ = read(write(tmp_path / "plain.jsonl", [row | {"title": " ".join(row["title"].split())} for row in rows]))
    assert plain["train"].column_names == ["id", "document", "summary"]
    assert (pairs_fingerprint(corpus) == pairs_fingerprint(plain)) == (kept is None)


def test_words_are_those_of_the_texts_alphabet(tmp_path, capsys):
    rows = [{"body": f"Документ {i}", "title": f"заголовок номер {i}"} for i in range(60)]
    assert read(write(tmp_path / "my.jsonl", rows))[1]["words"] == "Unicode"
    assert read(write(tmp_path / "my.csv", ROWS))[1]["words"] == "English"
    assert "separate" not in capsys.readouterr().err
    rows = ROWS + [{"body": f"文件 {i}", "title": f"文件的摘要 {i}"} for i in range(20)]
    assert read(write(tmp_path / "few.jsonl", rows))[1]["words"] == "Unicode"
    assert re.search(
        r"WARNING: \d+ % of the letters of the summaries .* does not separate words", capsys.readouterr().err
    )
    rows = ROWS + [{"body": f"文件 {i}", "title": f"文件的摘要 {i}"} for i in range(2000)]
    with pytest.raises(UserError, match="cannot be scored: their script does not separate words"):
        read(write(tmp_path / "my.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", '{"body": "a", "title": "b"}\n{broken\n', "line 2, is not JSON"),
        ("lists.jsonl", '{"body": ["a"], "title": "b"}\n', "'body' contains lists or records"),
        ("other.jsonl", '{"text": "a", "headline": "b"}\n', "has the columns: text, headline"),
        ("few.jsonl", '{"body": "a", "title": "b"}\n', "1 rows have both sides"),
        ("empty.jsonl", "", "is empty"),
        ("text.txt", "a", "has an unknown format: it must end in .jsonl"),
        ("bad.parquet", "no parquet", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_what_is_cut_and_what_leaks_is_counted(tmp_path):
    rows = [*ROWS, {"body": "word " * 60, "title": "long enough to be cut " * 9}]
    held = [{"body": "a held out text of a few words", "title": rows[0]["title"].upper()}]
    near = [{"body": rows[5]["body"], "title": "of its own"}, {"body": "nothing alike", "title": "nor this"}]
    for split, pairs in {"train": rows, "validation": held, "test": near}.items():
        write(tmp_path / f"{split}.jsonl", pairs)
    given = {"corpus.path": str(tmp_path), "corpus.document": "body", "corpus.summary": "title", "name": "test_tables"}
    study = load_study("smoke", given)
    corpus, _ = read_pairs(study.corpus, tmp_path / "hub.json")
    assert leakage(corpus, 0.8) == {"summaries_in_train": 1, "near_duplicates": 1}
    assert overlap(corpus, 0.8)["near_duplicates_in_first_words"] == 1

    class Words:
        def __call__(self, texts):
            return {"input_ids": [text.split() for text in texts]}

    from distill_utils.data import corpus as corpus_module

    original, corpus_module.load_corpus = corpus_module.load_corpus, lambda _: corpus
    try:
        assert cut_counts(study, Words()) == {"document": 1, "summary": 1}
    finally:
        corpus_module.load_corpus = original


@pytest.mark.parametrize("name", ["a[1]", "b[1]", "c*", "d?", "e{1,2}", "f::x", "g!x", "h [ab] ~"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ""])
def test_a_path_is_read_literally(tmp_path, name, suffix):
    """And not the files that it would match as a pattern."""
    for other in ("a1", "b1", "cc", "d1", "e1", "e2", "f", "h a ~"):
        if suffix:
            write(tmp_path / f"{other}{suffix}", [{"body": f"another {i}", "title": "x"} for i in range(60)])
    if suffix:
        path = write(tmp_path / f"{name}{suffix}", ROWS)
    else:
        path = tmp_path / name
        path.mkdir()
        write(path / "some[2].jsonl", ROWS)
    corpus, _ = read(path)
    assert sorted(text for rows in corpus.values() for text in rows["summary"]) == sorted(r["title"] for r in ROWS)


def test_binary_values_are_texts_if_they_are_utf8(tmp_path):
    rows = [{"body": f"café {i} {i * 7}".encode(), "title": f"über {i}".encode()} for i in range(60)]
    corpus, _ = read(write(tmp_path / "spark.parquet", rows))
    assert {text for part in corpus.values() for text in part["summary"]} == {f"über {i}" for i in range(60)}
    marked = [{**row, "title": b"\xef\xbb\xbf" + row["title"]} for row in rows]
    corpus, _ = read(write(tmp_path / "marked.parquet", marked))
    assert {text for part in corpus.values() for text in part["summary"]} == {f"über {i}" for i in range(60)}
    for value, what in {b"\xff\xfe": "that are not UTF-8", "a title".encode("utf-16-le"): "with NULs"}.items():
        rows[40]["title"] = value
        with pytest.raises(UserError, match=f"column 'title' contains binary values {what}"):
            read(write(tmp_path / "latin.parquet", rows))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (datetime.timedelta(3), "timedelta"), (datetime.datetime(2026, 1, 2), "datetime"), (datetime.date(2026, 1, 2), "date"),
        (decimal.Decimal("1.50"), "Decimal"), ([1, 2], "lists"), ({"a": 1}, "records"), (True, "bool"),
        (float("inf"), "infinite numbers"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(tmp_path, value, kind):
    path = write(tmp_path / "it.parquet", [{"body": value, "title": row["title"]} for row in ROWS])
    with pytest.raises(UserError, match=f"column 'body' contains .*{kind}.*, not text; set corpus.document") as refused:
        read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["true", "Infinity", "-Infinity", "[]", '{"a": "b"}'])
def test_one_value_that_is_no_text_is_refused(tmp_path, value):
    content = "".join(json.dumps(row) + "\n" for row in ROWS) + f'{{"body": "a b", "title": {value}}}\n'
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"column 'title' contains .*, not text; set corpus\.summary"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("odd", ["inf", "nan", "1e5", "N/A", "True"])
def test_a_column_of_numbers_or_truth_values_is_refused_whatever_is_among_them(tmp_path, odd):
    values = [odd if i == 3 else "False" if odd == "True" else f"{i / 7}" for i in range(60)]
    path = write(tmp_path / "a.csv", [{"body": row["body"], "title": v} for row, v in zip(ROWS, values, strict=True)])
    with pytest.raises(UserError, match=r"column 'title' of \S+ has no words \(such as "):
        read(path)


@pytest.mark.skipif(not XSUM.is_dir(), reason="XSum's rows are not here")
def test_real_xsum_rows():
    corpus, statistics = read_pairs(load_study("xsum", {"corpus.path": str(XSUM)}).corpus, ROOT / "runs" / "none.json")
    assert statistics["rows"] == {"train": 400, "validation": 100, "test": 100}
    assert statistics["dropped"]["empty document"] == 1, "one article of the 600 is empty"
    assert not any(leakage(corpus, 0.8).values())


def test_an_empty_path_stays_empty():
    from distill_utils import cli

    options = cli._parser().parse_args(["run", "xsum", "--set", "corpus.path=", "--set", "teacher.base="])
    assert cli._study(options)[1] == {"corpus.path": "", "teacher.base": ""}


def test_the_command_reads_a_path_from_the_working_folder(tmp_path, monkeypatch):
    from distill_utils import cli

    write(tmp_path / "my.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    options = cli._parser().parse_args(["run", "xsum", "--set", "corpus.path=my.jsonl"])
    study, overrides = cli._study(options)
    assert os.path.isabs(study.corpus.path) and overrides["corpus.path"] == study.corpus.path
