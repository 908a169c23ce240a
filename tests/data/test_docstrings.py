"""The docstring corpus: what is read, what is dropped, and that no split leaks into another."""

import re
import string
import textwrap
import tomllib
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill_utils.data import docstrings
from distill_utils.data.docstrings import (
    Docstring,
    extract,
    parse_module,
    rejection,
    select_pairs,
    source_files,
    training_only,
)
from distill_utils.data.near_duplicates import NearDuplicates
from distill_utils.data.splits import SPLITS, fold, normalized, split_of
from distill_utils.studies.settings import DocstringFilters
from tests.helpers.properties import examples, lists

SOURCE = '''
"""Tools for tea.

Kettles and cups are in other modules.
"""

class Pot(Vessel):
    """A pot
    of tea.
    \t
    It holds *several* cups.

    And more.
    """

    def __init__(self, size: int = 2, *, lid=True):
        pass

    async def pour(self, cup: "Cup", /, *rest, hot: bool = True, **more) -> None:
        """Pour tea."""

        def helper():
            """Not reached."""

if True:
    def brew(leaves, minutes=3):
        """Brew tea.

        Not too long.
        """
else:
    def brew(leaves):
        """Brew."""

def silent(): pass
'''


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "tea.py"
    path.write_text(textwrap.dedent(SOURCE))
    return {d.name: d for d in parse_module("tea", "tea", path)}


def test_names_signatures_and_paragraphs(module):
    assert module["tea"] == Docstring("tea", "tea", "", "Tools for tea.", "Kettles and cups are in other modules.")
    pot = module["tea.Pot"]
    assert (pot.summary, pot.details) == ("A pot of tea.", "It holds *several* cups. And more.")
    assert pot.signature == "(size=2, *, lid=True)"
    assert module["tea.Pot.pour"].signature == "(cup, /, *rest, hot=True, **more)"
    assert module["tea.brew"].document.startswith("tea.brew(leaves")
    assert "tea.silent" not in module


def test_document_is_name_and_signature_then_details(module):
    assert module["tea.Pot"].document == "tea.Pot(size=2, *, lid=True)\nIt holds *several* cups. And more."


@pytest.mark.parametrize("content", [b"def broken(:\n", b"x = '\xff\xfe'", b"a\0b", b"# coding: nonsense\n"])
def test_what_does_not_parse_or_decode_is_skipped_and_counted(tmp_path, content):
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    assert parse_module("bad", "bad", path) is None


def test_tests_and_vendored_copies_are_skipped():
    files = source_files(["numpy", "pip", "not-installed-anywhere"])
    names = [module for modules in files.values() for module, _ in modules]
    assert "numpy.linalg._linalg" in names
    assert not [n for n in names if ".tests." in n or "_vendor" in n or n.endswith("conftest")]
    assert "not-installed-anywhere" not in files


def test_sources_are_parsed_not_imported(tmp_path):
    path = tmp_path / "danger.py"
    path.write_text('"""Do not run.\n\nEver."""\nraise SystemExit("imported")\n')
    assert parse_module("danger", "danger", path)[0].summary == "Do not run."


@examples(100)
@given(st.lists(st.text(string.ascii_lowercase + string.digits, min_size=1), min_size=1, max_size=6), st.data())
def test_split_depends_on_the_words_alone(found, data):
    """Whatever stands between them, other scripts included, and however they are written."""
    between = st.text(st.characters().filter(lambda c: not normalized(c)), min_size=1, max_size=3)
    cased = ["".join(c.upper() if data.draw(st.booleans()) else c for c in word) for word in found]
    written = data.draw(between).join([data.draw(between), *cased, data.draw(between)])
    assert normalized(written) == " ".join(found)
    assert split_of(written) == split_of(" ".join(found))


@examples(100)
@given(st.text(st.characters()))
def test_any_text_has_one_split_and_folding_twice_changes_nothing(text):
    assert split_of(text) == split_of(fold(text)) == split_of(f" {text} ") and split_of(text) in SPLITS
    assert fold(fold(text)) == fold(text) == fold(text).encode().decode(), "no lone surrogate is left"
    assert len(fold(text).splitlines()) <= 1


def test_split_is_the_same_everywhere_and_eighty_ten_ten():
    # Fixed values: changing them would move pairs that a shipped teacher was trained on into a test split.
    assert [split_of(s) for s in ("Pour tea.", "Return a copy.", "Brew tea")] == ["validation", "train", "train"]
    counts = [split_of(f"summary number {i}") for i in range(20_000)]
    assert abs(counts.count("train") / 20_000 - 0.8) < 0.01
    assert abs(counts.count("test") / 20_000 - 0.1) < 0.01


def words(n):
    return " ".join(f"w{i}" for i in range(n))


