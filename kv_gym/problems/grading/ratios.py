"""Ratios ``3:2:1``, and what only looks like arithmetic: times of the day, dates and telephone numbers."""

from __future__ import annotations

import re
from itertools import combinations

from kv_gym.problems.grading import mathematics
from kv_gym.problems.grading.spelling import depths

_TIME = re.compile(r"[0-9]{1,2}(?::[0-5][0-9]){1,2}")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}([/.-])[0-9]{1,2}\1[0-9]{4}|[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}"
)
_TELEPHONE = re.compile(r"(?:[0-9]{3}-)?[0-9]{3}-[0-9]{4}")


def same_ratios(answer: str, gold: str) -> bool | None:
    """Compare ratios up to a common factor, and times and dates by their letters; None if neither side is one.

    ``3:30`` may be a time or a ratio: it is the latter where the other side surely is one, ``1:2:3`` or ``2:3``.
    """
    if any(pattern.fullmatch(text) for pattern in (_DATE, _TELEPHONE) for text in (answer, gold)):
        return answer == gold
    said, wanted = _terms(answer), _terms(gold)
    if len(said) == len(wanted) == 1:
        return None
    times = [text for text in (answer, gold) if _TIME.fullmatch(text)]
    if len(times) == 2 or (times and 1 in (len(said), len(wanted))):
        return answer == gold
    if len(wanted) == 1 or len(said) == 1:  # 3:2 is 1.5; 1:2:3 is no number
        said, wanted = (terms if len(terms) > 1 else [*terms, "1"] for terms in (said, wanted))
    return len(said) == len(wanted) and _proportional(said, wanted)


def _terms(text: str) -> list[str]:
    places = [place for place, depth in enumerate(depths(text)) if depth == 0 and text[place] == ":"]
    return [text[start + 1 : end].strip() for start, end in zip([-1, *places], [*places, len(text)], strict=True)]


def _proportional(answer: list[str], gold: list[str]) -> bool:
    said, wanted = [mathematics.parse(term) for term in answer], [mathematics.parse(term) for term in gold]
    if any(all(mathematics.same(term, 0 * term) for term in terms) for terms in (said, wanted)):
        return False  # 0:0 is no ratio, and would be equal to all
    return all(mathematics.same(said[i] * wanted[j], said[j] * wanted[i]) for i, j in combinations(range(len(said)), 2))
