"""Extract document–summary pairs from the docstrings of installed packages."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from distill_utils.data.near_duplicates import NearDuplicates, signature_and_summary
from distill_utils.data.splits import SPLITS, digest, fold, normalized
from distill_utils.studies.loading import STUDIES
from distill_utils.studies.settings import DocstringFilters
from distill_utils.system.progress import progress
from distill_utils.system.workers import worker_pool

PACKAGE_LIST = STUDIES / "docstrings" / "packages.toml"
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


def listed_packages() -> dict[str, str]:
    """Return the split of each package of the default corpus, from ``studies/docstrings/packages.toml``."""
    listed = tomllib.loads(PACKAGE_LIST.read_text("utf-8"))
    return {package: split for split in SPLITS for package in listed[split]}


#: Per package, the (module name, path) of each Python source.
Modules = dict[str, list[tuple[str, Path]]]


def source_files(packages: Iterable[str]) -> Modules:
    """Return the Python sources of installed packages, without tests and vendored code.

    Packages that are not installed (pinned for another platform, say) are left out.
    """
    found: Modules = {}
    for package in packages:
        try:
            files = metadata.distribution(package).files or []
        except metadata.PackageNotFoundError:
            continue
        modules = [
            (module_name(path), Path(str(file.locate())))
            for file in files
            if is_source(path := PurePosixPath(str(file)))
        ]
        if modules:
            found[package] = sorted(modules)
    return found


def is_source(path: PurePosixPath) -> bool:
    """Return whether a package's file is a Python source of its own, not a test or vendored."""
    if path.suffix != ".py" or path.is_absolute() or ".." in path.parts:
        return False
    return not SKIPPED_FILES.match(path.name) and not any(SKIPPED_FOLDERS.match(p) for p in path.parts[:-1])


def module_name(path: PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def extract(sources: Modules, workers: int = 2) -> tuple[list[Docstring], dict]:
    """Return all docstrings of the sources in a fixed order, and the counts of files and docstrings."""
    jobs = [(p, m, f) for p, files in sources.items() for m, f in files]
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


def select_pairs(
    docstrings: list[Docstring], filters: DocstringFilters, splits: Mapping[str, str]
) -> tuple[dict[str, list[Docstring]], dict]:
    """Filter and deduplicate docstrings, and split them by package.

    Of near-duplicate documents one is kept. Between splits, near duplicates of a signature with its summary and of a
    summary count as copies, too. The test split keeps its own, then the validation split, so that training text is
    dropped.

    Args:
        splits: the split of each package; the others are ``train``.

    Returns:
        The pairs per split, ordered by id, and the number of docstrings dropped by each filter.
    """
    dropped: Counter[str] = Counter()
    candidates: dict[str, Docstring] = {}
    for docstring in sorted(docstrings, key=lambda d: (SPLITS[::-1].index(splits.get(d.package, "train")), d.package)):
        reason = rejection(docstring, filters)
        if not reason and docstring.id in candidates:
            reason = "exact duplicate"
        if reason:
            dropped[reason] += 1
        else:
            candidates[docstring.id] = docstring
    pairs: dict[str, list[Docstring]] = {split: [] for split in SPLITS}
    seen = NearDuplicates((d.document for d in candidates.values()), filters.near_duplicate_jaccard)
    held_out: list[Docstring] = []
    per_summary: Counter[str] = Counter()
    for split in SPLITS[::-1]:
        own = sorted((d for d in candidates.values() if splits.get(d.package, "train") == split), key=lambda d: d.id)
        others = Copies(held_out, filters.near_duplicate_jaccard, documents=False)  # `seen` has them
        for docstring in progress(own, desc=f"dropping near duplicates, {split}", unit="pair"):
            summary = normalized(docstring.summary)
            if per_summary[summary] == filters.max_pairs_per_summary:
                dropped["summary too common"] += 1
            elif seen.contains(docstring.document):
                dropped["near duplicate"] += 1
            elif others.contain(docstring):
                dropped["copy of another split's signature or summary"] += 1
            else:
                seen.add(docstring.document)
                per_summary[summary] += 1
                pairs[split].append(docstring)
        held_out += pairs[split]
    return pairs, dict(dropped)


class Copies:
    """Finds near duplicates of given docstrings by signature with summary or by summary, and by document if asked."""

    def __init__(self, held_out: list[Docstring], jaccard: float, *, documents: bool = True) -> None:
        self._documents = documents
        views = [self._views(d) for d in held_out]
        self._found = [NearDuplicates(texts, jaccard) for texts in zip(*views, strict=True)]
        for texts in views:
            for index, text in zip(self._found, texts, strict=True):
                index.add(text)

    def _views(self, d: Docstring) -> list[str]:
        return [signature_and_summary(d.document, d.summary), d.summary, *([d.document] if self._documents else [])]

    def contain(self, docstring: Docstring) -> bool:
        if not self._found:
            return False
        return any(index.contains(text) for index, text in zip(self._found, self._views(docstring), strict=True))


def training_only(
    docstrings: list[Docstring], pairs: dict[str, list[Docstring]], filters: DocstringFilters, splits: Mapping[str, str]
) -> list[Docstring]:
    """Return the docstrings that a teacher may train on, whether or not they became pairs.

    These are the unique docstrings of training packages, ordered by id, that copy no validation or test pair.
    """
    copies = Copies([*pairs["test"], *pairs["validation"]], filters.near_duplicate_jaccard)
    candidates = {d.id: d for d in docstrings if splits.get(d.package, "train") == "train"}
    ordered = [candidates[id] for id in sorted(candidates)]
    bar = progress(ordered, desc="choosing training text", unit="docstring")
    return [d for d in bar if not copies.contain(d)]


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each installed package."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
