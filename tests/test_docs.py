"""The documentation: every relative link leads somewhere, and the README stays a front page."""

import re

import pytest

from distill_utils.system.paths import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "notebooks/README.md", "models/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [page for page in PAGES if page.is_file()]
LINK = re.compile(r"(?<!\\)\[(?:\\.|!\[[^\]]*\]\([^)]*\)|[^\]\\])*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def prose(text):
    """The text without code, in which nothing is a link."""
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def links(text):
    found = [a or b for a, b in LINK.findall(prose(text))]
    found += re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", prose(text))  # pictures that are links themselves
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    made, text = [], re.sub(r"^(`{3,})[^\n]*\n.*?^\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ +(.*?) *#*$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        again = sum(re.fullmatch(re.escape(anchor) + r"(-\d+)?", other) is not None for other in made)
        made.append(f"{anchor}-{again}" if again else anchor)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(page):
    broken = []
    for link in links(page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    assert not broken


def test_links_and_anchors_are_found():
    text = "[a](b.md#c) ![d](e.png) [![f](g.png)](h.md) `[i](j)` [k](https://l) \\[m](n)\n```\n[o](p)\n```\n## A *b*, c: `d`\n## A b c d"
    assert sorted(links(text)) == ["b.md#c", "e.png", "e.png", "g.png", "h.md"]
    assert anchors(text) == ["a-b-c-d", "a-b-c-d-1"]


def test_the_readme_is_a_front_page():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200
