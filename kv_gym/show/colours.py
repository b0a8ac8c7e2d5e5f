"""Colours of tokens and of slots, the same in pictures and in the terminal."""

from __future__ import annotations

import numpy as np

from kv_gym.show.frames import Frame

Colour = tuple[int, int, int]

BACKGROUND: Colour = (16, 18, 24)
EVICTED: Colour = (58, 58, 68)
GONE: Colour = (255, 72, 72)
HELD: tuple[Colour, ...] = ((38, 82, 150), (36, 150, 160), (120, 200, 110), (255, 226, 90))
"""Held slots, from little attention to much."""
PROMPT: Colour = (130, 200, 255)
WRITTEN: Colour = (236, 236, 236)
FADED: Colour = (84, 84, 96)
LABEL: Colour = (150, 152, 165)
RIGHT: Colour = (110, 215, 120)
WRONG: Colour = (255, 110, 90)

LEAST, MOST = -4.0, -1.0  # decimal logarithms of the attention at both ends of HELD


def attention_colours(attention: np.ndarray) -> np.ndarray:
    """Colour attention on a logarithmic scale, [...] share -> [..., 3] float."""
    level = (np.log10(np.maximum(attention, 10**LEAST)) - LEAST) / (MOST - LEAST)
    return gradient(level.clip(0, 1))


def gradient(level: np.ndarray) -> np.ndarray:
    """Return the colour between the stops of HELD, [...] 0 to 1 -> [..., 3] float."""
    stops = np.array(HELD, dtype=float)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(level, at, stops[:, channel]) for channel in range(3)], -1)


def slot_colours(frame: Frame) -> np.ndarray:
    """Colour of each layer, head and position, [L, H_kv, axis, 3] float; what is not yet read is BACKGROUND."""
    colours = np.full((*frame.held.shape[:2], frame.axis, 3), BACKGROUND, dtype=float)
    colours[:, :, : frame.held.shape[-1]] = EVICTED
    for where, colour in ((frame.held, attention_colours(frame.attention[frame.held])), (frame.gone, GONE)):
        layer, head, position = np.nonzero(where)
        colours[layer, head, position] = colour
    return colours


def token_colours(frame: Frame) -> np.ndarray:
    """Colour of each written token, [len(tokens), 3] uint8: fading to FADED as heads drop it, GONE with the last."""
    share = frame.share[:, None]
    full = np.array([PROMPT if index < frame.n_prompt else WRITTEN for index in range(len(share))], dtype=float)
    colours = np.array(FADED) + (full - FADED) * share
    colours[frame.lost] = GONE
    return colours.round().astype(np.uint8)


def resample(colours: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Stretch an axis by repeating, or shrink it by averaging, to `length`."""
    size = colours.shape[axis]
    if length >= size:
        return colours.take(np.arange(length) * size // length, axis)
    edges = np.arange(length + 1) * size // length
    sums = np.add.reduceat(colours, edges[:-1], axis)
    return sums / np.diff(edges).reshape([-1 if dim == axis % colours.ndim else 1 for dim in range(colours.ndim)])
