r"""Answers that are words, never algebra: ``\text{Tuesday}``, a choice ``(B)``, the name of a segment ``AB``."""

from __future__ import annotations

import re

_WRAPPER = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|mathit|mathsf|operatorname|rm)"
_WRAPPED = re.compile(rf"(?:\(? ?{_WRAPPER} ?\{{[^{{}}]*[A-Za-z][^{{}}]*\}} ?\)? ?)+")
# Two capitals, Capitalised words, or two words and more of two letters each.
_BARE = re.compile(r"[A-Z]{2,}|[A-Z][a-z]{2,}(?:[ -][A-Za-z]+)*|[A-Za-z]{2,}(?:[ -][A-Za-z]{2,})+")
_LABELLED = re.compile(
    r"\\(overline|triangle|angle|vec|overrightarrow|widehat|overleftrightarrow) ?\{? ?([A-Z]{2,}) ?\}?"
)
# Letters alone, as of words: `no` is not `on`. Without a vowel they are a product, `xy`: no word is written so.
_LETTERS = re.compile(r"[a-z]+(?: [a-z]+)*")
_PRODUCT = re.compile(r"[b-df-hj-np-tv-z ]+")
_Y_OF_A_WORD = re.compile(r"y(?<!xy)(?!x|z)")
_EMPTY_SETS = {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set"}


def as_words(text: str) -> str | None:
    """The words that an answer consists of, in lower case; None if it is mathematics."""
    if _WRAPPED.fullmatch(text):
        return spoken(re.sub(rf"{_WRAPPER} ?\{{([^{{}}]*)\}}", r"\1", text))
    if _BARE.fullmatch(text):
        return spoken(text)
    if label := _LABELLED.fullmatch(text):
        return f"{label[1]} {label[2]}"
    return None


def same_letters(text: str, other: str) -> bool | None:
    """Compare letters that could be words, ``listen`` and ``silent``; None if one of them is surely mathematics."""
    if not (_LETTERS.fullmatch(text) and _LETTERS.fullmatch(other)):
        return None
    products = all(_PRODUCT.fullmatch(one) and not _Y_OF_A_WORD.search(one.replace(" ", "")) for one in (text, other))
    return None if products else text == other


def spoken(text: str) -> str:
    """Compare words by this: without case, outer brackets and full stops, and with single spaces."""
    return re.sub(r"\s+", " ", text).strip(" ().").casefold()


def means_empty_set(words: str) -> bool:
    """Whether words say that there is no solution."""
    return words in _EMPTY_SETS
