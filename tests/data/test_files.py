"""Files as other programs write them: each is read with its right texts, or refused in one line."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from distill_utils.data import tables
from distill_utils.data.files import read_rows
from distill_utils.data.folders import files_of_splits
from distill_utils.data.tables import content_key
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint
from tests.data.test_tables import ROWS, read, settings, write

COLUMNS = {"id": "id", "document": "body", "summary": "title"}
#: Rows without a quote, so that a reading of quotes has something to compare with.
LINES = [f"Document {i},title {i}" for i in range(30)]
TABS = [line.replace(",", "\t") for line in LINES]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def texts(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row["document"], row["summary"]) for row in read_rows(path, COLUMNS)]


def lines(*rows, header="body,title"):
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "row", "pair"),
    [
        # quotes: doubled, after a backslash (MySQL, Spark), as characters like others
        ("a.csv", lines('"A 5"" pipe, burst.",pipes burst'), 0, ('A 5" pipe, burst.', "pipes burst")),
        ("a.csv", lines('"A 5\\" pipe burst.","pipes burst"'), 0, ('A 5" pipe burst.', "pipes burst")),
        ("a.csv", lines(*LINES, '"A 5\\" pipe, burst.","pipes burst"'), 30, ('A 5" pipe, burst.', "pipes burst")),
        ("a.csv", lines('"in C:\\\\dir\\\\","say \\"so\\""'), 0, ("in C:\\dir\\", 'say "so"')),
        ("a.csv", lines('"C:\\new","x"'), 0, ("C:\\new", "x")),
        ("a.csv", lines('"C:\\new","say \\"x\\""'), 0, ("C:\\new", 'say "x"')),
        ("a.csv", lines('"two\\\nlines","say \\"x\\""'), 0, ("two\nlines", 'say "x"')),
        ("a.csv", lines('"ends in a backslash \\","x"'), 0, ("ends in a backslash \\", "x")),
        ("a.csv", lines('"say \\"so\\", then",x', '5\\" pipe,y'), 1, ('5" pipe', "y")),
        ("a.csv", lines("a,b", "  "), 0, ("a", "b")),
        ("a.csv", lines('A 5" pipe burst.,pipes burst'), 0, ('A 5" pipe burst.', "pipes burst")),
        ("a.csv", lines('"Stop" he said,a quote'), 0, ('"Stop" he said', "a quote")),
        ("a.tsv", lines('"Stop" he said\ta quote', *TABS, '"Go" they said\ttwo', header="body\ttitle"), 31, ('"Go" they said', "two")),
        ("a.csv", lines('"two\nlines, of text",x', '"a, b",y'), 0, ("two\nlines, of text", "x")),
        ("a.csv", lines("one,x", "\\N,y"), 1, (None, "y")),
        ("a.csv", lines("None,null", "N/A,nan"), 1, ("N/A", "nan")),
        ("a.csv", lines('"text, too", "title 0"', '"b",  "c"', header="body, title"), 0, ("text, too", "title 0")),
        ("a.csv", lines("a,b", '"say ""so""", "title"'), 1, ('say "so"', "title")),
        ("a.csv", lines('"A 5\\" pipe, burst.", "pipes burst"'), 0, ('A 5" pipe, burst.', "pipes burst")),
        ("a.csv", lines('a, "Stop" he said', "b,c"), 0, ("a", '"Stop" he said')),
        ("a.tsv", lines('" ""no"" "\tx', header="body\ttitle"), 0, (' "no" ', "x")),
        ("a.csv", lines("a,b", '"Stop,x', *LINES, 'the end,y"'), 1, ('"Stop', "x")),
        ("a.csv", "\ufeff" + lines("a,b"), 0, ("a", "b")),
        ("a.csv", lines("a,b").replace("\n", "\r\n"), 0, ("a", "b")),
        ("a.csv", lines("a,b", header=" body , title "), 0, ("a", "b")),
        ("a.csv", lines("x" * 200_000 + ",b"), 0, ("x" * 200_000, "b")),
        ("a.csv", lines("1,a,b", header="n,body,title"), 0, ("a", "b")),
        # JSON; numbers are those that are written
        ("a.jsonl", '{"body": 1.50, "title": 1e5}', 0, ("1.50", "1e5")),
        ("a.json", '[{"body": 12345678901234567890123, "title": 1e400}]', 0, ("12345678901234567890123", "1e400")),
        ("a.jsonl", '{"body": "a", "title": ' + "1" * 5000 + "}", 0, ("a", "1" * 5000)),
        ("a.jsonl", '{"body": "a", "title": "b", "x": null}\n' * 40_000 + '{"body": "c", "title": "d", "x": "text"}', 40_000, ("c", "d")),
        ("a.jsonl", '{"body": "a", "title": "b", "messages": [{"role": "user", "content": "x"}]}', 0, ("a", "b")),
        ("a.jsonl", '{"body": null, "title": "null"}', 0, (None, "null")),
        ("a.json", json.dumps(ROWS, indent=1), 1, (ROWS[1]["body"], ROWS[1]["title"])),
        ("a.jsonl", '{"body": "a\u2028b", "title": "c\x85d"}', 0, ("a\u2028b", "c\x85d")),
        ("a.json", '{"body": "a\u2028b", "title": "c"}', 0, ("a\u2028b", "c")),
        # endings
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0), 1, (ROWS[1]["body"], ROWS[1]["title"])),
        ("a.csv.bz2", bz2.compress(lines("a,b").encode()), 0, ("a", "b")),
        ("a.ndjson.xz", lzma.compress(JSONL.encode()), 1, (ROWS[1]["body"], ROWS[1]["title"])),
        ("A.CSV", lines("a,b"), 0, ("a", "b")),
        ("a.NDJSON", JSONL, 1, (ROWS[1]["body"], ROWS[1]["title"])),
        ("A.Tsv.GZ", gzip.compress(b"body\ttitle\na, b\tc\n", mtime=0), 0, ("a, b", "c")),
    ],
)  # fmt: skip
def test_a_text_is_what_its_program_wrote(tmp_path, name, content, row, pair):
    assert texts(tmp_path / name, content)[row] == pair


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # either one text over all lines, or rows whose texts begin or end with a quote
        ("a.tsv", lines('"Stop\tx', *TABS, 'a "go"\ty', 'he said "no"\tx', header="body\ttitle"), None),
        ("a.tsv", lines(*TABS[:2], '"Stop\tx', *TABS[2:], 'the end"\ty', header="body\ttitle"), "a.tsv, line 4: either a quoted"),
        ("a.csv", lines(*LINES[:3], '"Stop,x', *LINES[3:], 'the end",y'), "a.csv, line 5: either a quoted"),
        ("a.csv", lines('"Stop\\" x,y', *LINES, 'the end",y'), "a.csv, line 2: either a quoted"),
        ("a.csv", lines("a,b", '"c\nd"', "e,f"), "line 3, has 1 fields, but the header has 2; put texts with commas or line"),
        # a line break in a text without quotes, also as MySQL writes it, and other escapes of text ends
        ("a.csv", lines("a,b", "first half", "second half,the title"), "line 3, has 1 fields, but the header has 2"),
        ("a.tsv", lines("first line\\", "second line\tthe title", header="body\ttitle"), "line 2, has 1 fields"),
        ("a.tsv", lines("2026\tfirst", "second\tthe title", header="body\ttitle\tday"), "line 2, has 2 fields"),
        ("a.tsv", lines("the title\tfirst\\", "second\\\tline", header="title\tbody"), "line 2, has a backslash at the end"),
        ("a.csv", lines("a,b", "C:\\dir\\,c"), "line 3, has a backslash at the end of a text"),
        # quotes of a text that does not begin or end beside them
        ("a.csv", lines("a,b", '"c",\t"d"'), "line 3, has blanks or a byte-order mark beside a quoted text; remove them"),
        ("a.csv", lines("a,b", '\ufeff"c",d'), "line 3, has blanks or a byte-order mark"),
        ("a.csv", lines('"a" ,b', '"c" ,d'), "a.csv, line 2: a quoted text that starts there does not end correctly"),
        # two files in one
        ("a.csv", lines("a,b", "body,title", "c,d"), "a.csv, line 3, is the header again; remove it"),
        ("a.csv", "\ufeff" + lines("a,b", "\ufeffbody, title", "c,d"), "a.csv, line 3, is the header again"),
        ("a.tsv", lines("a\tb", "c\td\te", header="body\ttitle"), "line 3, has 3 fields.*put texts with tabs"),
        ("a.csv", lines("a,b,c", header="body,title,body"), "has 2 columns 'body'; keep or rename one"),
        ("a.csv", lines("a,b,c", header="body,title,title "), "has 2 columns 'title'"),
        ("a.jsonl", '{"body": "a", "body": "b", "title": "c"}', "line 1, has 'body' more than once"),
        ("a.jsonl", '{"body": "a", "title ": "b", "title": "c"}', "line 1, has 'title' more than once"),
        ("a.json", json.dumps([*ROWS, "text"]), "item 61, is not an object"),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)[:-20], "a.jsonl.gz cannot be decompressed; copy or create it again"),
        ("a.jsonl.gz", JSONL, "a.jsonl.gz cannot be decompressed"),
        ("a.csv.xz", lines("a,b"), "a.csv.xz cannot be decompressed"),
        ("a.csv.bz2", lines("a,b"), "a.csv.bz2 cannot be decompressed"),
        # damaged, and not unquoted
        ("a.tsv", lines('x\t"He said ""hi"" 0"', 'y\t"cut off', header="body\ttitle"), "a.tsv, line 3: a quoted text"),
        ("a.csv", lines('"One text.","x"', '"He said "no" to it","z"'), "a.csv, line 3: a quoted text"),
        ("a.csv", "body,title\ra,b\rc,d", "carriage return alone"),
        ("a.csv", "body;title\na, b;c\n", "has the columns: body;title"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_refused(tmp_path, name, content, message):
    if message is None:  # the quotes leave one reading
        assert len(texts(tmp_path / name, content)) == len(TABS) + 3
        return
    with pytest.raises(UserError, match=message) as refused:
        texts(tmp_path / name, content)
    assert "\n" not in str(refused.value)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["body", "title", "title"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has 2 columns 'title'"):
        list(read_rows(tmp_path / "a.parquet", COLUMNS))


def test_a_parquet_text_that_is_not_utf8_is_refused_with_its_column(tmp_path):
    offsets, data = pyarrow.array([0, 2, 4], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xff\xfeab")
    bad = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, data])
    parquet.write_table(pyarrow.table({"title": ["x", "y"], "body": bad}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"column 'body' of \S+a\.parquet has texts that are not UTF-8"):
        list(read_rows(tmp_path / "a.parquet", COLUMNS))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv", "a.tsv", "a.ndjson", "A.CSV", "a.parquet", "a.JSON"])
@pytest.mark.parametrize("column", ["null", "words"])
def test_a_file_is_the_same_alone_and_in_a_folder(tmp_path, monkeypatch, name, column):
    rows = [*ROWS, {"body": "None", "title": "N/A"}, {"body": "null", "title": "NaN"}] if column == "null" else ROWS
    (tmp_path / "in").mkdir()
    kind = name.lower().removesuffix(".gz").rpartition(".")[2]
    plain = write(
        tmp_path / f"plain.{'parquet' if kind == 'parquet' else 'csv' if kind in ('csv', 'tsv') else 'jsonl'}", rows
    )
    content = plain.read_bytes().replace(b",", b"\t") if kind == "tsv" else plain.read_bytes()
    for path in (tmp_path / name, tmp_path / "in" / name):
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for path in (tmp_path / name, tmp_path / "in"):
        monkeypatch.setattr(tables, "fingerprint", lambda *parts, path=path: fingerprint(*parts, str(path)))  # no cache
        corpus, statistics = read(path)
        found = sorted(pair for part in corpus.values() for pair in zip(part["document"], part["summary"], strict=True))
        assert found == sorted((row["body"].strip(), row["title"]) for row in rows)
    assert statistics["unread"] == 0


def test_files_of_no_split_are_counted_and_named(tmp_path, capsys):
    for name in ("train.jsonl", "bbc.jsonl", "sub/guardian.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, ROWS)
    (tmp_path / "README.md").write_text("# Rows\n")
    (tmp_path / "old.jsonl.bak").write_text("{")
    _, statistics = read(tmp_path)
    assert statistics["unread"] == 3 and statistics["rows"] == {"train": 60}
    assert "3 files of" in (said := capsys.readouterr().err) and "not read: bbc.jsonl, old.jsonl.bak" in said


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["a.jsonl", "b.jsonl"], {"train": 120}),
        (
            ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "my_dev.jsonl"],
            {"train": 120, "validation": 60},
        ),
        (["train/a.jsonl", "test/b.jsonl", "validation/c.jsonl"], {"train": 60, "validation": 60, "test": 60}),
        (["data/my.training.jsonl", "data/testing_v2.jsonl", "meta.json"], {"train": 60, "test": 60}),
        (["trainers.jsonl", "latest.jsonl"], {"train": 120}),
        (["train[1].jsonl", "test[1].jsonl"], {"train": 60, "test": 60}),
        (["data (train).jsonl", "data (test).jsonl"], {"train": 60, "test": 60}),
        (["[train]/a.jsonl", "[dev]/b.jsonl"], {"train": 60, "validation": 60}),
        (["a+train.jsonl", "a+test.jsonl", "a+valid,1.jsonl"], {"train": 60, "test": 60, "validation": 60}),
        (["trainData.jsonl", "myTestData.jsonl", "XSumVal.jsonl"], {"train": 60, "test": 60, "validation": 60}),
        (["TRAINdata.jsonl", "IDTest.jsonl"], {"train": 60, "test": 60}),
        (["trainset.jsonl", "testset.jsonl", "devset1.jsonl"], {"train": 60, "test": 60, "validation": 60}),
        (["donnéestrain.jsonl", "étest.jsonl"], {"train": 120}),
        (["out.jsonl/part.0.jsonl", "out.jsonl/part.1.jsonl"], {"train": 120}),
        (["split=train/a.jsonl", "split=test/a.jsonl"], {"train": 60, "test": 60}),
    ],
)
def test_a_split_is_a_word_in_a_name(tmp_path, names, rows):
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(
            tmp_path / name, [{**row, "title": f"{row['title']} of {i}"} for row in ROWS]
        ) if "meta" not in name else (tmp_path / name).write_text("{}")
    _, statistics = read(tmp_path)
    assert statistics["rows"] == rows


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["traindata.jsonl", "testdata.jsonl"], "if testdata.jsonl is of one split, rename it"),
        (["data.jsonl", "eval.jsonl"], "if eval.jsonl is of one split"),
        (["main/a.jsonl", "heldout/a.jsonl"], "if heldout/a.jsonl is of one split"),
        (["a.jsonl", "b.jsonl"], ""),
        (["evaluated.jsonl"], ""),
    ],
)
def test_a_part_of_a_word_that_may_mean_a_split_is_said(tmp_path, capsys, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, ROWS)
    files_of_splits(tmp_path)
    assert ("WARNING" in (err := capsys.readouterr().err)) == bool(said) and said in err


