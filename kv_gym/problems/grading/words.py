r"""Answers that are words, never algebra: ``\text{Tuesday}``, a choice ``(B)``, the name of a segment ``AB``."""

from __future__ import annotations

import re

_WRAPPER = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|mathit|mathsf|operatorname|rm)"
_WRAPPED = re.compile(rf"(?:\(? ?{_WRAPPER} ?\{{[^{{}}]*[A-Za-z][^{{}}]*\}} ?\)? ?)+")
# Two capitals, Capitalised words, or two words and more of two letters each. Of two letters, only words that are
# answers: Rh and hR are one product, and r no R.
_BARE = re.compile(
    r"[A-Z]{2,}|(?:No|Go|Up|On|In|He|We|Us|Me)|[A-Z][a-z]{2,}(?:[ -][A-Za-z]+)*|[A-Za-z]{2,}(?:[ -][A-Za-z]{2,})+"
)
_LABELLED = re.compile(
    r"\\(overline|triangle|angle|vec|overrightarrow|widehat|overleftrightarrow) ?\{? ?([A-Z]{2,}) ?\}?"
)
# Letters alone, as of words: `no` is not `on`. Without a vowel they are a product, `xy`: no word is written so.
_LETTERS = re.compile(r"[a-z]+(?: [a-z]+)*")
_PRODUCT = re.compile(r"[b-df-hj-np-tv-z ]+")
_Y_OF_A_WORD = re.compile(r"y(?<!xy)(?!x|z)")
_EMPTY_SETS = {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set"}
_LONG = {"dne": "does not exist"}


# A choice is said with a label around it, or the label is set as such in front of what it stands for.
# Behind the label: no formula, and no other choice.
_NO_MORE = r"(?! ?(?:[-+*/=<>^,}:]|\\(?:cdot|times|cup|cap|div)))(?!.*(?:\\l(?:or|and)|(?<![A-Za-z])[A-Z][).:]))"
_SAID = r"(?:(?:the )?(?i:option|choice|answer)(?: is)?:? ?)?"
_SET = rf"{_WRAPPER} ?\{{ ?\(([A-Z])\):? ?\}}"
_CHOSEN = [
    re.compile(rf"{_SAID}(?:{_WRAPPER} ?\{{ ?)?\(?([A-Z])\)?(?: ?\}})?"),  # alone
    re.compile(rf"{_SAID}(?:{_SET}|\(?([A-Z])\):?|([A-Z])[.:](?= )){_NO_MORE}.*"),  # with what it stands for
]
_LABELS = [re.compile(rf"{_SET}{_NO_MORE}.*"), re.compile(r"(?i:option|choice) \(?([A-Z])\)?")]


def chosen(text: str) -> str | None:
    r"""The letter of ``Option A``, ``(B) 5``, ``D)`` or ``B. 12``, where one is asked for; None if there is none."""
    return _letter(text, _CHOSEN)


def labelled(text: str) -> str | None:
    r"""The letter of ``\textbf{(C)}\ 12`` or ``Option C``, which asks for a choice; None for anything else."""
    return _letter(text, _LABELS)


def _letter(text: str, forms: list[re.Pattern[str]]) -> str | None:
    matches = [match for form in forms if (match := form.fullmatch(text))]
    return next((letter for match in matches for letter in match.groups() if letter), None)


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
    words = re.sub(r"\s+", " ", text).strip(" ().").casefold()
    return _LONG.get(words, words)


def means_empty_set(words: str) -> bool:
    """Whether words say that there is no solution."""
    return words in _EMPTY_SETS
