"""Which texts `distill summarize` is given, and what it says of those that it cannot read."""

import gzip
import io

import pytest

from distill_utils.data.documents import check_files, read_documents
from distill_utils.system.errors import UserError


def test_a_text_file_is_one_document_and_jsonl_has_one_in_each_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"document": "thrée", "id": 1}\n\n{"document": null}\n')
    names = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    texts = [text for _, text in read_documents(names)]
    assert texts == ["one\ntwo\n", "thrée", ""]
    assert [place for place, _ in read_documents(names)][2] == f"{tmp_path / 'b.jsonl'}, line 3,"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ndjson", '{"document": "one"}\n{"document": "two"}\n'),
        ("A.JSONL", '{"document": "one"}\n{"document ": "two"}\n'),
        ("a.jsonl.gz", gzip.compress(b'\xef\xbb\xbf{"document": "one"}\n{"document": "two"}\n', mtime=0)),
        ("a.jsonl", '{"document": "one", "x": "\\ud800", "y": 1, "y": 2}\n{"document": "two"}\n'),
    ],
)
def test_lines_of_json_are_read_as_a_corpus_reads_them(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_files([str(path)], "document")
    assert [text for _, text in read_documents([str(path)])] == ["one", "two"]


@pytest.mark.parametrize("name", ["a.json", "a.CSV", "a.tsv", "a.parquet", "a.csv.gz", "a.jsonlines"])
def test_a_table_is_not_one_document(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"is neither a text nor \.jsonl; write one document per line as \.jsonl"):
        check_files([str(tmp_path / name)])


@pytest.mark.parametrize(("column", "texts"), [(None, ['{"x": "a"}\n{"x": "b"}']), ("x", ["a", "b"])])
def test_standard_input_is_a_document_unless_a_column_is_named(monkeypatch, column, texts):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"x": "a"}\n{"x": "b"}')))
    assert [text for _, text in read_documents([], column)] == texts


def test_a_stream_is_read_as_it_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"document": "fine"}\nnot json\n')
    documents = read_documents([str(tmp_path / "a.jsonl")])
    assert next(documents)[1] == "fine"
    with pytest.raises(UserError, match="line 2, is not JSON"):
        next(documents)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "is not an object; write one per line, such as {.document.: …}"),
        (b'{"document": "a", "document": "b"}', "has 'document' more than once"),
        (b'{"document": "a \\ud800"}', "has a lone surrogate"),
        (b'{"document": true}', "has a number or a truth value instead of text in 'document'"),
        (b'{"document": Infinity}', "has a number or a truth value instead of text"),
        (b'{"document": {"text": "a"}}', "has an object instead of text"),
        (b'{"text": "a", "id": 3}', "has no 'document' .it has id, text.; name .* with --column"),
        (b'{"document": 3}', "has a number or a truth value instead of text in 'document'"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_line_without_its_text_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(line)
    with pytest.raises(UserError, match=message):
        list(read_documents([str(tmp_path / "a.jsonl")]))


def test_files_that_are_not_there_are_found_at_once(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        check_files([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        check_files([str(tmp_path)])


def test_a_column_of_a_text_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"a\.txt is not a \.jsonl file"):
        check_files([str(tmp_path / "a.txt")], "body")