@pytest.mark.parametrize(
    ("summary", "details", "reason"),
    [
        ("A fine summary line.", words(20), ""),
        ("Two words.", words(20), "summary too short"),
        ("!!! ??? ...", words(20), "summary too short"),
        (words(41), words(20), "summary too long"),
        ("A fine summary line.", words(9), "details too short"),
        ("A fine summary line.", words(1001), "details too long"),
        ("Deprecated: do not use.", words(20), "boilerplate"),
    ],
)
def test_filters(summary, details, reason):
    filters = DocstringFilters(boilerplate=("^Deprecated",))
    assert rejection(Docstring("p", "p.f", "()", summary, details), filters) == reason


def brute_force(kept, text, threshold):
    a = word_sequences(text)
    return any(len(a & b) / len(a | b) >= threshold for b in map(word_sequences, kept))


def word_sequences(text):
    """By the definition, without hashes."""
    found = normalized(text).split()
    return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def first_words(count):
    """A text of so many 5-word shingles; of two such texts the longer one's hold the other's."""
    return words(count + 4)


@examples(200)
@given(
    st.lists(st.text(alphabet="ab ", max_size=30) | st.integers(1, 50).map(first_words), min_size=1, max_size=12),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]) | st.integers(1, 100).map(lambda percent: percent / 100),
)
@example([first_words(7), first_words(25)], 0.28)  # 7 of 25 are 0.28, but 0.28 times 25 is 7.000000000000001
@example([first_words(25), first_words(7)], 0.28)
def test_near_duplicates_are_exactly_those_that_brute_force_finds(texts, threshold):
    index, kept = NearDuplicates(texts, threshold), []
    for text in texts:
        assert index.contains(text) == brute_force(kept, text, threshold)
        index.add(text)
        kept.append(text)


#: The packages ``a``, ``b`` and ``c`` of the tests; others are training packages.
PACKAGES = {"a": "train", "b": "validation", "c": "test"}


def made(i, split, details=None, summary=None, signature="(x)"):
    """A docstring of the package that is in ``split``."""
    (package,) = (name for name, own in PACKAGES.items() if own == split)
    summary = summary or f"this is summary number {i} of all"
    return Docstring(
        package, f"{package}.f{i}", signature, summary, details or " ".join(f"{i}word{j}" for j in range(40))
    )


def test_of_near_duplicates_the_evaluation_split_keeps_its_own():
    text = words(60)
    found = [made(1, "train", text), made(2, "test", text + " w60"), made(3, "validation"), made(4, "train")]
    pairs, dropped = select_pairs(found, DocstringFilters(), PACKAGES)
    assert dropped == {"near duplicate": 1}
    assert {split: len(kept) for split, kept in pairs.items()} == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_signatures_with_summaries_and_summaries_are_not_in_two_splits(split):
    long = "the same long summary of many words that two packages share with one word"
    signature = f"({', '.join(f'argument_{i}=None' for i in range(12))})"
    copies = [
        made(11, split, summary="A test summary?"),  # the words of the test's
        made(12, split, summary=f"{long} or so"),  # nearly a test's
        Docstring(
            made(0, split).package, "q.r.f3", signature, "A shorter one", words(30)
        ),  # another module, same object
    ]
    others = [
        made(1, "test", summary="a test summary."),
        made(2, "test", summary=f"{long} or two"),
        Docstring("c", "c.f3", signature, "A shorter line", " ".join(f"z{i}" for i in range(30))),
    ]
    rest = {"train": [made(8, "train")], "validation": [made(9, "validation")]}
    found = copies + others + rest["train"] + rest["validation"]
    pairs, dropped = select_pairs(found, DocstringFilters(), PACKAGES)
    assert dropped == {"copy of another split's signature or summary": 3}
    assert {own: len(kept) for own, kept in pairs.items()} == {"train": 1, "validation": 1, "test": 3}
    # Within a split they are no copies.
    alone = [Docstring("c", d.name, d.signature, d.summary, d.details) for d in copies] + others
    assert len(select_pairs(alone, DocstringFilters(), PACKAGES)[0]["test"]) == 6


def test_a_common_summary_is_kept_a_few_times_only():
    one = made(1, "train")
    found = [Docstring("p", f"p.g{i}", "()", one.summary, " ".join(f"{i}x{j}" for j in range(40))) for i in range(9)]
    pairs, dropped = select_pairs(found, DocstringFilters(max_pairs_per_summary=5), PACKAGES)
    assert len(pairs["train"]) == 5 and dropped == {"summary too common": 4}


