"""Find packages of the corpus that copy each other's docstrings: `python -m benchmarks.families`.

Such packages have to be in the same split. The result is in `benchmarks/results/families.json`, and a test compares
`studies/docstrings/packages.toml` with it.
"""

from __future__ import annotations

from collections import Counter

from benchmarks.report import RESULTS
from distill_utils.data.docstrings import (
    Docstring,
    extract,
    installed_versions,
    listed_packages,
    rejection,
    source_files,
)
from distill_utils.data.near_duplicates import NearDuplicates, signature_and_summary
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import write_json
from distill_utils.system.progress import progress

FILE = RESULTS / "families.json"


def copies(docstrings: list[Docstring], jaccard: float) -> dict[tuple[str, str], int]:
    """Count the docstrings that two packages share: near duplicates of the document, or of signature and summary."""
    shared: dict[tuple[str, str], set[int]] = {}
    for view in (lambda d: d.document, lambda d: signature_and_summary(d.document, d.summary)):
        index = NearDuplicates(map(view, docstrings), jaccard)
        for i, docstring in enumerate(progress(docstrings, desc="comparing", unit="docstring")):
            for other in index.matches(view(docstring)):
                pair = tuple(sorted((docstring.package, docstrings[other].package)))
                if pair[0] != pair[1]:
                    shared.setdefault(pair, set()).add(i)
            index.add(view(docstring))
    return {pair: len(found) for pair, found in shared.items()}


def main() -> None:
    filters, packages = load_study("docstrings").corpus.filters, listed_packages()
    found, _ = extract(source_files(packages))
    usable = {d.id + d.package: d for d in found if not rejection(d, filters)}
    sizes = Counter(d.package for d in usable.values())
    shared = copies([*usable.values()], filters.near_duplicate_jaccard)
    rows = [
        {"a": a, "b": b, "copies": count, "share_of_smaller": round(count / min(sizes[a], sizes[b]), 4)}
        for (a, b), count in sorted(shared.items(), key=lambda item: -item[1])
    ]
    write_json(
        FILE, {"jaccard": filters.near_duplicate_jaccard, "versions": installed_versions(packages), "copies": rows}
    )


if __name__ == "__main__":
    main()
