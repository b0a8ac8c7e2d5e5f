"""`render_mode`: a picture of an episode as an array, as text, or shown in the terminal while it is played.

KVEvict-AIME-v0   problem                                                 writing / RIGHT / WRONG
numbers
TEXT    prompt and generation in columns; a token fades as heads drop it
CACHE   a line for each layer and KV head, from the first token of the text to the newest
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from kv_gym.show import colours
from kv_gym.show.canvas import CELL_HEIGHT, CELL_WIDTH, Canvas
from kv_gym.show.colours import Colour
from kv_gym.show.frames import Frame
from kv_gym.show.terminal import ansi, cost, measures, outcome, plain

RENDER_MODES = ("rgb_array", "human", "ansi")
RENDER_FPS = 4
"""Frames a second. A frame is a step of `evict_every` tokens."""

ROWS, COLUMNS = 45, 160  # characters: 720 x 1280 pixels
TEXT_TOP, TEXT_ROWS, TEXT_COLUMNS, TEXT_GAP = 6, 17, 2, 4
HEAT_TOP, HEAT_ROWS, HEAT_LEFT = 26, 16, 11
LAYER_GAP, HEAD_GAP = 8, 1  # pixels, where there is room
TICKS = (1, 2, 5)

HOME, CLEAR, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"

Place = tuple[int, str]
"""A token's number and the part of its text that stands on a line."""


def picture(frame: Frame) -> np.ndarray:
    """Draw a frame, [720, 1280, 3] uint8."""
    canvas = Canvas(ROWS, COLUMNS)
    _title(canvas, frame)
    _text(canvas, frame)
    _cache(canvas, frame)
    return canvas.picture()


def _title(canvas: Canvas, frame: Frame) -> None:
    place = canvas.write(1, 2, frame.env_id, colours.WRITTEN)
    canvas.write(1, place + 3, f"problem {frame.problem} ({frame.family})", colours.LABEL)
    word, colour = outcome(frame.score)
    canvas.write(1, COLUMNS - 2 - len(word), word, colour)
    canvas.write(2, 2, cost(frame), colours.WRITTEN)
    canvas.write(3, 2, measures(frame), colours.LABEL)


def _text(canvas: Canvas, frame: Frame) -> None:
    entries = [
        ("prompt", colours.PROMPT), ("written", colours.WRITTEN),
        ("the darker, the fewer heads hold it", _dimmed(0.35)), ("no head holds it", colours.FADED),
        ("its last copy was evicted in this step", colours.GONE),
    ]  # fmt: skip
    _legend(canvas, TEXT_TOP - 1, "TEXT", entries)
    width = (COLUMNS - 4 - TEXT_GAP * (TEXT_COLUMNS - 1)) // TEXT_COLUMNS
    lines, tones = wrap(frame.tokens, width), colours.token_colours(frame)
    for number, line in enumerate(newest_columns(lines, TEXT_ROWS, TEXT_COLUMNS)):
        column, row = divmod(number, TEXT_ROWS)
        place = 2 + column * (width + TEXT_GAP)
        for token, part in line:
            place = canvas.write(TEXT_TOP + row, place, part, tones[token])


def _dimmed(share: float) -> Colour:
    faded = zip(colours.FADED, colours.WRITTEN, strict=True)
    red, green, blue = (round(low + share * (high - low)) for low, high in faded)
    return red, green, blue


def _legend(canvas: Canvas, row: int, title: str, entries: Sequence[tuple[str, Colour]]) -> int:
    place = canvas.write(row, 2, f"{title:5}", colours.WRITTEN) + 2
    for words, colour in entries:
        place = canvas.write(row, place, f"\N{BLACK SQUARE} {words}", colour) + 3
    return place


def wrap(tokens: Sequence[str], width: int) -> list[list[Place]]:
    """Break a text into lines of at most `width` characters, at newlines and between tokens."""
    lines: list[list[Place]] = [[]]
    used = 0
    for number, token in enumerate(tokens):
        for index, part in enumerate(token.split("\n")):
            if index or (used and used + len(part) > width):
                lines.append([])
                used = 0
            while len(part) > width:
                lines[-1].append((number, part[:width]))
                lines.append([])
                part = part[width:]
            lines[-1].append((number, part))
            used += len(part)
    return lines


