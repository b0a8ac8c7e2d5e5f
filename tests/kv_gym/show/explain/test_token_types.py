"""What kind of token a piece of text is."""

from __future__ import annotations

import pytest

from kv_gym.show.explain.token_types import TokenType, token_type, token_types


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        (TokenType.DIGIT, ["7", " 12", "3.5", "1,000"]),
        (TokenType.OPERATOR, ["+", " =", "**", ")=", "\u2264", "->"]),
        (TokenType.NAME, ["x", " a", "x1", "a_12", "y'", "\u03b1"]),
        (TokenType.WORD, ["graph ", "sum", " Wait", "\\boxed{", "\\frac", "x12y", "2nd"]),
        (TokenType.DELIMITER, [",", ";", " ", "\n\n", "):", ".", '"', "_"]),
        (TokenType.SPECIAL, [""]),
    ],
)
def test_a_piece_has_one_type(kind: TokenType, pieces: list[str]) -> None:
    assert {piece: token_type(piece) for piece in pieces} == dict.fromkeys(pieces, kind)


def test_the_prompt_and_the_tokenizers_own_come_first() -> None:
    found = token_types(["<bos>", "7", "x", "7", "<eos>"], [1, 10, 20, 10, 2], n_prompt=2, special={1, 2})
    assert [one.name for one in found] == ["PROMPT", "PROMPT", "NAME", "DIGIT", "SPECIAL"]
