"""Texts are shown whole and harmless."""

import pytest

from distill_utils.system.safe_text import escaped, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\"quoted\" & 'single'", "&quot;quoted&quot; &amp; &#x27;single&#x27;"),
        ("a\x00b\x1b[31m", "a[U+0000]b[U+001B][31m"),
        ("ab\u202ecd", "ab[U+202E]cd"),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
        ("two\r\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_a_text_is_shown_as_text(text, shown):
    assert escaped(text) == shown


def test_a_megabyte_on_one_line_is_cut_with_a_word_of_it():
    assert visible("x" * 1_000_000, 10) == "x" * 10 + " … (999,990 more characters)"
    assert visible("x" * 10, 10) == "x" * 10
