"""A package imports only what stands below it, and no import is circular."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from distill_utils.system.paths import PACKAGE

#: From top to bottom; the commands stand on one floor, above all packages.
LAYERS = ["commands", "notebook", "report", "plots", "evaluation", "training", "models", "data", "studies", "metrics", "system"]  # fmt: skip
MODULES = sorted(p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for p in PACKAGE.rglob("*.py"))


def layer(module: str) -> str:
    return module.partition(".")[0] if "." in module else "commands"


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the package that a module imports, also inside functions."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    return frozenset(_imported(tree)) - {module}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and re.match(r"distill_utils\b", node.module or ""):
            place = node.module.removeprefix("distill_utils").lstrip(".")
            for name in node.names:
                inside = f"{place}.{name.name}".lstrip(".")
                candidates = (inside, f"{inside}.__init__", place, f"{place}.__init__".lstrip("."))
                yield next(c for c in candidates if c in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_above_its_package(module):
    if layer(module) == "commands":
        return
    above = {m for m in imports(module) if LAYERS.index(layer(m)) < LAYERS.index(layer(module))}
    assert not above, f"{module} imports {sorted(above)} from a package above its own"


def test_no_import_is_circular():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(imports(module)):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_every_package_has_its_layer():
    assert {layer(m) for m in MODULES} == set(LAYERS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_is_long(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= 450
