"""The workspace: which folder it is, and what is found in the clone from another one."""

from pathlib import Path

import pytest

from distill_utils.studies.loading import load_study
from distill_utils.system import paths
from distill_utils.system.hub import is_hub_id
from distill_utils.system.paths import ROOT, home, located


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTILL_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("inside", [".", "notebooks"])
def test_in_a_clone_the_workspace_is_the_clone(monkeypatch, inside):
    monkeypatch.chdir(ROOT / inside)
    assert home() == ROOT and load_study("smoke").folder == ROOT / "runs" / "smoke"


def test_elsewhere_it_is_the_working_folder_or_the_one_that_is_named(tmp_path, monkeypatch):
    assert home() == tmp_path and load_study("smoke").figures_folder == tmp_path / "figures" / "smoke"
    monkeypatch.setenv("DISTILL_HOME", "mine")
    assert home() == tmp_path / "mine"
    monkeypatch.chdir(ROOT)
    assert home() == ROOT / "mine"


def test_a_wheel_has_no_clone(monkeypatch):
    monkeypatch.setattr(paths, "IN_CLONE", False)
    monkeypatch.chdir(ROOT / "models")
    assert home() == ROOT / "models" and located("README.md") == ROOT / "models" / "README.md"


def test_a_path_of_a_study_is_in_the_workspace_or_else_in_the_clone(tmp_path):
    shipped = Path("models/docstrings_teacher")
    assert located(shipped) == ROOT / shipped and located("models/none") == tmp_path / "models" / "none"
    (tmp_path / shipped).mkdir(parents=True)
    assert located(shipped) == tmp_path / shipped
    assert located("/models") == Path("/models")


def test_a_folder_of_the_workspace_is_no_id_on_the_hub():
    assert not is_hub_id("models/docstrings_teacher") and is_hub_id("owner/name")
