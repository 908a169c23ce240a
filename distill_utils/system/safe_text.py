"""Show texts of a corpus or a model as plain text: no markup runs, no hidden character stays hidden."""

from __future__ import annotations

import html
import re

#: Characters of a text that are shown; more would make a page too heavy to scroll.
SHOWN = 4000
#: Marks that turn the direction of all that follows, and what else is invisible and no line break or tab.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\U000e0000-\U000e0fff]"
)
_MARKUP = "\\`*_$<>[]|~#"


def visible(text: str, most: int = SHOWN) -> str:
    """The text with hidden characters written out as ``[U+202E]``, cut after ``most`` characters with a word of how many are left out."""
    rest = len(text) - most
    shown = _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text[:most].replace("\r\n", "\n"))
    return shown + (f" … ({rest:,} more characters)" if rest > 0 else "")


def escaped(text: str, most: int = SHOWN) -> str:
    """:func:`visible` text as HTML that a browser shows as that text."""
    return html.escape(visible(text, most))


def as_markdown(text: str) -> str:
    """:func:`visible` text, whole, that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in _MARKUP else c for c in visible(text, len(text)))


def as_text(markdown: str) -> str:
    """The :func:`visible` text that :func:`as_markdown` made Markdown of."""
    return re.sub(r"\\([" + re.escape(_MARKUP) + "])", r"\1", markdown)
