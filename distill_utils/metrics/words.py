"""Split texts into the words and sentences that ROUGE counts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import regex
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

#: rouge_score's own words: letters a to z and digits, with Porter's stems. Published English scores are of these.
ENGLISH = "English"
#: The same without stems.
UNSTEMMED = "English without stemming"
#: Words of letters of any alphabet, their marks, and digits, without stems.
UNICODE = "Unicode"
#: The characters of each kind's words, as a regular expression's class.
CHARACTERS = {ENGLISH: "A-Za-z0-9", UNSTEMMED: "A-Za-z0-9", UNICODE: r"\p{L}\p{M}\p{N}"}
#: A text is taken for English up to this share of other letters than a to z; XSum has 0.0001, French some 0.04.
OTHER_LETTERS = 0.002
#: Scripts that do not separate words.
UNSEPARATED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
#: Ends of lines, and of sentences within a line: of scripts that separate sentences by a space, and of those that do not.
LINE_END, SENTENCE_END = re.compile(r"[\r\n]+"), re.compile(r"(?<=[.!?؟۔।॥])\s+|(?<=[。！？])\s*")


class UnicodeTokenizer(Tokenizer):
    """rouge_score's interface to :func:`unicode_words`."""

    def tokenize(self, text: str) -> list[str]:
        return unicode_words(text)


def word_tokenizer(words: str) -> Tokenizer:
    """Return the tokenizer of a kind of words."""
    return UnicodeTokenizer() if words == UNICODE else DefaultTokenizer(use_stemmer=words == ENGLISH)


def lowered(text: str) -> str:
    """Return a text in lower case; composed and decomposed accents are equal, and ``İ`` is an ``i``."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold().replace("i\u0307", "i"))


def unicode_words(text: str) -> list[str]:
    """Return the words as :func:`lowered`."""
    return regex.findall(rf"[{CHARACTERS[UNICODE]}]+", lowered(text))


def kind_of_words(texts: Iterable[str]) -> str:
    """Return ``ENGLISH``, or ``UNICODE`` if more than :data:`OTHER_LETTERS` of the letters are not a to z.

    Raises:
        ValueError: if most letters are of scripts that do not separate words.
    """
    letters, other, unseparated = _letters(texts)
    if unseparated > letters / 2:
        raise ValueError("their script does not separate words, which ROUGE counts")
    return UNICODE if other > OTHER_LETTERS * letters else ENGLISH


def unseparated_share(texts: Iterable[str]) -> float:
    """Return which share of the letters is of scripts that do not separate words."""
    letters, _, unseparated = _letters(texts)
    return unseparated / max(1, letters)


def _letters(texts: Iterable[str]) -> tuple[int, int, int]:
    """Count the letters, those that are not a to z, and those of scripts that do not separate words."""
    letters = other = unseparated = 0
    for text in texts:
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)  # a decomposed accent is no letter
        letters += sum(map(str.isalpha, text))
        if not text.isascii():
            other += sum(letter.isalpha() and not letter.isascii() for letter in text)
            unseparated += len(UNSEPARATED.findall(text))
    return letters, other, unseparated


def sentences(text: str) -> list[str]:
    """Return the lines of a text, or the sentences of a single line.

    A sentence ends with ``.``, ``!``, ``?`` or a mark of another script, before a space where its script has them.
    """
    lines = [line for line in LINE_END.split(text) if line.strip()]
    return lines if len(lines) > 1 else [s for line in lines for s in SENTENCE_END.split(line) if s]
