"""Render modes: facts about single pixels, Gymnasium's contract, and that looking changes nothing."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from frame_by_hand import hand_made
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import RecordVideo, RenderCollection
from small_env import ENV, SMALL

import kv_gym  # noqa: F401
from kv_gym.show import colours
from kv_gym.show.canvas import CELL_HEIGHT, CELL_WIDTH, Canvas
from kv_gym.show.rendering import (
    HEAT_LEFT,
    HEAT_TOP,
    RENDER_MODES,
    TEXT_TOP,
    HumanScreen,
    newest_columns,
    picture,
    wrap,
)

SIZE = (720, 1280, 3)


def make(**options: Any) -> gymnasium.Env:
    return gymnasium.make(ENV, **(SMALL | options))


def play(env: gymnasium.Env, look: bool = False, steps: int = 5) -> list[Any]:
    """Play some steps at random; return what was seen."""
    seen = [env.reset(seed=4)]
    env.action_space.seed(0)
    for _ in range(steps):
        if look:
            env.render()
        seen.append(env.step(env.action_space.sample()))
    return seen


# --- Pixels ------------------------------------------------------------------------------------------------------


def slot_pixel(pixels: np.ndarray, head: int, token: int) -> list[int]:
    """The middle of a slot of the hand-made frame: 1176 pixels for 8 tokens, 272 for 2 heads."""
    return pixels[HEAT_TOP * CELL_HEIGHT + 136 * head + 60, HEAT_LEFT * CELL_WIDTH + 147 * token + 70].tolist()


def test_slots_have_the_colours_of_the_legend() -> None:
    pixels = picture(hand_made())
    assert pixels.shape == SIZE and pixels.dtype == np.uint8
    little, much = list(colours.HELD[0]), list(colours.HELD[-1])
    evicted, gone, empty = list(colours.EVICTED), list(colours.GONE), list(colours.BACKGROUND)
    assert [slot_pixel(pixels, 0, token) for token in range(8)] == [little, gone, evicted, much, *[empty] * 4]
    assert [slot_pixel(pixels, 1, token) for token in range(8)] == [evicted, gone, much, much, *[empty] * 4]


def ink(pixels: np.ndarray, column: int) -> list[int]:
    """Brightest pixel of a character of the text's first line."""
    left, top = (2 + column) * CELL_WIDTH, TEXT_TOP * CELL_HEIGHT
    cell = pixels[top : top + CELL_HEIGHT, left : left + CELL_WIDTH].reshape(-1, 3)
    return cell[cell.sum(-1).argmax()].tolist()


