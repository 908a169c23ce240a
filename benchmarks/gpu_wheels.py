"""Fetch the wheels that a GPU machine without a network lacks: `python -m benchmarks.gpu_wheels DIR --python 3.12 --have FILE`.

FILE is what `pip list --format=freeze` printed there. PyTorch is never fetched: a GPU machine has its own build. On that machine:

    python -m pip install --no-index --no-deps --target SITE DIR/*.whl && export PYTHONPATH=SITE

CTranslate2 also loads cuBLAS 12 (`libcublas.so.12`) on a GPU, which has to be on that machine: PyTorch's builds for CUDA 12 bring
it, others need `nvidia-cublas-cu12`. The lock files have no CUDA libraries, so it is never fetched either.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT

LOCKS = ("requirements.lock", "requirements-ctranslate2.lock")
#: What `python -m benchmarks.gpu` and the tests of a GPU import first; their own requirements follow.
NEEDED = ("transformers", "datasets", "evaluate", "rouge_score", "pydantic", "papermill", "accelerate", "hypothesis", "ipywidgets", "ctranslate2", "pytest", "scikit-learn", "regex", "psutil", "matplotlib", "filelock", "mistune", "nbformat")  # fmt: skip
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 26, 27, 28, 31, 34)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


def lacking(have: dict[str, str]) -> list[str]:
    """Return the pins of what a machine lacks, or has in a version that a requirement excludes.

    Raises UserError if the project does not require one of :data:`NEEDED`, or the lock files do not pin it.
    """
    pins = {canonicalize_name(r.name): r for lock in LOCKS for r in map(Requirement, (ROOT / lock).read_text().split())}
    found: dict[str, str] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # an installed copy may be older
    listed = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    required = {canonicalize_name(r.name): r for r in map(Requirement, listed)}
    needed = [canonicalize_name(name) for name in NEEDED]
    if missing := [name for name in needed if name not in required or name not in pins]:
        raise UserError(f"{', '.join(missing)}: needed, but not in pyproject.toml or not in {' and '.join(LOCKS)}")
    waiting = [required[name] for name in needed]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name == "torch" or name not in pins:
            continue
        there = have.get(name)
        if there is None or not wanted.specifier.contains(Version(there), prereleases=True):
            found[name] = str(pins[name])
            if name not in seen:
                seen.add(name)
                own = map(Requirement, metadata.requires(name) or [])
                waiting += [r for r in own if r.marker is None or r.marker.evaluate({"extra": ""})]
    return sorted(found.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_wheels", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--python", default="3.12", help="the machine's Python")
    parser.add_argument(
        "--have", type=Path, help="what pip list --format=freeze printed there; without it, nothing is there"
    )
    options = parser.parse_args(arguments)
    lines = options.have.read_text().split() if options.have else []
    have = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    for pin in lacking(have):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp",
             "--python-version", options.python, *platforms, "-d", str(options.folder), pin], check=False,
        )  # fmt: skip
        if done.returncode:
            return 2  # pip has said why
    size = sum(file.stat().st_size for file in options.folder.glob("*.whl"))
    print(f"{options.folder}: {len([*options.folder.glob('*.whl')])} wheels, {size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
