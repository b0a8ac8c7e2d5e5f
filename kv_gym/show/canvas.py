"""A picture made of characters in a grid, all drawn at once, and of coloured rectangles."""

from __future__ import annotations

import functools
from importlib.resources import as_file, files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kv_gym.show.colours import BACKGROUND, Colour

CELL_WIDTH, CELL_HEIGHT = 8, 16
FONT_SIZE = 13
FONT = "mpl-data/fonts/ttf/DejaVuSansMono.ttf"  # comes with matplotlib; Pillow's own has no mathematics and no bold


class Canvas:
    """A grid of characters.

    Args:
        rows: Height, characters.
        columns: Width, characters.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._glyphs = np.zeros((rows, columns), dtype=np.int64)
        self._colours = np.zeros((rows, columns, 3), dtype=np.uint8)
        self._blocks: list[tuple[int, int, np.ndarray]] = []

    def write(self, row: int, column: int, text: str, colour: Colour | np.ndarray) -> int:
        """Write one line, cut where the picture ends; return the column behind it.

        Args:
            row: From the top.
            column: From the left.
            text: Without control characters.
            colour: Of all of it, [3].
        """
        end = min(column + len(text), self.columns)
        if end > column:
            self._glyphs[row, column:end] = [ATLAS.number(character) for character in text[: end - column]]
            self._colours[row, column:end] = colour
        return column + len(text)

    def paint(self, top: int, left: int, pixels: np.ndarray) -> None:
        """Put `pixels` [h, w, 3] at a place, in pixels."""
        self._blocks.append((top, left, pixels))

    def picture(self) -> np.ndarray:
        """Return the picture, [rows * CELL_HEIGHT, columns * CELL_WIDTH, 3] uint8."""
        picture = np.empty((self.rows * CELL_HEIGHT, self.columns * CELL_WIDTH, 3), dtype=np.uint8)
        picture[:] = BACKGROUND
        cells = picture.reshape(self.rows, CELL_HEIGHT, self.columns, CELL_WIDTH, 3)  # a view
        row, column = np.nonzero(self._glyphs)
        ink = ATLAS.masks()[self._glyphs[row, column]].astype(np.uint16)[..., None]  # [cells, h, w, 1]
        colour = self._colours[row, column].astype(np.uint16)[:, None, None]  # [cells, 1, 1, 3]
        cells[row, :, column] = (ink * colour + (255 - ink) * np.array(BACKGROUND, dtype=np.uint16)) // 255
        for top, left, pixels in self._blocks:
            height, width, _ = pixels.shape
            picture[top : top + height, left : left + width] = pixels.round()
        return picture


class Atlas:
    """Pictures of the characters that were needed so far, all of one size."""

    def __init__(self) -> None:
        self._numbers = {" ": 0}
        self._masks = np.zeros((1, CELL_HEIGHT, CELL_WIDTH), dtype=np.uint8)
        self._new: list[np.ndarray] = []

    def number(self, character: str) -> int:
        """Return the number of a character, drawing it when it is new."""
        if character not in self._numbers:
            self._numbers[character] = len(self._numbers)
            self._new.append(_draw(character))
        return self._numbers[character]

    def masks(self) -> np.ndarray:
        """How much ink each pixel of each character has, [numbers, CELL_HEIGHT, CELL_WIDTH] uint8."""
        if self._new:
            self._masks, self._new = np.concatenate([self._masks, np.stack(self._new)]), []
        return self._masks


ATLAS = Atlas()


def _draw(character: str) -> np.ndarray:
    image = Image.new("L", (CELL_WIDTH, CELL_HEIGHT))
    ImageDraw.Draw(image).text((0, CELL_HEIGHT - 4), character, fill=255, font=_font(), anchor="ls")
    return np.asarray(image)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    with as_file(files("matplotlib") / FONT) as path:
        return ImageFont.truetype(str(path), FONT_SIZE)