def test_tokens_fade_as_heads_drop_them() -> None:
    frame = hand_made(tokens=("M",) * 5)
    pixels = picture(frame)
    half_prompt, lost, half, held, unread = (ink(pixels, column) for column in range(5))
    assert held == unread == list(colours.WRITTEN)
    assert lost == list(colours.GONE)
    assert half == [(low + high) // 2 for low, high in zip(colours.FADED, colours.WRITTEN, strict=True)]
    assert half_prompt == pytest.approx(
        [(a + b) / 2 for a, b in zip(colours.FADED, colours.PROMPT, strict=True)], abs=1
    )


def test_size_does_not_depend_on_the_model_or_the_text() -> None:
    random = np.random.default_rng(0)
    for n_layers, n_heads, length in ((1, 1, 1), (28, 8, 5000), (80, 8, 300)):
        held = random.random((n_layers, n_heads, length)) < 0.5
        frame = hand_made(
            held=held, gone=~held, attention=held.astype(np.float32), tokens=("word\n",) * length, axis=2 * length
        )
        assert picture(frame).shape == SIZE


def test_line_parts_prompt_and_text() -> None:
    for n_prompt, edge in ((1, 147), (8, 1176), (100, 1176)):  # 100: the prompt is longer than what is read of it
        pixels = picture(hand_made(n_prompt=n_prompt))
        line = (pixels[HEAT_TOP * CELL_HEIGHT + 10] == colours.PROMPT).all(-1)
        assert np.flatnonzero(line).tolist() == [HEAT_LEFT * CELL_WIDTH + edge]


def test_neighbours_are_averaged_where_there_is_no_room() -> None:
    values = np.arange(6, dtype=float).reshape(1, 6)
    assert colours.resample(values, 3, 1).tolist() == [[0.5, 2.5, 4.5]]
    assert colours.resample(values, 4, 1).tolist() == [[0, 1.5, 3, 4.5]]
    assert colours.resample(values[:, :2], 4, 1).tolist() == [[0, 0, 1, 1]]


def test_canvas_cuts_what_does_not_fit_and_shows_unknown_characters() -> None:
    canvas = Canvas(1, 3)
    assert canvas.write(0, 1, "a\u6f22\U0001f600", (255, 0, 0)) == 4
    pixels = canvas.picture()
    assert pixels.shape == (16, 24, 3)
    assert (pixels[:, :8] == colours.BACKGROUND).all() and (pixels[:, 8:16] != colours.BACKGROUND).any()
    assert (pixels[:, 16:] != colours.BACKGROUND).any()


def test_lines_break_at_newlines_and_between_tokens() -> None:
    lines = wrap(["ab", " cd", "e\nf", "", "ghijklm"], 5)
    assert [[part for _, part in line if part] for line in lines] == [["ab", " cd"], ["e"], ["f"], ["ghijk"], ["lm"]]
    assert lines[4] == [(4, "lm")]


def test_whole_columns_scroll_away() -> None:
    lines = [[(i, str(i))] for i in range(7)]
    assert newest_columns(lines[:6], 2, 3) == lines[:6]
    assert newest_columns(lines, 2, 3) == lines[2:]


# --- Gymnasium ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, *RENDER_MODES])
def test_checker_has_no_complaint(mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(render_mode=mode).unwrapped)


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_looking_changes_nothing(mode: str) -> None:
    assert data_equivalence(play(make()), play(make(render_mode=mode), look=True), exact=True)


def test_pictures_show_steps() -> None:
    env: Any = make(render_mode="rgb_array")
    env.reset(seed=0, options={"problem": 0})
    first = env.render()
    assert isinstance(first, np.ndarray) and first.shape == SIZE and first.dtype == np.uint8
    np.testing.assert_array_equal(first, env.render())
    assert not (first[HEAT_TOP * CELL_HEIGHT :] == colours.GONE).all(-1).any()
    env.step(env.action_space.sample())
    second: Any = env.render()
    assert (second[HEAT_TOP * CELL_HEIGHT :] == colours.GONE).all(-1).any()
    assert not np.shares_memory(first, second)
    env.step(env.action_space.sample())
    assert env.unwrapped.core._all_frames()[0].gone.sum() == 4 * 2 * 4  # layers, KV heads, evict_every: of one step


def test_ansi_shows_text_and_numbers() -> None:
    env: Any = make(render_mode="ansi")
    env.reset(seed=0, options={"problem": 0})
    assert "aime/test/0/0" in env.render() and "each head holds 56 of 56 tokens" in env.render()
    env.step(env.action_space.sample())
    assert "each head holds 56 of 60 tokens (budget 52 + new)" in env.render()
    assert make().unwrapped.render() is None


def test_rendering_needs_an_episode() -> None:
    for mode in ("rgb_array", "ansi"):
        with pytest.raises(ResetNeeded, match="Call reset"):
            make(render_mode=mode).unwrapped.render()


def test_vector_env_draws_every_row() -> None:
    env = gymnasium.make_vec(ENV, num_envs=2, render_mode="rgb_array", **SMALL)
    env.reset(seed=0, options={"problem": [0, 1]})
    frames: Any = env.render()
    assert [frame.shape for frame in frames] == [SIZE, SIZE]
    assert (frames[0] != frames[1]).any()


def test_video_has_a_frame_for_every_step() -> None:
    env = RenderCollection(make(render_mode="rgb_array"), pop_frames=False)
    play(env)
    frames: Any = env.render()
    assert [frame.shape for frame in frames] == [SIZE] * 6


def test_record_video_writes_a_file(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy")
    env = RecordVideo(make(render_mode="rgb_array"), str(tmp_path), episode_trigger=lambda episode: True)
    play(env, steps=2)
    env.close()
    assert [path.stat().st_size > 1000 for path in tmp_path.glob("*.mp4")] == [True]


# --- People ------------------------------------------------------------------------------------------------------


def test_human_sees_every_step_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HumanScreen, "live", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    env = make(render_mode="human")
    env.reset(seed=0)
    assert "step 0" in capsys.readouterr().out
    for number in (1, 2):
        env.step(env.action_space.sample())
        shown = capsys.readouterr().out
        assert f"step {number}" in shown and shown.count("\n") < 24
    assert env.render() is None
    assert capsys.readouterr().out == ""


def test_human_screen_is_not_scrolled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HumanScreen, "live", True)
    monkeypatch.setenv("LINES", "20")
    HumanScreen().show([hand_made(held=np.ones((8, 2, 4), dtype=bool), gone=np.zeros((8, 2, 4), dtype=bool),
                                  attention=np.ones((8, 2, 4), dtype=np.float32))] * 3)  # fmt: skip
    assert capsys.readouterr().out.count("\n") == 19


def test_human_who_pipes_sees_the_end_only(capsys: pytest.CaptureFixture[str]) -> None:
    env: Any = gymnasium.make_vec(ENV, num_envs=2, render_mode="human", **SMALL)
    env.reset(seed=0)
    ended = 0
    while not ended:
        assert capsys.readouterr().out == ""
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = int((terminated | truncated).sum())
    shown = capsys.readouterr().out
    assert shown.count("ANSWER") == ended and "\x1b" not in shown
    assert not sys.stdout.isatty()
