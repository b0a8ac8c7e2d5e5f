r"""Find the boxed answer in a generation.

A generation is data that nobody vouches for and may be a million characters long: every search here is linear.
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 200  # longer boxes are no answers

_BOX = "\\boxed"
_OPENING = re.compile(r"\\boxed\s*\{")
# TeX boxes one token, `\boxed 42` only the 4; what is meant is the number, or the command with its groups.
_BRACELESS = re.compile(
    r"\\boxed\s*([+-]?(?:[0-9](?:[0-9.,/]*[0-9])?|\.[0-9]+)(?:\s?\\?%)?|\\[dtc]?frac\s*[0-9]\s*[0-9]|\\[A-Za-z]+(?:\s*\{[^{}]{0,200}\}){0,2}"
    r"|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))"
)
# Where more follows, `\boxed 5 / 6` or `\boxed 5x`, nobody knows where the answer ends.
_MORE = re.compile(
    r"[A-Za-z0-9^_!({]|-(?=[0-9A-Za-z(\\])|[ \t]*(?:[+/=](?=\s?[0-9A-Za-z(\\])|\*(?!\*)|[<>](?=\s?[0-9]))"
    r"|[ \t]+(?:-\s?(?=[0-9\\])|[!^_](?=\S))"
    r"|[ \t]*\\(?!(?:text|mbox|mathrm|q?quad|boxed|end|right|(?:black)?square|qed|hfill|hspace|tag)(?![A-Za-z]))"
    r"[A-Za-z]"
)
_NOTHING = re.compile(r"(?:[\s~$.]|\\[,;:! ]|\\(?:text|mbox|mathrm)\s*\{\s*\})*")


def extract_answer(text: str, most: int = MAX_ANSWER_CHARS) -> str | None:
    r"""Return what the last box of `text` that is not empty holds: ``\boxed{7}``, ``\boxed 7``.

    Returns:
        The content without outer whitespace; None if there is no such box, if the last one has no clear end, or if it
        holds more than `most` characters; "" if all boxes are empty.
    """
    found = None
    place = text.rfind(_BOX)
    while place >= 0:
        content = _content(text, place, most)
        if content is None:
            return None
        if not _NOTHING.fullmatch(content):
            return content.strip()
        found = ""
        place = text.rfind(_BOX, 0, place)
    return found


def _content(text: str, place: int, most: int) -> str | None:
    """What the box at `place` holds; "" if nothing follows that could be boxed, None if its end is not to be found."""
    opening = _OPENING.match(text, place)
    if opening is None:
        token = _BRACELESS.match(text, place)
        return "" if token is None else None if _MORE.match(text, token.end()) else token[1]
    inside = text[opening.end() : opening.end() + most + 1]
    end = closing_brace(inside, 0)
    return None if end is None else inside[:end]


def closing_brace(text: str, start: int) -> int | None:
    r"""Return the index of the brace closing the one before `start`; ``\{`` and ``\}`` are characters, not groups."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return start + brace.start()
    return None
