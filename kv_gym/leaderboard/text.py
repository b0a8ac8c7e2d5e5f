"""Texts of strangers: what a reader sees is what is there, and every digit is one of 0 to 9."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

MAX_PLACE = 100  # characters that say where a text is


def printable(text: str) -> str:
    """Text without what could move the cursor or turn the direction of writing."""
    return "".join(char if char.isprintable() else " " for char in text)


def one_line(text: str, limit: int) -> str:
    """Text that kv-gym writes itself, such as an error's message, in the form that submissions may have."""
    return "".join(char if _allowed(char) else " " for char in text)[:limit]


def text_complaint(value: Any) -> str:
    """Say which text or key inside a JSON value holds a character that is refused; "" if none does."""
    for place, text in _texts(value):
        char = "" if text.isascii() and text.isprintable() else next((x for x in text if not _allowed(x)), "")
        if char:
            name = unicodedata.name(char, "a control character")
            return (
                f"{printable(place) or 'the text'} holds U+{ord(char):04X} ({name}). Texts are printable characters on "
                "one line, without any that turn the direction of writing, and digits are 0 to 9."
            )
    return ""


def _allowed(char: str) -> bool:
    """`isprintable` refuses controls, line ends, bidirectional and invisible marks, and halves of surrogate pairs."""
    return char.isprintable() and (char.isascii() or unicodedata.category(char) != "Nd")


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with its place; no recursion, for values of strangers may be deep."""
    waiting = [("", value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, str):
            yield place, one
        elif isinstance(one, dict):
            yield from ((f"a key of {place or 'the file'}", key) for key in one)
            waiting += [(_below(place, key), each) for key, each in reversed(one.items())]
        elif isinstance(one, list | tuple):
            waiting += [(_below(place, number), each) for number, each in reversed(list(enumerate(one)))]


def _below(place: str, key: object) -> str:
    return f"{place}.{str(key)[:MAX_PLACE]}".lstrip(".")[:MAX_PLACE]  # a key may be as long as the file
