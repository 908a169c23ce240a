"""Extract document–summary pairs from the docstrings of installed packages."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from distill_utils.data.near_duplicates import NearDuplicates
from distill_utils.data.splits import SPLITS, digest, fold, normalized, split_of
from distill_utils.studies.loading import STUDIES
from distill_utils.studies.settings import DocstringFilters
from distill_utils.system.progress import progress
from distill_utils.system.workers import worker_pool

PACKAGE_LIST = STUDIES / "docstrings_packages.txt"
#: Folders of tests and of vendored code, which has its own package.
SKIPPED_FOLDERS = re.compile(
    r"^(_?tests?|testing|_?vendor(ed)?|_?vendored_packages|_?extern(al|als)?|third_?party|"
    r"site_packages|__pycache__|\.data)$"
)
SKIPPED_FILES = re.compile(r"^(test_.*|.*_test|conftest|.*_pb2)\.py$")


@dataclass(frozen=True)
class Docstring:
    """One docstring: ``summary`` is its first paragraph, ``details`` the rest; white space is folded."""

    package: str
    name: str
    signature: str
    summary: str
    details: str

    @property
    def document(self) -> str:
        """The model's input: ``name(signature)`` on the first line, the details on the second."""
        return f"{self.name}{self.signature}\n{self.details}".rstrip()

    @property
    def id(self) -> str:
        """A hash of both texts, the same on every machine."""
        return digest(self.document + "\0" + self.summary)[:16]


def listed_packages() -> list[str]:
    """Return the packages of the default corpus, from ``studies/docstrings_packages.txt``."""
    lines = (line.partition("#")[0].strip() for line in PACKAGE_LIST.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def source_files(packages: Iterable[str]) -> dict[str, list[tuple[str, Path]]]:
    """Return, per installed package, the (module name, path) of each Python source, without tests and vendored code.

    Packages that are not installed (pinned for another platform, say) are left out.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    for package in packages:
        try:
            files = metadata.distribution(package).files or []
        except metadata.PackageNotFoundError:
            continue
        modules = []
        for file in files:
            path = PurePosixPath(str(file))
            if path.suffix != ".py" or path.is_absolute() or ".." in path.parts:
                continue
            if SKIPPED_FILES.match(path.name) or any(SKIPPED_FOLDERS.match(p) for p in path.parts[:-1]):
                continue
            parts = path.with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules.append((module, Path(str(file.locate()))))
        if modules:
            found[package] = sorted(modules)
    return found


def parse_module(package: str, module: str, path: Path) -> list[Docstring] | None:
    """Return the docstrings of a module in source order, or None if it cannot be decoded or parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes
            return list(_walk(ast.parse(path.read_bytes()), package, module))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _walk(node: ast.AST, package: str, name: str) -> Iterator[Docstring]:
    if text := _docstring(node):
        summary, _, details = text.partition("\n\n")
        yield Docstring(package, name, _signature(node), fold(summary), fold(details))
    for child in getattr(node, "body", []):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, package, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):  # definitions after a version or platform check
            yield from _walk_block(child, package, name)


def _walk_block(node: ast.If | ast.Try, package: str, name: str) -> Iterator[Docstring]:
    for child in [*node.body, *node.orelse]:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, package, f"{name}.{child.name}")


def _docstring(node: ast.AST) -> str:
    text = ast.get_docstring(node, clean=False) or ""
    # cleandoc keeps the spaces of blank lines that are indented deeper than the text.
    return re.sub(r"\n[ \t]+(?=\n)", "\n", inspect.cleandoc(text)) if text.strip() else ""


def _signature(node: ast.AST) -> str:
    """Return ``(b, a, tol=0.001)``, for a class that of its ``__init__``; empty for a module.

    Annotations are left out: they are long, and the details describe them in words.
    """
    if isinstance(node, ast.ClassDef):
        init = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        node = next(init, node)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    args = node.args
    for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg):
        if arg is not None:
            arg.annotation = None
    plain = args.posonlyargs or args.args
    if plain and plain[0].arg in ("self", "cls"):
        del plain[0]
    return f"({fold(ast.unparse(args))})"


