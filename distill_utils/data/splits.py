"""Assign texts to splits by a hash, so that equal summaries never stand in two splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence


def drawn(ids: Sequence[str], count: int) -> list[int]:
    """Which ``count`` of the pairs with these ids: a random draw, the same on every machine, and a part of every larger one."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(str(ids[i]).encode()).digest())
    return order[:count]


SPLITS = ("train", "validation", "test")


def fold(text: str) -> str:
    """White space, line breaks included, folded to single spaces."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())  # without lone surrogates


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def normalized(text: str) -> str:
    """Lower-case words without punctuation: what has to be equal for two summaries to be the same."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def split_of(summary: str) -> str:
    """``train`` (80 %), ``validation`` or ``test`` (10 % each), from the summary's words alone."""
    words = normalized(summary) or fold(summary)  # by the text itself in a script that has no a to z
    bucket = int(digest(words)[:8], 16) % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]