def test_links_are_followed(tmp_path, capsys):
    """But in no circle, and not to one file twice or to nothing."""
    for name in ("corpus", "kept", "other"):
        (tmp_path / name).mkdir()
    held = [{"body": f"held out {i}", "title": f"kept {i}"} for i in range(5)]
    write(tmp_path / "corpus" / "train.jsonl", ROWS)
    write(tmp_path / "kept" / "a.jsonl", held)
    (tmp_path / "corpus" / "test").symlink_to("../kept")
    (tmp_path / "corpus" / "round").symlink_to(".")
    (tmp_path / "corpus" / "up").symlink_to("..")
    (tmp_path / "kept" / "across").symlink_to("../corpus/test")
    assert read(tmp_path / "corpus")[1]["rows"] == {"train": 60, "test": 5}
    key = content_key(settings(tmp_path / "corpus"))
    write(tmp_path / "kept" / "a.jsonl", held[:4])
    assert content_key(settings(tmp_path / "corpus")) != key
    (tmp_path / "corpus" / "validation.jsonl").symlink_to("../gone.jsonl")
    with pytest.raises(UserError, match=r"validation\.jsonl is a link to \.\./gone\.jsonl, which is not there"):
        read(tmp_path / "corpus")
    (tmp_path / "corpus" / "validation.jsonl").unlink()
    (tmp_path / "corpus" / "testing").symlink_to("test")
    with pytest.raises(UserError, match="are one file, since a folder is a link to another; keep one"):
        read(tmp_path / "corpus")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train_test.jsonl"], "has the words test and train, of two splits; rename it"),
        (["train.jsonl", "dev.jsonl", "validation.jsonl"], "dev and validation, which are the same split"),
        (["test.jsonl"], "has the splits test; name one of them train"),
    ],
)
def test_names_that_fit_two_splits_or_none_are_refused(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, ROWS)
    if len(names) == 1 and names[0] == "test.jsonl":
        write(tmp_path / "validation.jsonl", ROWS)
        message = "has the splits test, validation; name one of them train"
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_folder_that_save_to_disk_wrote(tmp_path, capsys):
    rows = Dataset.from_list([{**row, "picture": [1, 2]} for row in ROWS])
    DatasetDict(train=rows, dev=rows.select(range(5)), eval=rows.select(range(4))).save_to_disk(tmp_path / "splits")
    rows.save_to_disk(tmp_path / "rows")
    assert read(tmp_path / "splits")[1]["rows"] == {"train": 60, "validation": 5}
    assert "has the splits eval (4 rows), which are not read" in capsys.readouterr().err
    assert read(tmp_path / "rows")[1]["rows"] == {"train": 60}
    assert "WARNING" not in capsys.readouterr().err
    write(tmp_path / "rows" / "test.jsonl", ROWS)
    assert read(tmp_path / "rows")[1]["unread"] == 1 and "not read: test.jsonl" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"(rows|splits/\w+) was written by save_to_disk; set corpus\.path to it"):
        read(tmp_path)
    DatasetDict(train=rows, test=rows.select([])).save_to_disk(tmp_path / "half")
    with pytest.raises(UserError, match="half has no rows in test; save it with rows, or without it"):
        read(tmp_path / "half")
    (tmp_path / "rows" / "data-00000-of-00001.arrow").write_bytes(b"x")
    with pytest.raises(UserError, match="rows cannot be read"):
        read(tmp_path / "rows")


