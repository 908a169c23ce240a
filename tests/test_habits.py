"""The files that tell contributors how to work: licence, hooks, workflow, guide."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from distill_utils.system.paths import ROOT


def test_the_licence_is_declared_and_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"
    (name,) = project["license-files"]
    assert (ROOT / name).read_text().startswith("MIT License\n\nCopyright (c) 2026 The distill-utils authors\n")


def test_the_workflow_runs_what_ci_runs():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]
    assert 60 <= job["timeout-minutes"] <= 90


def hooks():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return {hook["id"]: repository | hook for repository in repositories for hook in repository["hooks"]}


@pytest.mark.parametrize("command", ["check", "format"])
def test_the_hooks_run_the_locked_ruff(command):
    hook = hooks()[f"ruff-{command}"]
    assert hook["repo"] == "local" and hook["language"] == "system"
    assert hook["entry"].startswith(f".venv/bin/ruff {command} ")
    (locked,) = re.findall(r"^ruff==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    ruff = Path(sys.executable).with_name("ruff")
    assert subprocess.run([ruff, "--version"], capture_output=True, text=True, check=True).stdout == f"ruff {locked}\n"


def test_the_notebook_hook_is_pinned_and_keeps_cell_ids():
    hook = hooks()["nbstripout"]
    assert re.fullmatch(r"[0-9.]+", hook["rev"]) and hook["args"] == ["--keep-id"]
    assert re.match(hook["files"], "notebooks/01_data_exploration.ipynb")


def test_the_guide_is_short_and_its_make_targets_exist():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(guide.splitlines()) <= 60
    targets = set(re.findall(r"make ([a-z-]+)", guide))
    assert {"setup", "test", "soak", "lint", "figures"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_changelog_opens_with_what_is_not_released_and_has_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[:2] == ["Unreleased", project["version"]]
