"""The notebooks' setup cell and the badges, as far as they can be tested without Google Colab."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.colab import set_repository
from distill_utils.studies.loading import load_study
from distill_utils.system.paths import ROOT

ADDRESS = "https://github.com/someone/distil.study"


def setup_cells(folder=ROOT / "notebooks"):
    """The code cell after the parameters of each notebook."""
    found = {}
    for path in sorted(folder.glob("0*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        at = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
        found[path.name] = "".join(cells[at + 1]["source"])
    return found


def test_where_the_package_is_there_the_cell_does_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    def fails(*_, **__):
        raise AssertionError("nothing is to be run")

    monkeypatch.setattr(subprocess, "run", fails)
    for cell in setup_cells().values():
        names = {"STUDY": "docstrings"}
        exec(cell, names)
        assert names["STUDY"] == "docstrings"


def test_the_cells_differ_only_in_what_has_to_run_before():
    first, second, third, fourth = setup_cells().values()
    assert first == second and third == fourth and third.startswith(first)
    assert load_study("xsum_trial").distillation.student == "12-6"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_in_a_fresh_environment_the_cell_installs_the_package(tmp_path):
    """An environment with the libraries and without this package; the repository is the clone on this machine."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    libraries = Path(find_spec("numpy").origin).parents[1]
    (own,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (own / "libraries.pth").write_text(f"{libraries}\n")
    cell = setup_cells()["01_data_exploration.ipynb"].replace('REPOSITORY = ""', f'REPOSITORY = "file://{ROOT}"')
    code = f'STUDY = "docstrings"\n{cell}\nimport distill_utils; print(STUDY, distill_utils.__file__, os.getcwd())'
    for _ in range(2):  # the second time in a new kernel
        done = subprocess.run(
            [str(tmp_path / "venv" / "bin" / "python"), "-c", code], cwd=tmp_path, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "HOME": str(tmp_path)}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        clone = tmp_path / "distill_notebook"
        assert done.stdout.split() == ["xsum_trial", str(clone / "distill_utils" / "__init__.py"), str(clone)]
    shutil.rmtree(tmp_path / "distill_notebook")
    (own / "__editable__.distill_utils-0.1.0.pth").unlink()
    unset = cell.replace(f'REPOSITORY = "file://{ROOT}"', 'REPOSITORY = ""')
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), "-c", unset], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode and done.stderr == "set REPOSITORY in this cell to the repository's address\n"


def test_the_address_is_written_into_cells_and_readme(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "README.md", tmp_path)
    for address in (ADDRESS, f"{ADDRESS}.git"):  # a second time replaces the first
        set_repository(address, tmp_path)
        assert all(f'REPOSITORY = "{address}"' in cell for cell in setup_cells(tmp_path / "notebooks").values())
        text = (tmp_path / "README.md").read_text("utf-8")
        link = "colab.research.google.com/github/someone/distil.study/blob/main/notebooks/0"
        assert text.count(link) == 4 and len(text.splitlines()) <= 200
    for wrong in ("", "https://example.org/a/b", "https://github.com/a", 'https://github.com/a/b"; x'):
        with pytest.raises(ValueError, match="is not an address like"):
            set_repository(wrong, tmp_path)
