"""Where things lie: the package, and the working folder that holds runs, figures and models."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent


def located(path: str | Path) -> Path:
    """A path of a study file, which is relative to the repository unless it is absolute."""
    return ROOT / path


def notebook_paths() -> list[Path]:
    """The four notebooks, in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
