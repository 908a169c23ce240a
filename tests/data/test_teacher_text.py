"""What a teacher learns from besides the corpus: fetched wheels, the standard library, and nothing that is held out."""

import hashlib
import zipfile

import pytest

from distill_utils.data import teacher_text
from distill_utils.data.corpus import load_corpus
from distill_utils.data.docstrings import Docstring
from distill_utils.data.teacher_text import training_pairs, training_text
from distill_utils.studies.loading import load_study
from distill_utils.system.errors import UserError

SOURCE = '''
def steep(leaves, minutes=3):
    """Let the leaves stand in hot water.

    The water should not boil. Green leaves need less time than black ones.
    """

def copied(leaves):
    """{summary}

    {details}
    """
'''


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    return load_study("smoke", {"teacher.fetch_text": True})


@pytest.fixture
def wheels(tmp_path, study, monkeypatch):
    """A folder from which pip takes wheels, and the list that names the one in it; one docstring copies a test pair."""
    held_out = load_corpus(study)["test"][0]
    source = SOURCE.format(summary=held_out["summary"], details="It was written elsewhere, with quite other words.")
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "kettle-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("kettle/__init__.py", source)
        archive.writestr("kettle/tests/test_kettle.py", SOURCE.replace("steep", "tested"))
        archive.writestr("kettle/_vendor/other.py", SOURCE.replace("steep", "vendored"))
        archive.writestr("kettle/run.py", "raise SystemExit('imported')")
        archive.writestr("kettle-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: kettle\nVersion: 1.0\n")
        archive.writestr("kettle-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("kettle-1.0.dist-info/RECORD", "")
    listed = tmp_path / "wheels.txt"
    listed.write_text(f"kettle==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    monkeypatch.setattr(teacher_text, "WHEELS", listed)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(teacher_text, "_standard_library", lambda: iter(()))
    return listed


def test_wheels_are_read_without_being_installed_and_without_tests_vendored_code_and_copies(study, wheels):
    found = training_text(study)
    assert [d.name for d in found if d.package == "kettle"] == ["kettle.steep"]
    assert not (study.folder / "teacher_training" / "sources").exists()
    assert len({d.package for d in found}) > 1, "the corpus's training packages are there, too"
    held_out = {id for split in ("validation", "test") for id in load_corpus(study)[split]["id"]}
    assert not held_out & {d.id for d in found}


def test_the_text_is_read_once(study, wheels, monkeypatch):
    first = training_text(study)
    monkeypatch.setattr(teacher_text, "_read", lambda _: pytest.fail("read again"))
    assert training_text(study) == first


def test_a_wheel_with_another_content_is_refused_in_one_line(study, wheels):
    wheels.write_text(f"kettle==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(UserError, match=r"cannot be fetched: .*fetch_text=false") as raised:
        training_text(study)
    assert "\n" not in str(raised.value)


def test_without_the_setting_nothing_is_fetched(study, wheels, monkeypatch):
    monkeypatch.setattr(teacher_text, "_fetched", lambda _: pytest.fail("fetched"))
    alone = load_study("smoke", {"name": "alone"})
    assert "kettle" not in {d.package for d in training_text(alone)}


def test_the_standard_library_is_read_without_its_tests_and_what_is_installed():
    names = {name for name, _ in teacher_text._standard_library()}
    assert {"statistics", "json.decoder", "asyncio.events"} < names
    assert not [n for n in names if n.startswith(("test.", "site-packages.")) or ".test_" in n or "torch" in n]


def test_pairs_that_are_too_short_are_used_too_but_not_twice(study):
    long = " ".join(f"word{i}" for i in range(30))
    given = [
        Docstring("p", "p.a", "(x)", "A summary of four.", long),
        Docstring("p", "p.b", "(x)", "Another summary of four.", "Short."),
        Docstring("q", "q.b", "(x)", "Another summary of four!", "Shorter."),  # the same object, elsewhere
        Docstring("p", "p.c", "(x)", "No.", long),
    ]
    assert [d.name.partition(".")[2] for d in training_pairs(study, given)] == ["a", "b"]


def test_the_list_of_wheels_is_pinned_and_holds_no_held_out_package():
    lines = [line for line in teacher_text.WHEELS.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.partition("==")[0].lower() for line in lines]
    assert len(names) == len({*names}) >= 60 and all(" --hash=sha256:" in line for line in lines)
    from distill_utils.data.docstrings import listed_packages

    assert not {*names} & {package.lower() for package in listed_packages()}, "a package of the corpus is in its split"
