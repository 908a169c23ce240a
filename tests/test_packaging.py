"""One declaration of the dependencies, and notebooks as they should be committed."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distill_utils.run_study import notebook_paths
from distill_utils.system.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-ctranslate2.lock", "requirements-test.lock")
LOCK = [line for name in LOCKS for line in (ROOT / name).read_text().splitlines()]


def locked():
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}


def declared():
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    return [Requirement(r) for r in PROJECT["dependencies"] + extras]


def test_the_lock_holds_names_and_versions_only():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line) for line in LOCK)


def test_the_lock_satisfies_what_is_declared():
    versions = locked()
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is declared but not locked"
        assert requirement.specifier.contains(versions[name]), f"{requirement} against {versions[name]}"


def test_the_packages_that_the_study_is_for_are_declared():
    names = {canonicalize_name(r.name) for r in declared()}
    wanted = {
        "torch",
        "transformers",
        "datasets",
        "evaluate",
        "rouge-score",
        "jupyterlab",
        "matplotlib",
        "papermill",
        "ipywidgets",
    }
    assert wanted <= names


def test_environment_yml_installs_the_same_package():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": [*(f"--constraint {name}" for name in LOCKS), "-e .[dev,ctranslate2,browser,tensorboard]"]}


def test_the_makefile_installs_the_lock_and_the_package():
    asked = subprocess.run(["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install -q" + "".join(f" -r {name}" for name in LOCKS) in asked and "--no-deps -e ." in asked


def test_a_python_that_is_too_old_is_refused_before_anything_is_installed():
    """By the package itself, which pyproject.toml cannot tell what is too old: reading it takes Python 3.11."""
    asked = subprocess.run(["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert asked.index("-c 'import distill_utils'") < asked.index("pip install")
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"< ({oldest.replace('.', ', ')})" in (ROOT / "distill_utils/__init__.py").read_text()


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci/run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert readme.index("make study") < readme.index("make test") < readme.index("environment.yml")


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda p: p.stem)
def test_notebooks_are_committed_without_outputs_and_with_parameters(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert "".join(parameters["source"]).endswith('STUDY = "docstrings"\nOVERRIDES = {}')
    assert all(len(cell["source"]) <= 25 for cell in code), "a notebook tells the story; the module does the work"
    assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell["source"])


def test_there_are_the_four_notebooks():
    names = ["01_data_exploration", "02_teacher_evaluation", "03_distillation", "04_speed_rouge_analysis"]
    assert [path.stem for path in notebook_paths()] == names


def test_no_pickle_and_no_remote_code():
    for path in (ROOT / "distill_utils").rglob("*.py"):
        text = path.read_text()
        if path.stem == "convert":  # of explicit use: tensors alone
            text = re.sub(r"torch\.load\(file, map_location=\"cpu\", weights_only=True\)", "", text)
        assert not re.search(r"import pickle|torch\.(save|load)\(|trust_remote_code(?!=False)", text), path


def test_no_notebook_cli_or_widget_is_imported_by_a_module():
    for path in (ROOT / "distill_utils").glob("*.py"):
        if path.stem not in ("cli", "__main__"):
            assert not re.search(r"^\s*from distill_utils(\.| import )(cli|widgets)", path.read_text(), re.MULTILINE), (
                path
            )


def test_runs_are_not_tracked():
    done = subprocess.run(["git", "ls-files", "runs", "models/teacher_model"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
