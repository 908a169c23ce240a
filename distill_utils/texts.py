"""Texts of a corpus or a model as text on a page: whatever they contain, nothing of it runs, hides or turns the page around."""

from __future__ import annotations

import html
import re

#: Characters of a text that are shown; more would make a page too heavy to scroll.
SHOWN = 4000
#: Marks that turn the direction of all that follows, and what else is invisible and no line break or tab.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def visible(text: str, most: int = SHOWN) -> str:
    """The text with hidden characters written out as ``[U+202E]``, cut after ``most`` characters with a word of how many are left out."""
    rest = len(text) - most
    shown = _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text[:most].replace("\r\n", "\n"))
    return shown + (f" … ({rest:,} more characters)" if rest > 0 else "")


def escaped(text: str, most: int = SHOWN) -> str:
    """:func:`visible` text as HTML that a browser shows as that text."""
    return html.escape(visible(text, most))
