"""Packages that copy each other's docstrings are found, and none of them is in two splits."""

from benchmarks.families import FILE, copies
from distill_utils.data.docstrings import Docstring, listed_packages
from distill_utils.system.artefacts import read_json

#: So many shared docstrings make two packages one family; fewer are dropped one by one.
FAMILY = 3


def test_copies_are_counted_once_per_docstring_by_document_or_by_signature():
    words = [f"word{i}" for i in range(60)]
    signature = f"({', '.join(f'argument_{i}' for i in range(12))})"
    found = [
        Docstring("a", "a.f", "(x)", "Do one thing.", " ".join(words)),
        Docstring("b", "b.g", "(y)", "Do another.", " ".join([*words, "more"])),  # nearly a's document
        Docstring("a", "a.h", signature, "Do a third thing.", "Short."),
        Docstring("c", "c.d.h", signature, "Do a third thing.", " ".join(reversed(words))),  # a's signature and summary
        Docstring("a", "a.i", "(x)", "Do one thing.", " ".join(words)),  # within a package
    ]
    assert copies(found, 0.8) == {("a", "b"): 2, ("a", "c"): 1}, "b's text is that of two of a's"


def test_no_family_is_in_two_splits():
    measured, splits = read_json(FILE), listed_packages()
    assert {*measured["versions"]} <= {*splits}
    apart = [row for row in measured["copies"] if row["copies"] >= FAMILY and splits[row["a"]] != splits[row["b"]]]
    assert not apart and any(row["copies"] >= FAMILY for row in measured["copies"])