def test_other_splits_of_a_readme_are_not_read(tmp_path, capsys):
    unlabeled = (
        "---\nconfigs:\n- data_files:\n  - {split: train, path: a.jsonl}\n  - {split: unlabeled, path: u.jsonl}\n---\n"
    )
    (tmp_path / "README.md").write_text(unlabeled)
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "u.jsonl", [{"body": "a"}])
    assert read(tmp_path)[1]["rows"] == {"train": 60} and "u.jsonl" in capsys.readouterr().err


def test_data_files_that_a_readme_does_not_list_or_that_are_named_as_one_are_said(tmp_path, capsys):
    listed = "---\nconfigs:\n- data_files:\n  - {split: train, path: 'a[1].jsonl'}\n---\n"
    (tmp_path / "README.md").write_text(listed)
    write(tmp_path / "a[1].jsonl", ROWS)
    for name in ("a1.jsonl", "test.jsonl", "readme.jsonl"):
        write(tmp_path / name, ROWS[:50])
    statistics = read(tmp_path)[1]
    assert statistics["rows"] == {"train": 60} and statistics["unread"] == 3, (
        "a name is no pattern if there is such a file"
    )
    assert "not read: a1.jsonl, readme.jsonl, test.jsonl" in capsys.readouterr().err
    (tmp_path / "a[1].jsonl").unlink()
    assert read(tmp_path)[1]["rows"] == {"train": 50}