def _parse_batch(batch: list[tuple[str, str, Path]]) -> list[list[Docstring] | None]:
    return [parse_module(*job) for job in batch]


def extract(packages: Iterable[str], workers: int = 2) -> tuple[list[Docstring], dict]:
    """Return all docstrings of the packages in a fixed order, and the counts of files and docstrings."""
    jobs = [(p, m, f) for p, files in source_files(packages).items() for m, f in files]
    batches = [jobs[i : i + 64] for i in range(0, len(jobs), 64)]
    docstrings: list[Docstring] = []
    unreadable = 0
    with worker_pool(workers) as pool:
        results = pool.map(_parse_batch, batches)
        for batch in progress(results, total=len(batches), desc="parsing sources", unit="batch"):
            for found in batch:
                unreadable += found is None
                docstrings.extend(found or ())
    return docstrings, {
        "files": len(jobs),
        "unreadable_files": unreadable,
        "docstrings": len(docstrings),
        "docstrings_per_package": dict(Counter(d.package for d in docstrings).most_common()),
    }


def rejection(docstring: Docstring, filters: DocstringFilters) -> str:
    """Return why a docstring does not become a pair; empty if it does."""
    summary_words, details_words = len(docstring.summary.split()), len(docstring.details.split())
    if summary_words < filters.min_summary_words or not normalized(docstring.summary):
        return "summary too short"
    if summary_words > filters.max_summary_words:
        return "summary too long"
    if any(re.search(pattern, docstring.summary) for pattern in filters.boilerplate):
        return "boilerplate"
    if details_words < filters.min_details_words:
        return "details too short"
    if details_words > filters.max_details_words:
        return "details too long"
    return ""


def select_pairs(docstrings: list[Docstring], filters: DocstringFilters) -> tuple[dict[str, list[Docstring]], dict]:
    """Filter, deduplicate and split docstrings.

    Of near-duplicate documents one is kept, preferably of an evaluation split, so that training text
    is dropped.

    Returns:
        The pairs per split, ordered by id, and the number of docstrings dropped by each filter.
    """
    dropped: Counter[str] = Counter()
    candidates: dict[str, Docstring] = {}
    for docstring in docstrings:
        reason = rejection(docstring, filters)
        if not reason and docstring.id in candidates:
            reason = "exact duplicate"
        if reason:
            dropped[reason] += 1
        else:
            candidates[docstring.id] = docstring
    order = sorted(candidates.values(), key=lambda d: (SPLITS[::-1].index(split_of(d.summary)), d.id))
    seen = NearDuplicates((d.document for d in order), filters.near_duplicate_jaccard)
    per_summary: Counter[str] = Counter()
    pairs: dict[str, list[Docstring]] = {split: [] for split in SPLITS}
    for docstring in progress(order, desc="dropping near duplicates", unit="pair"):
        summary = normalized(docstring.summary)
        if per_summary[summary] == filters.max_pairs_per_summary:
            dropped["summary too common"] += 1
        elif seen.contains(docstring.document):
            dropped["near duplicate"] += 1
        else:
            seen.add(docstring.document)
            per_summary[summary] += 1
            pairs[split_of(docstring.summary)].append(docstring)
    return pairs, dict(dropped)


def training_only(
    docstrings: list[Docstring], pairs: dict[str, list[Docstring]], filters: DocstringFilters
) -> list[Docstring]:
    """Return the docstrings that a teacher may train on, whether or not they became pairs.

    These are the unique docstrings, ordered by id, whose summary belongs to the training split and whose
    document is not a near duplicate of a validation or test document.
    """
    held_out = [d.document for split in ("validation", "test") for d in pairs[split]]
    seen = NearDuplicates(held_out, filters.near_duplicate_jaccard)
    for text in held_out:
        seen.add(text)
    candidates = {d.id: d for d in docstrings if split_of(d.summary) == "train"}
    ordered = [candidates[id] for id in sorted(candidates)]
    bar = progress(ordered, desc="choosing training text", unit="docstring")
    return [d for d in bar if not seen.contains(d.document)]


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each installed package."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
