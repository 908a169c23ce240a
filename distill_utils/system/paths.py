"""Where things lie: the package, its clone, and the workspace, which holds ``runs/``, ``figures/`` and ``models/``."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
#: The clone that the package is run from: README, docs, tests, notebooks. Of a wheel it is site-packages.
ROOT = PACKAGE.parent
IN_CLONE = (ROOT / "pyproject.toml").is_file() and (ROOT / "notebooks").is_dir()


def home() -> Path:
    """The workspace: ``DISTILL_HOME``, or else the clone when working inside it, or else the working folder."""
    if named := os.environ.get("DISTILL_HOME"):
        return Path(named).resolve()
    here = Path.cwd()
    return ROOT if IN_CLONE and here.is_relative_to(ROOT) else here


def located(path: str | Path) -> Path:
    """A path of a study file: in the workspace or, if it is only there, in the clone."""
    own, shipped = home() / path, ROOT / path
    return shipped if IN_CLONE and shipped.exists() and not own.exists() else own


def notebook_paths() -> list[Path]:
    """The four notebooks, in their order; a wheel has them inside the package."""
    folder = ROOT / "notebooks" if IN_CLONE else PACKAGE / "_notebooks"
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))
