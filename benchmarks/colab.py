"""Let the notebooks open in Google Colab: `make colab REPOSITORY=https://github.com/OWNER/NAME`.

Writes the repository's address into the notebooks' setup cell, and badges that open them into the README.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from distill_utils.system.artefacts import write_text
from distill_utils.system.paths import ROOT

ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
SERVICE = "https://colab.research.google.com"


def set_repository(address: str, root: Path = ROOT) -> None:
    """Raises ValueError if the address is not that of a repository on GitHub, which Colab opens notebooks from."""
    match = ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(f"{address!r} is not an address like https://github.com/OWNER/NAME")
    badges = []
    for path in sorted((root / "notebooks").glob("0*.ipynb")):
        text, count = re.subn(
            r'REPOSITORY = \\"[^"\\]*\\"', f'REPOSITORY = \\\\"{address}\\\\"', path.read_text("utf-8")
        )
        if count != 1:
            raise ValueError(f"{path.name} has {count} lines for the repository's address")
        write_text(path, text)
        place = f"{SERVICE}/github/{match[1]}/blob/main/notebooks/{path.name}"
        badges.append(f"[![{path.stem}]({SERVICE}/assets/colab-badge.svg)]({place})")
    readme = root / "README.md"
    block = f"<!-- colab -->In Google Colab: {' '.join(badges)} <!-- /colab -->"
    text = re.sub(r"<!-- colab -->.*?<!-- /colab -->", lambda _: block, readme.read_text("utf-8"), flags=re.DOTALL)
    write_text(readme, text)


if __name__ == "__main__":
    try:
        set_repository(sys.argv[1] if len(sys.argv) > 1 else "")
    except ValueError as error:
        print(f"colab: {error}", file=sys.stderr)
        sys.exit(2)
