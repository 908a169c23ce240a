"""Escape texts of a corpus or a model for display: markup is inert, and hidden characters are visible."""

from __future__ import annotations

import html
import re

#: Characters shown of a text; more would make pages slow to scroll.
SHOWN = 4000
#: Direction marks and other invisible characters, except line breaks and tabs.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    r"\U000e0000-\U000e0fff]"
)
_MARKUP = "\\`*_$<>[]|~#"


def visible(text: str, most: int = SHOWN) -> str:
    """Write hidden characters as ``[U+202E]``, and truncate after ``most`` characters, naming how many are left out."""
    rest = len(text) - most
    shown = _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text[:most].replace("\r\n", "\n"))
    return shown + (f" … ({rest:,} more characters)" if rest > 0 else "")


def escaped(text: str, most: int = SHOWN) -> str:
    """Escape :func:`visible` text for HTML."""
    return html.escape(visible(text, most))


def as_markdown(text: str) -> str:
    """Escape :func:`visible` text for Markdown, without truncation."""
    return "".join(f"\\{c}" if c in _MARKUP else c for c in visible(text, len(text)))


def as_text(markdown: str) -> str:
    """Undo :func:`as_markdown`'s escapes."""
    return re.sub(r"\\([" + re.escape(_MARKUP) + "])", r"\1", markdown)
