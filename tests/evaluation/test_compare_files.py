"""Files of summaries that any systems wrote: their scores, their differences, and what is refused."""

import json

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from distill_utils.evaluation.compare_files import compare_files, read_texts
from distill_utils.metrics.significance import compare_all, mean_interval, retention_interval
from distill_utils.system.errors import UserError
from tests.conftest import distill

REFERENCES = [f"The river rose by {i} metres after the storms" for i in range(40)]
GOOD = [f"The river rose {i} metres after a storm" for i in range(40)]
POOR = [f"A storm, then {i * 7 % 5} rivers were rising" for i in range(40)]


@pytest.fixture
def files(tmp_path):
    for name, texts in (("references", REFERENCES), ("good", GOOD), ("poor", POOR)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
    return [tmp_path / f"{name}.txt" for name in ("references", "good", "poor")]


def scores(texts, kind, stem=True):
    scorer = RougeScorer([kind], use_stemmer=stem)
    return np.array([100 * scorer.score(r, t)[kind].fmeasure for r, t in zip(REFERENCES, texts, strict=True)])


def test_scores_differences_and_shares_are_those_of_the_pairs(files):
    found = compare_files(files[0], files[1:])
    good, poor = (scores(texts, "rougeL") for texts in (GOOD, POOR))
    assert (found["pairs"], found["words"]) == (40, "English")
    for s, wanted in zip(found["systems"], (good, poor), strict=True):
        assert s["rougeL"] == pytest.approx(wanted.mean()) and s["rougeL_ci"] == pytest.approx(
            list(mean_interval(wanted))
        )
    assert found["systems"][1]["kept"] == pytest.approx(poor.mean() / good.mean())
    assert found["systems"][1]["kept_ci"] == pytest.approx(retention_interval(poor, good))
    assert found["systems"][0]["length_ratio"] == pytest.approx(8 / 9)
    (verdict,) = [v for v in found["verdicts"] if v["metric"] == "rougeL"]
    (wanted,) = compare_all([("poor", "good")], "rougeL", {"good": good, "poor": poor})
    assert verdict == wanted.as_dict() and verdict["verdict"] == "NO BEATS"
    assert {v["metric"] for v in found["verdicts"]} == {"rouge1", "rouge2", "rougeL"}


def test_stems_count_unless_they_are_switched_off(files):
    plain = compare_files(files[0], files[1:], stemming=False)
    assert plain["words"] == "English without stemming"
    assert plain["systems"][0]["rouge1"] == pytest.approx(scores(GOOD, "rouge1", stem=False).mean())
    assert plain["systems"][0]["rouge1"] < compare_files(files[0], files[1:])["systems"][0]["rouge1"]


def test_the_best_of_several_references_counts(tmp_path):
    (tmp_path / "r.jsonl").write_text('["a red cat sat", "two dogs ran away"]\n{"summary": "it rained"}\n')
    (tmp_path / "s.txt").write_text("two dogs ran away\nit rained\n")
    found = compare_files(tmp_path / "r.jsonl", [tmp_path / "s.txt"])
    assert found["systems"][0]["rouge1"] == 100 and found["systems"][0]["length_ratio"] == 1


def test_lines_of_a_reference_are_its_sentences(tmp_path):
    reference = "The U.S. court heard Mr. Smith vs. Jones.\nThe court of St. Louis ruled at 5 p.m. Monday."
    written = "Smith was heard at the court of Louis. Jones won Monday at 5 p.m."
    (tmp_path / "r.jsonl").write_text(f"{json.dumps(reference)}\n" * 2)
    (tmp_path / "s.txt").write_text(f"{written}\n" * 2)
    (system,) = compare_files(tmp_path / "r.jsonl", [tmp_path / "s.txt"])["systems"]
    scorer = RougeScorer(["rougeLsum"], use_stemmer=True)
    found = scorer.score(reference, written.replace(". ", ".\n"))["rougeLsum"].fmeasure
    assert system["rougeLsum"] == pytest.approx(100 * found)


def test_windows_files_empty_lines_and_one_system(tmp_path):
    (tmp_path / "r.txt").write_bytes(b"\xef\xbb\xbfone two three\r\nfour five six\r\n")
    (tmp_path / "s.txt").write_bytes(b"one two three\r\n\r\n")
    found = compare_files(tmp_path / "r.txt", [tmp_path / "s.txt"])
    assert found["systems"][0]["rougeL"] == 50 and found["systems"][0]["empty"] == 1 and not found["verdicts"]


def test_letters_of_other_alphabets_are_words(tmp_path):
    (tmp_path / "r.txt").write_text("été à la mer\nœuvre d'art\n", "utf-8")
    (tmp_path / "s.txt").write_text("âtà à la mer\nœuvre d'art\n", "utf-8")
    found = compare_files(tmp_path / "r.txt", [tmp_path / "s.txt"])
    assert found["words"] == "Unicode" and found["systems"][0]["rouge1"] == pytest.approx(87.5)


def test_letters_of_scripts_that_do_not_separate_words_are_said(tmp_path, capsys):
    (tmp_path / "r.txt").write_text("文件的摘要\nthe cat sat on the mat\n", "utf-8")
    compare_files(tmp_path / "r.txt", [tmp_path / "r.txt"])
    assert "WARNING: 23 % of the letters of the summaries in" in capsys.readouterr().err


def test_one_summary_is_refused(tmp_path):
    (tmp_path / "r.txt").write_text("the cat sat\n")
    with pytest.raises(UserError, match=r"r\.txt has one summary; intervals need at least two"):
        compare_files(tmp_path / "r.txt", [tmp_path / "r.txt"])


def test_bigrams_that_the_documents_lack_are_counted(files, tmp_path):
    (tmp_path / "d.txt").write_text("".join(f"{text} and more\n" for text in GOOD))
    found = compare_files(files[0], files[1:], documents=tmp_path / "d.txt")
    assert found["systems"][0]["novel_bigrams"] == 0 and found["systems"][1]["novel_bigrams"] > 80


def test_a_documents_key_is_said(files, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n' * 40)
    with pytest.raises(UserError, match=r"has no 'document' \(it has text\); a document's key is this"):
        compare_files(files[0], files[1:], documents=tmp_path / "d.jsonl")


def test_systems_of_one_file_name_are_told_apart(tmp_path, files):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "out.txt").write_text(files[1].read_text())
    found = compare_files(files[0], [tmp_path / "a" / "out.txt", tmp_path / "b" / "out.txt"])
    assert [s["name"] for s in found["systems"]] == [str(tmp_path / f / "out.txt") for f in ("a", "b")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.txt", b"one\n", "s.txt has 1 lines and .*r.txt has 2"),
        ("s.txt", b"one\ntwo\n\n", "s.txt has 3 lines"),
        ("s.txt", b"", "s.txt is empty"),
        ("s.txt", b"one\ncaf\xe9\n", "s.txt, line 2, is not UTF-8"),
        ("s.txt", b"o\0ne\ntwo\n", "NUL"),
        ("s.jsonl", b'"one"\ntwo\n', "s.jsonl, line 2, is not JSON"),
        ("s.jsonl", b'"one"\n\n', "s.jsonl, line 2, is not JSON"),
        ("s.jsonl", b'"one"\n{"text": "two"}\n', r"line 2, has no 'summary' \(it has text\); .*--field"),
        ("s.jsonl", b'"one"\n["two", "three"]\n', "line 2, has 2 texts; only references"),
        ("s.jsonl", b'"one"\n3\n', "line 2, has no text but 3"),
        ("s.jsonl", b'"one"\n[]\n', "line 2, has no text"),
        ("s.json", b'["one", "two"]', "s.json is not read as .json"),
        ("s.jsonlines", b'"one"\n"two"\n', "s.jsonlines is not read as .jsonlines"),
        ("s.jsonl", b'"one"\n{"summary": "a", "summary": "b"}\n', "line 2, has 'summary' more than once"),
        ("s.jsonl", b'"one"\n"half \\ud800"\n', "line 2, has a lone surrogate"),
        ("s.jsonl", b'"one"\n{"summary": true}\n', "line 2, has no text but True"),
        ("s.csv", b"summary\none\ntwo\n", "s.csv is not read as .csv"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, name, content, said):
    (tmp_path / "r.txt").write_text("one\ntwo\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        compare_files(tmp_path / "r.txt", [tmp_path / name])


def test_a_missing_file_one_given_twice_and_references_without_words(tmp_path, files):
    with pytest.raises(UserError, match=r"none.txt cannot be read: No such file"):
        read_texts(tmp_path / "none.txt", "summary")
    with pytest.raises(UserError, match="given twice"):
        compare_files(files[0], [files[1], files[1]])
    (tmp_path / "blank.txt").write_text("\n" * 40)
    with pytest.raises(UserError, match="has no words"):
        compare_files(tmp_path / "blank.txt", files[1:])


def test_the_command_prints_writes_and_draws(files, tmp_path):
    out = tmp_path / "out"
    code, printed, err = distill(
        "compare", *map(str, files), "--json", str(out / "all.json"), "--figure", str(out / "bars.png")
    )
    assert code == 0 and not err, err
    assert "40 summaries; ROUGE F1 of English words" in printed
    assert "| poor | is worse than | good |" in printed and "ROUGE-L of good kept" in printed
    assert len(json.loads((out / "all.json").read_text())["systems"]) == 2
    assert {path.name for path in out.iterdir()} == {"all.json", "bars.png", "bars.pdf"}
    code, _, err = distill("compare", str(files[0]), str(tmp_path / "none.txt"))
    assert code == 2 and err.count("\n") == 1 and "none.txt cannot be read" in err
