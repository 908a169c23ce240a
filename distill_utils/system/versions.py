"""Check the installed libraries against the package's declared requirements."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from distill_utils.system.errors import UserError

PACKAGE = "distill-utils"


def check_versions() -> None:
    """Raise UserError if a required library is missing, too old or too new."""
    try:
        declared = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:  # run from a folder, without metadata
        return
    for requirement in declared:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        # Hardware vendors' builds carry pre-release versions of the release they contain.
        if version is None or not requirement.specifier.contains(Version(version).base_version):
            found = f"{requirement.name} {version} is installed" if version else f"{requirement.name} is not installed"
            wanted = f"{requirement.name}{requirement.specifier}"
            raise UserError(f"{found}, and {wanted} is needed: make setup, or pip install {wanted!r}")
