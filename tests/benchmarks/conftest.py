"""A study in a workspace of its own, and a student of its teacher that was not trained."""

import pytest

from distill_utils.models.prepared import Prepared
from distill_utils.models.student import make_student
from distill_utils.studies.loading import load_study


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    return load_study("smoke")


@pytest.fixture
def student(study, tmp_path):
    """Return the folder of a 2-1 student."""
    teacher, tokenizer = Prepared(study).load_teacher()
    folder = tmp_path / "student"
    make_student(teacher, 2, 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