def test_an_unrelated_state_file_makes_no_saved_dataset(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "state.json").write_text("{}")
    assert read(tmp_path)[1]["rows"] == {"train": 60}


def test_a_split_of_another_format_is_not_left_out(tmp_path):
    write(tmp_path / "train.csv", ROWS)
    (tmp_path / "test.json").write_text(JSONL)
    with pytest.raises(UserError, match=r"files that end in \.csv and \.json; keep one kind"):
        read(tmp_path)


def test_a_damaged_saved_dataset_is_said_in_one_line(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    (tmp_path / "rows" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="what save_to_disk wrote there is damaged"):
        read(tmp_path / "rows")


def test_the_broken_file_is_named_and_not_its_neighbour(tmp_path):
    write(tmp_path / "a.parquet", ROWS)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"b\.parquet cannot be read"):
        read(tmp_path)


CARD = """---
configs:
- config_name: news
  data_files:
  - {split: train, path: "news/*.jsonl"}
  - {split: test, path: [held.jsonl]}
- config_name: mail
  data_files: mail.jsonl
---
"""


def test_a_readme_lists_the_files_of_its_configurations(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "news").mkdir()
    for name in ("news/a.jsonl", "news/b.jsonl", "held.jsonl", "mail.jsonl"):
        write(tmp_path / name, ROWS)
    assert read(tmp_path, configuration="news")[1]["rows"] == {"train": 120, "test": 60}
    assert read(tmp_path, configuration="mail")[1]["rows"] == {"train": 60}
    for configuration, message in {"": "has: news, mail", "sport": "has: news, mail"}.items():
        with pytest.raises(UserError, match=message):
            read(tmp_path, configuration=configuration)
    (tmp_path / "held.jsonl").unlink()
    with pytest.raises(UserError, match=r"lists 'held\.jsonl', which matches no file there"):
        read(tmp_path, configuration="news")
    for text, message in {
        "{split: train, path: ../out.jsonl}": r"lists '\.\./out\.jsonl', which matches no file there",
        "{split: train, path: /etc/hostname}": "lists '/etc/hostname', which matches no file there",
        "{split: train, path: .}": "which matches no file there",
        "{path: mail.jsonl}": "has no split or no path",
        "[{split: train, path: mail.jsonl}, {split: test, path: mail.jsonl}]": "mail.jsonl is listed twice",
    }.items():
        entry = f"- config_name: a\n  data_files: {text}"
        (tmp_path / "README.md").write_text(f"---\nconfigs:\n{entry}\n---\n")
        write(tmp_path.parent / "out.jsonl", ROWS)
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: news\n  data_dir: news\n---\n")
    assert read(tmp_path)[1]["rows"] == {"train": 120}
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: news\n  data_dir: nowhere\n---\n")
    with pytest.raises(UserError, match="names the folder 'nowhere', which is not there"):
        read(tmp_path)
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(UserError, match="is not YAML"):
        read(tmp_path)
