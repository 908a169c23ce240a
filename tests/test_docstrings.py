"""The docstring corpus: what is read, what is dropped, and that no split leaks into another."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_utils import docstrings
from distill_utils.docstrings import (
    SPLITS,
    Docstring,
    DocstringFilters,
    NearDuplicates,
    extract,
    normalized,
    parse_module,
    pinned_packages,
    rejection,
    select_pairs,
    shingles,
    source_files,
    split_of,
    training_only,
)

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


@given(st.text(st.characters(codec="ascii")).filter(normalized))
def test_split_depends_on_the_words_alone(text):
    assert split_of(text) == split_of(f"  {text.upper()} !" if normalized(text.upper()) == normalized(text) else text)


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
    a = shingles(text)
    return any(len(a & b) / len(a | b) >= threshold for b in map(shingles, kept))


@settings(max_examples=200)
@given(st.lists(st.text(alphabet="ab ", max_size=30), min_size=1, max_size=12), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_near_duplicates_are_exactly_those_that_brute_force_finds(texts, threshold):
    index, kept = NearDuplicates(texts, threshold), []
    for text in texts:
        assert index.contains(text) == brute_force(kept, text, threshold)
        index.add(text)
        kept.append(text)


def made(i, split, details=None):
    """A docstring whose summary falls into ``split``."""
    summary = next(s for k in range(999) if split_of(s := f"summary {i} {k} here") == split)
    return Docstring("p", f"p.f{i}", "(x)", summary, details or " ".join(f"{i}word{j}" for j in range(40)))


def test_of_near_duplicates_the_evaluation_split_keeps_its_own():
    text = words(60)
    found = [made(1, "train", text), made(2, "test", text + " w60"), made(3, "validation"), made(4, "train")]
    pairs, dropped = select_pairs(found, DocstringFilters())
    assert dropped == {"near duplicate": 1}
    assert {split: len(kept) for split, kept in pairs.items()} == {"train": 1, "validation": 1, "test": 1}


def test_a_common_summary_is_kept_a_few_times_only():
    one = made(1, "train")
    found = [Docstring("p", f"p.g{i}", "()", one.summary, " ".join(f"{i}x{j}" for j in range(40))) for i in range(9)]
    pairs, dropped = select_pairs(found, DocstringFilters(max_pairs_per_summary=5))
    assert len(pairs["train"]) == 5 and dropped == {"summary too common": 4}


def test_training_text_holds_nothing_of_the_evaluation_splits():
    text = words(60)
    found = [made(1, "test", text), made(2, "train", text + " w60"), made(3, "train", "short"), made(4, "validation")]
    pairs, _ = select_pairs(found, DocstringFilters())
    assert [d.name for d in training_only(found, pairs, DocstringFilters())] == ["p.f3"]


def test_the_order_of_files_does_not_matter():
    found = [made(i, split) for i, split in enumerate(["train", "test", "validation"] * 5)]
    assert select_pairs(found, DocstringFilters())[0] == select_pairs(found[::-1], DocstringFilters())[0]


def test_lock_lines(tmp_path):
    lock = tmp_path / "lock"
    lock.write_text("# pinned\nnumpy==2.0  # why\n\nrouge_score==0.1.2\n")
    assert pinned_packages(lock) == ["numpy", "rouge_score"]


def test_extracting_twice_gives_the_same():
    (first, counts), (second, _) = (extract(["papermill"], workers=w) for w in (1, 2))
    assert first == second and counts["docstrings"] == len(first) > 50
    assert docstrings.installed_versions(["papermill", "nothing"]).keys() == {"papermill"}


def test_texts_in_other_scripts_are_shared_out_too():
    summaries = [f"{a}{b}" for a in "агдеж水火木金土" for b in "икломабвзу"]
    assert {split_of(s) for s in summaries} == set(SPLITS)
    assert split_of("воде  вода") == split_of(" воде вода ")