def newest_columns(lines: list[list[Place]], height: int, columns: int) -> list[list[Place]]:
    """Return the last lines that fit into columns of a page; whole columns are left out, so that lines seldom move."""
    needed = -(-len(lines) // height)
    return lines[max(0, needed - columns) * height :]


def _cache(canvas: Canvas, frame: Frame) -> None:
    entries = [("evicted in this step", colours.GONE), ("evicted before", colours.EVICTED)]
    place = _legend(canvas, HEAT_TOP - 2, "CACHE", entries)
    place = canvas.write(HEAT_TOP - 2, place, "held, by the attention it gets: little ", colours.WRITTEN)
    ramp = np.broadcast_to(colours.gradient(np.linspace(0, 1, 12 * CELL_WIDTH)), (10, 12 * CELL_WIDTH, 3))
    canvas.paint((HEAT_TOP - 2) * CELL_HEIGHT + 4, place * CELL_WIDTH, ramp)
    canvas.write(HEAT_TOP - 2, place + 13, "much", colours.WRITTEN)
    pixels, tops = heat_map(frame, HEAT_ROWS * CELL_HEIGHT, (COLUMNS - HEAT_LEFT - 2) * CELL_WIDTH)
    canvas.paint(HEAT_TOP * CELL_HEIGHT, HEAT_LEFT * CELL_WIDTH, pixels)
    free = 0
    for layer, top in enumerate(tops):
        row = HEAT_TOP + top // CELL_HEIGHT
        if row >= free and row < HEAT_TOP + HEAT_ROWS:
            canvas.write(row, 2, f"layer {layer}", colours.LABEL)
            free = row + 1
    _axis(canvas, frame)


def heat_map(frame: Frame, height: int, width: int) -> tuple[np.ndarray, list[int]]:
    """Draw a line for each layer and KV head.

    Args:
        frame: What to draw.
        height: Pixels.
        width: Pixels.

    Returns:
        (pixels [height, width, 3], the top of each layer, pixels). Where there is not even a line of pixels for each
        head, neighbours are averaged.
    """
    slots = colours.resample(colours.slot_colours(frame), width, 2)  # [L, H_kv, width, 3]
    n_layers, n_heads = slots.shape[:2]
    between = min(LAYER_GAP, height // (4 * n_layers))
    size = (height - between * (n_layers - 1)) // (n_layers * n_heads)
    if size == 0:
        rows = colours.resample(slots.reshape(-1, width, 3), height, 0)
        return rows, [layer * height // n_layers for layer in range(n_layers)]
    pixels = np.broadcast_to(np.array(colours.BACKGROUND, dtype=float), (height, width, 3)).copy()
    tops = [layer * (n_heads * size + between) for layer in range(n_layers)]
    for layer, top in enumerate(tops):
        for head in range(n_heads):
            start = top + head * size
            pixels[start : start + size - (size > 3) * HEAD_GAP] = slots[layer, head]
    return pixels, tops


def _axis(canvas: Canvas, frame: Frame) -> None:
    row, width = HEAT_TOP + HEAT_ROWS, (COLUMNS - HEAT_LEFT - 2) * CELL_WIDTH
    for position in range(0, frame.axis, _tick(frame.axis)):
        left = HEAT_LEFT * CELL_WIDTH + position * width // frame.axis
        _line(canvas, row * CELL_HEIGHT, left, CELL_HEIGHT - 4, colours.LABEL)
        canvas.write(row, (left + 3) // CELL_WIDTH + 1, str(position), colours.LABEL)
    canvas.write(row + 1, HEAT_LEFT, "token of the text; every row is one KV head of the frozen LLM", colours.LABEL)
    _prompt_edge(canvas, HEAT_LEFT * CELL_WIDTH + min(frame.n_prompt, frame.axis) * width // frame.axis)


def _prompt_edge(canvas: Canvas, left: int) -> None:
    _line(canvas, HEAT_TOP * CELL_HEIGHT - 14, left, HEAT_ROWS * CELL_HEIGHT + 14, colours.PROMPT)
    place = left // CELL_WIDTH
    canvas.write(HEAT_TOP - 1, max(2, place - len("prompt ")), "prompt", colours.PROMPT)
    canvas.write(HEAT_TOP - 1, place + 2, "written", colours.WRITTEN)


def _line(canvas: Canvas, top: int, left: int, height: int, colour: Colour) -> None:
    canvas.paint(top, left, np.broadcast_to(np.array(colour, dtype=float), (height, 1, 3)))


def _tick(length: int) -> int:
    """Return a round distance of ticks, of which at most ten stand on the axis."""
    power = 1
    while True:
        for digit in TICKS:
            if length <= 10 * digit * power:
                return digit * power
        power *= 10


class HumanScreen:
    """Shows frames on stdout: in a terminal each over the last, elsewhere only how an episode ended."""

    def __init__(self) -> None:
        self._next = 0.0  # when the next frame may come
        self._drawn = False

    @property
    def live(self) -> bool:
        """Whether somebody sees every frame."""
        return sys.stdout.isatty()

    def show(self, frames: Sequence[Frame]) -> None:
        """Show all rows of an env."""
        if self.live:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._draw(frames)
            self._next = time.monotonic() + 1 / RENDER_FPS
        else:
            print(*(f"{plain(frame)}\n" for frame in frames if frame.score is not None), sep="", end="", flush=True)

    def _draw(self, frames: Sequence[Frame]) -> None:
        width, height = shutil.get_terminal_size()
        text = "\n".join(ansi(frame, width, height // len(frames) - 1) for frame in frames)
        lines = text.split("\n")[: height - 1]
        start = HOME if self._drawn else CLEAR + HOME
        sys.stdout.write(start + "".join(f"{line}{REST_OF_LINE}\n" for line in lines) + REST_OF_SCREEN)
        sys.stdout.flush()
        self._drawn = True


DRAWN: dict[str, Callable[[Frame], np.ndarray | str]] = {"rgb_array": picture, "ansi": ansi}
"""What `render()` returns a frame as."""
