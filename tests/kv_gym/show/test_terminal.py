"""Frames as text: what stands where, and that texts of an LLM steer nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from frame_by_hand import hand_made

from kv_gym.show.terminal import ansi, cost, measures, outcome, plain

SGR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def test_plain_frame_by_hand() -> None:
    lines = plain(hand_made(), width=100).splitlines()
    assert lines[:5] == [
        "Env-v0  p/0 (sums)  the LLM is writing",
        "each head holds 2 of 4 tokens (budget 2 + new)   KV cache 2 KiB instead of 3.0 MiB",
        "step 3   loss spike 0.12 nats²   attention spike 0.38   reward +0.50, sum -0.25",
        "",
        "abcde",
    ]
    assert plain(hand_made(), width=16).splitlines()[-3:-1] == ["layer 0 █  █", "          ██"]  # 8 tokens, 8 columns
    assert plain(hand_made(), width=12).splitlines()[-3:-1] == ["layer 0 ▒▒", "         █"]  # two tokens a column


def test_ansi_frame_is_the_plain_text_with_colours_only() -> None:
    text = ansi(hand_made())
    assert not CONTROL.search(SGR.sub("", text))
    assert "Env-v0  p/0 (sums)" in SGR.sub("", text)
    codes = [code for code, letter in re.findall(r"(\x1b\[[0-9;]*m)(?=([abcde])\x1b)", text)]
    assert len(codes) == 5 and codes[0] != codes[1] != codes[2] != codes[3]
    assert codes[3] == codes[4]  # both heads hold d, and e is not yet read


def test_heat_map_fits_the_screen_with_many_heads() -> None:
    held = np.random.default_rng(0).random((30, 8, 4)) < 0.5
    frame = hand_made(held=held, gone=~held, attention=held.astype(np.float32))
    for text in (SGR.sub("", ansi(frame, 60, 30)), plain(frame, 60)):
        lines = text.splitlines()
        assert len(lines) <= 30
        assert max(map(len, lines)) <= 60
        assert "layer 0 " in text
    assert len([line for line in SGR.sub("", ansi(frame)).splitlines() if "▀" in line]) == 16


def test_newest_lines_of_a_long_text_are_shown() -> None:
    tokens = tuple(f"line {i}\n" for i in range(4))
    lines = SGR.sub("", ansi(hand_made(tokens=tokens), height=12)).splitlines()
    assert "line 0" not in lines and "line 3" in lines


def test_markup_of_a_text_is_printed() -> None:
    frame = hand_made(tokens=("[red]", "[/red]", ":smile:", "d"))
    assert "[red][/red]:smile:d" in plain(frame)
    assert "[red]" in SGR.sub("", ansi(hand_made(problem="[red]x")))


@pytest.mark.parametrize(
    ("score", "words"),
    [(None, "the LLM is writing"), (1.0, "RIGHT ANSWER"), (0.0, "WRONG ANSWER"), (0.4, "ANSWER 40% RIGHT")],
)
def test_outcome_says_how_the_answer_was_scored(score: float | None, words: str) -> None:
    assert outcome(score)[0] == words


def test_numbers_name_their_units() -> None:
    assert "right 1.5 of 2" in measures(hand_made(n_ended=2, total_score=1.5))
    assert "5.0 GiB" in cost(hand_made(kv_bytes_full=5 * 2**30))
