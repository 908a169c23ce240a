"""The package as a wheel, in a folder of its own outside the clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from distill_utils.report.sentences import runtimes_paragraphs
from distill_utils.system.artefacts import read_json
from distill_utils.system.paths import ROOT, notebook_paths
from tests.conftest import OLD_PROCESSOR


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, for setuptools writes beside what it builds."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("distill_utils", "notebooks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel and, through a path file, this one's libraries, but not its editable install."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def command(installed, workspace):
    """Runs a program of the environment in the workspace; returns (exit code, stdout, stderr)."""

    def run(program, *arguments, **more):
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DISTILL_HOME")} | more
        done = subprocess.run(
            [str(installed / "bin" / program), *arguments], cwd=workspace, env=environment, capture_output=True, text=True
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def files(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_the_wheel_holds_studies_packages_and_notebooks_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "distill_utils").rglob("*")
        if p.suffix in (".py", ".toml", ".txt")
    }
    notebooks = {f"distill_utils/_notebooks/{path.name}" for path in notebook_paths()}
    assert {name for name in names if ".dist-info/" not in name} == package | notebooks
    assert "distill_utils/studies/docstrings/packages.toml" in package and len(notebooks) == 4


def test_the_notebooks_are_copied_and_never_overwritten(command, workspace):
    code, out, err = command("distill", "notebooks", "nb")
    assert code == 0, err
    assert out.count("\n") == 1 and f"DISTILL_HOME={workspace} jupyter lab {workspace / 'nb'}" in out
    assert [path.read_bytes() for path in sorted((workspace / "nb").iterdir())] == [
        p.read_bytes() for p in notebook_paths()
    ]
    code, out, err = command("distill", "notebooks", "nb")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "already has 01_data_exploration.ipynb" in err


def test_without_the_shipped_teacher_one_line_says_how_to_get_it(command, workspace):
    code, out, err = command("distill", "run", "docstrings")
    assert (code, out) == (2, "")
    assert err == (
        f"distill: there is no teacher in {workspace}/models/docstrings_teacher; copy it there from the repository, "
        "or make one: distill teacher docstrings\n"
    )


def test_a_study_runs_in_an_empty_folder_and_on_an_old_processor(command, installed, workspace):
    """All notebooks, one of the copies, and a study of one's own; nothing is written into the environment.

    The processor has no bfloat16, as far as the libraries can tell, and the study asks for a backend that needs it.
    """
    pytest.importorskip("ctranslate2")
    before = files(installed)
    assert command("python", "-c", "import distill_utils; print(distill_utils.__path__)")[1].count(str(installed)) == 1
    code, out, err = command("distill", "--help")
    assert code == 0 and "notebooks" in out, err
    runtimes = 'speed.runtimes=["pytorch-bf16", "ctranslate2-int8"]'
    code, out, err = command("distill", "run", "smoke", "--set", runtimes, **OLD_PROCESSOR)
    assert code == 0 and f"figures:     {workspace / 'figures' / 'smoke'}\n" in out, err
    results = read_json(workspace / "runs" / "smoke" / "results.json")
    assert list(results["skipped_runtimes"]) == ["pytorch-bf16"]
    assert results["environment"]["instructions"] == ["AVX2"]
    assert "pytorch-bf16 was skipped" in "\n".join(runtimes_paragraphs(results))
    assert {s["runtime"] for s in results["systems"] if s.get("parts")} == {"pytorch-fp32", "ctranslate2-int8"}
    executed = workspace / "runs" / "smoke" / "notebooks" / "04_speed_rouge_analysis.ipynb"
    assert "pytorch-bf16 is skipped" in executed.read_text("utf-8")

    assert command("distill", "notebooks", "copies")[0] == 0
    papermill = (
        "copies/01_data_exploration.ipynb",
        "executed.ipynb",
        "--cwd",
        "copies",
        "-k",
        "python3",
        "-p",
        "STUDY",
        "smoke",
    )
    code, _, err = command("python", "-m", "papermill", *papermill, DISTILL_HOME=str(workspace))
    assert code == 0, err
    assert {path.name for path in workspace.iterdir()} <= {"copies", "executed.ipynb", "figures", "nb", "runs"}
    assert len(list((workspace / "copies").iterdir())) == 4

    (workspace / "my.toml").write_text('like = "smoke"\ntitle = "Mine"\n')
    code, out, err = command("distill", "train", "my.toml", "--method", "sft")
    assert (code, out) == (0, f"student: {workspace / 'runs' / 'my' / 'students' / '2-1-sft-0'}\n"), err
    assert files(installed) == before