def test_training_text_holds_nothing_of_the_evaluation_splits():
    text = words(60)
    found = [
        made(1, "test", text), made(2, "train", text + " w60"), made(3, "train", "short"), made(4, "validation"),
        made(5, "train", "short", summary="this is summary number 4 of all"), made(6, "test", "short"),
    ]  # fmt: skip
    pairs, _ = select_pairs(found, DocstringFilters(), PACKAGES)
    assert [d.name for d in training_only(found, pairs, DocstringFilters(), PACKAGES)] == ["a.f3"]


def test_the_order_of_files_does_not_matter():
    found = [made(i, split) for i, split in enumerate(["train", "test", "validation"] * 5)]
    one, other = (select_pairs(f, DocstringFilters(), PACKAGES)[0] for f in (found, found[::-1]))
    assert one == other


def test_the_listed_packages_are_names_each_in_one_split():
    packages = docstrings.listed_packages()
    assert {"numpy", "rouge_score", "torch"} < {*packages} and {*packages.values()} == {*SPLITS}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in packages)
    listed = tomllib.loads(docstrings.PACKAGE_LIST.read_text())
    assert sum(len(listed[split]) for split in SPLITS) == len(packages), "a package is listed once"
    assert all(len(reason) > 10 for split in SPLITS[1:] for reason in listed[split].values())


def test_extracting_twice_gives_the_same():
    (first, counts), (second, _) = (extract(source_files(["papermill"]), workers=w) for w in (1, 2))
    assert first == second and counts["docstrings"] == len(first) > 50
    assert docstrings.installed_versions(["papermill", "nothing"]).keys() == {"papermill"}


def test_texts_in_other_scripts_are_shared_out_too():
    summaries = [f"{a}{b}" for a in "агдеж水火木金土" for b in "икломабвзу"]
    assert {split_of(s) for s in summaries} == set(SPLITS)
    assert split_of("воде  вода") == split_of(" воде вода ")


PAIRS = lists(
    st.builds(
        Docstring,
        st.sampled_from("abc"),
        st.sampled_from(["p.f", "p.g", "p.h"]),
        st.just("()"),
        # Few summaries and texts, so that many are common, equal or nearly so; some are too short.
        st.sampled_from([f"Summary {i} of {i}." for i in range(8)] + ["SUMMARY 1, of 1", "summary 5 -- of 5!", "No."]),
        st.tuples(st.sampled_from("abc"), st.sampled_from([3, 12, 30, 31, 32])).map(
            lambda found: " ".join(f"{found[0]}{i}" for i in range(found[1]))
        ),
    ),
    0,
    25,
)
FILTERS = DocstringFilters(max_pairs_per_summary=2)


@examples(100)
@given(PAIRS, st.randoms(use_true_random=False))
def test_pairs_do_not_depend_on_the_order_and_no_split_holds_text_of_another(found, random):
    pairs, dropped = select_pairs(found, FILTERS, PACKAGES)
    assert select_pairs(random.sample(found, len(found)), FILTERS, PACKAGES) == (pairs, dropped)
    kept = [pair for split in SPLITS for pair in pairs[split]]
    assert len(kept) + sum(dropped.values()) == len(found), "what is not kept is counted once"
    assert all(PACKAGES[pair.package] == split for split in SPLITS for pair in pairs[split])
    summaries = [{normalized(pair.summary) for pair in pairs[split]} for split in SPLITS]
    assert sum(map(len, summaries)) == len(set().union(*summaries)), "a summary is in one split"
    assert not kept or Counter(normalized(pair.summary) for pair in kept).most_common()[0][1] <= 2
    for i, pair in enumerate(kept):
        assert not brute_force([other.document for other in kept[:i]], pair.document, 0.8)
        assert not rejection(pair, FILTERS)


@examples(100)
@given(PAIRS, PAIRS)
def test_training_docstrings_change_nothing_in_the_evaluation_splits(found, more):
    alone, _ = select_pairs(found, FILTERS, PACKAGES)
    together, _ = select_pairs(found + [d for d in more if d.package == "a"], FILTERS, PACKAGES)
    for split in ("validation", "test"):
        assert together[split] == alone[split], "what is near training text is not dropped for it"


@examples(100)
@given(PAIRS)
def test_training_text_is_all_that_is_far_from_the_evaluation_splits(found):
    pairs, _ = select_pairs(found, FILTERS, PACKAGES)
    held_out = [pair for split in ("validation", "test") for pair in pairs[split]]

    def views(d):
        return d.document, f"{d.name.rpartition('.')[2]}{d.signature} {d.summary}", d.summary

    def copied(d):
        return any(brute_force([views(h)[i] for h in held_out], view, 0.8) for i, view in enumerate(views(d)))

    wanted = {d.id for d in found if d.package == "a" and not copied(d)}
    assert [d.id for d in training_only(found, pairs, FILTERS, PACKAGES)] == sorted(wanted)
