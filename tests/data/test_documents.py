"""Which texts `distill summarize` is given, and what it says of those that it cannot read."""

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
        (b"[1]", "it is not an object"),
        (b'{"text": "a", "id": 3}', "has no 'document' .it has id, text.; name .* with --column"),
        (b'{"document": 3}', "has int instead of text in 'document'"),
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
