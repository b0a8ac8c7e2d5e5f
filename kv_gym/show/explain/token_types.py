"""What kind of token a slot holds: by its piece of the text, whatever the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import IntEnum


class TokenType(IntEnum):
    """What a token is.

    Attributes:
        PROMPT: It stands in the prompt, whatever it is.
        DIGIT: Digits, with points or commas among them.
        OPERATOR: Signs of which at least one computes or compares, such as `=` or `+`.
        NAME: One letter, with or without an index, such as `x` or `a_1`; so also the word "a".
        WORD: Whatever else has a letter in it, LaTeX's commands too.
        DELIMITER: Other signs, spaces and line breaks.
        SPECIAL: A token of the tokenizer's own, such as the end of a text, or a part of a character.
    """

    PROMPT = 0
    DIGIT = 1
    OPERATOR = 2
    NAME = 3
    WORD = 4
    DELIMITER = 5
    SPECIAL = 6


OPERATORS = frozenset("+-*/=<>^%&|~−×÷·±≤≥≠≈→∑∫√∗")  # noqa: RUF001
DIGITS = re.compile(r"[\d.,]*\d[\d.,]*")
NAME = re.compile(r"[^\W\d_](?:_?\d+)?'?")


def token_type(piece: str) -> TokenType:
    """Type of a token outside the prompt, by its piece of the text; spaces around it do not count."""
    text = piece.strip()
    if not piece:
        return TokenType.SPECIAL
    if DIGITS.fullmatch(text):
        return TokenType.DIGIT
    if NAME.fullmatch(text):
        return TokenType.NAME
    if any(one.isalnum() for one in text):
        return TokenType.WORD
    return TokenType.OPERATOR if OPERATORS & set(text) else TokenType.DELIMITER


def token_types(pieces: Sequence[str], ids: Sequence[int], n_prompt: int, special: Collection[int]) -> list[TokenType]:
    """Type of each token of a text.

    Args:
        pieces: Of the text, one for each token.
        ids: Token ids.
        n_prompt: Tokens of the prompt.
        special: Ids of the tokenizer's own tokens.
    """
    return [
        TokenType.PROMPT if place < n_prompt else TokenType.SPECIAL if number in special else token_type(piece)
        for place, (piece, number) in enumerate(zip(pieces, ids, strict=True))
    ]
