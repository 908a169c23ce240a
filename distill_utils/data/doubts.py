"""Warn of a corpus whose texts may have been read otherwise than they were meant."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from distill_utils.metrics.words import unseparated_share

#: Shares of the rows from which a warning is given: of dropped ones, and of texts between quotes.
DROPPED, QUOTED = 0.05, 0.9
#: Share of the letters from which texts are warned of whose script does not separate words.
UNSEPARATED = 0.01
QUOTES = re.compile(r"(?s)\s*(['\"`|]).*\1\s*")
#: What a database writes for a backslash, a line break, a tab or a NUL in a text without quotes.
ESCAPES = re.compile(r"\\[\\nrt0N]")


def warn(line: str) -> None:
    """Print a warning on standard error, unless it is empty."""
    if line:
        print(f"WARNING: {line}", file=sys.stderr, flush=True)


def warn_of_dropped(name: str, rows: int, dropped: Mapping[str, int]) -> None:
    """Warn if more than some rows lack a side."""
    if sum(dropped.values()) > DROPPED * rows:
        why = ", ".join(f"{count} with an {reason}" for reason, count in dropped.items() if count)
        warn(f"{sum(dropped.values())} of {rows} rows of {name} are dropped: {why}")


def warn_of_script(name: str, summaries: Iterable[str]) -> None:
    """Warn if some summaries are in a script that does not separate words."""
    share = unseparated_share(summaries)
    if share > UNSEPARATED:
        warn(
            f"{100 * share:.0f} % of the letters of the summaries in {name} are of a script that does not separate words: "
            "ROUGE counts a sentence of it as one word"
        )


def warn_of_marks(name: str, column: str, texts: Iterable[str], separated: bool) -> None:
    """Warn if nearly all texts stand between quotes, or if texts of a ``separated`` file have what may be escapes."""
    count, quoted, escaped, first = 0, 0, 0, ""
    for text in texts:
        count += 1
        quoted += len(text) > 1 and bool(QUOTES.fullmatch(text))
        if separated and (found := ESCAPES.search(text)):
            escaped, first = escaped + 1, first or found[0]
    if count and quoted > QUOTED * count:
        warn(
            f"{quoted} of {count} texts in the column {column!r} of {name} stand between quotes, which are read as part of them"
        )
    if escaped:
        warn(
            f"{escaped} of {count} texts in the column {column!r} of {name} have a backslash such as in {first}, which is read as it stands; "
            "if it is an escape (MySQL and Hive write them), export the rows as JSON lines"
        )
