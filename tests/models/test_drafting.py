"""``distill summarize --draft``: the teacher's own words, and one clear line where a draft cannot serve."""

import pytest

from distill_utils.models.backends import load_backend
from distill_utils.models.drafting import load_drafted
from distill_utils.models.student import make_student
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT
from tests.conftest import distill, tiny_bart

TEACHER = ROOT / "models" / "docstrings_teacher"
TEXTS = [
    "read_rows(path)\nYield every row of the file as a tuple of texts. Empty lines are passed over.",
    "clamp(value, low, high)\nIf the value is below low, low is returned; above high, high.",
    "Cache.clear()\nAll entries are removed, also those that are in use.",
]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    backend = load_backend(TEACHER)
    make_student(backend.model, 6, 3).save_pretrained(folder)
    backend.tokenizer.save_pretrained(folder)
    return folder


def test_the_command_prints_the_teachers_greedy_summaries(student, tmp_path):
    files = [tmp_path / f"{i}.txt" for i in range(len(TEXTS))]
    for file, text in zip(files, TEXTS, strict=True):
        file.write_text(text)
    code, out, err = distill("summarize", str(TEACHER), *map(str, files), "--draft", str(student))
    greedy = load_backend(TEACHER).summarize(TEXTS, batch_size=1, num_beams=1)
    assert code == 0 and out.splitlines() == list(greedy), err


def test_a_draft_of_another_vocabulary_is_refused_in_one_line(student, tmp_path):
    model = tiny_bart(vocabulary=300)
    model.save_pretrained(tmp_path / "other")
    from distill_utils.models.bart import train_tokenizer

    train_tokenizer(TEXTS, 300).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="another vocabulary"):
        load_drafted(TEACHER, tmp_path / "other")
    code, _, err = distill("summarize", str(TEACHER), "--draft", str(tmp_path / "missing"))
    assert code == 2 and err.count("\n") == 1, err


def test_an_export_cannot_be_drafted_for(student, tmp_path):
    pytest.importorskip("ctranslate2")
    from distill_utils.models.export import export

    made = export(student, tmp_path / "export", "float32")
    for pair in ((made, student), (TEACHER, made)):
        with pytest.raises(UserError, match="is an export"):
            load_drafted(*pair)


def test_settings_that_no_greedy_search_has_are_refused(student):
    drafted = load_drafted(TEACHER, student)
    with pytest.raises(UserError, match="do_sample"):
        list(drafted.write([drafted.encode(TEXTS)], do_sample=True))
