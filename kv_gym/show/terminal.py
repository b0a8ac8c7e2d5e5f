"""A frame as text for the terminal, with colours or without."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console, Group
from rich.style import Style
from rich.text import Text

from kv_gym.rewards import REWARD_TERMS
from kv_gym.show import colours
from kv_gym.show.colours import Colour
from kv_gym.show.frames import Frame

WIDTH, HEIGHT = 100, 32
HEAD_LINES = 16
"""Lines of the heat map at most; of more heads, neighbours are averaged."""
DENSITY = " ░▒▓█"
"""Where there are no colours: how much of what a place stands for is held."""
FEWEST_LINES = 3
PLAIN_LEGEND = "token of the text, from left to right: █ all held, ░ few, blank none; a line per KV head"
MARK = "\N{BLACK SQUARE}"


def outcome(score: float | None) -> tuple[str, Colour]:
    """Say how an answer was scored, 0 to 1, or that the LLM still writes."""
    if score is None:
        return "the LLM is writing", colours.LABEL
    if score == 1:
        return "RIGHT ANSWER", colours.RIGHT
    return ("WRONG ANSWER" if score == 0 else f"ANSWER {score:.0%} RIGHT"), colours.WRONG


def cost(frame: Frame) -> str:
    """Say what the cache holds and what it would hold."""
    read, slots = frame.held.shape[-1], int(frame.held.sum(-1).max(initial=0))
    size, full = (_size(n) for n in (frame.kv_bytes, frame.kv_bytes_full))
    return f"each head holds {slots} of {read} tokens (budget {frame.budget} + new)   KV cache {size} instead of {full}"


def measures(frame: Frame) -> str:
    """Numbers of the last step, and the accuracy so far."""
    ended = f"   right {frame.total_score:g} of {frame.n_ended}" if frame.n_ended else ""
    known = {term.name: term for term in REWARD_TERMS}
    terms = [f"{known[name].title} {value:.2f} {known[name].unit}".rstrip() for name, value in frame.terms.items()]
    return "   ".join([f"step {frame.step}", *terms, f"reward {frame.reward:+.2f}, sum {frame.total:+.2f}{ended}"])


def _size(n_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 2**10:.0f} KiB"


def view(frame: Frame, width: int = WIDTH, height: int = HEIGHT, colour: bool = True) -> Group:
    """Lay a frame out.

    Args:
        frame: What to show.
        width: Columns.
        height: Lines. As many of the newest lines of the text are shown as have room, and at least `FEWEST_LINES`.
        colour: Whether the terminal has colours. Without them what is evicted can only be seen in the heat map.
    """
    word, tone = outcome(frame.score)
    title = Text.assemble(
        (frame.env_id, "bold"), f"  {frame.problem} ({frame.family})  ", (word, Style(color=_rgb(tone), bold=True))
    )
    parts = [title, Text(cost(frame)), Text(measures(frame), Style(color=_rgb(colours.LABEL)))]
    heat, legend = (_heat(frame, width), _legend()) if colour else (_density(frame, width), Text(PLAIN_LEGEND))
    room = max(FEWEST_LINES, height - len(parts) - len(heat) - 3)
    parts += [Text(), *_text_lines(frame, width, room), Text(), *heat, legend]
    for part in parts:
        part.no_wrap, part.overflow = True, "crop"
    return Group(*parts)


def ansi(frame: Frame, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Return a frame with ANSI colours (256 of them), without a newline at the end."""
    return _printed(view(frame, width, height), width, "256")


def plain(frame: Frame, width: int = WIDTH) -> str:
    """Return a frame without any control codes."""
    return _printed(view(frame, width, colour=False), width, None)


def _printed(what: Group, width: int, system: str | None) -> str:
    console = Console(
        file=io.StringIO(), width=width, height=1000, force_terminal=system is not None, highlight=False,
        color_system=system, legacy_windows=False, _environ={},  # type: ignore[arg-type]
    )  # fmt: skip
    with console.capture() as capture:
        console.print(what)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _text_lines(frame: Frame, width: int, most: int) -> list[Text]:
    text = Text()
    for token, colour in zip(frame.tokens, colours.token_colours(frame), strict=True):
        text.append(token, Style(color=_rgb(colour)))
    lines = text.wrap(Console(width=width, file=io.StringIO()), width)
    return list(lines[-most:])


def _heat(frame: Frame, width: int) -> list[Text]:
    """Colours in half blocks: a head a line, two places beside each other; of many heads two a line."""
    many = frame.held.shape[0] * frame.held.shape[1] > HEAD_LINES
    labels, rows = _head_rows(frame, colours.slot_colours(frame), HEAD_LINES * (1 + many))
    room = max(1, width - len(labels[0]) - 1)
    if many:
        block, rows, labels = "\N{UPPER HALF BLOCK}", colours.resample(rows, room, 1), labels[::2]
        rows = np.pad(rows, ((0, len(rows) % 2), (0, 0), (0, 0)), mode="edge")
        first, second = rows[::2], rows[1::2]
    else:
        block, rows = "\N{LEFT HALF BLOCK}", colours.resample(rows, 2 * room, 1)
        first, second = rows[:, ::2], rows[:, 1::2]
    lines = []
    for label, fronts, grounds in zip(labels, first, second, strict=True):
        lines.append(Text(f"{label} ", Style(color=_rgb(colours.LABEL))))
        for front, ground in zip(fronts, grounds, strict=True):
            lines[-1].append(block, Style(color=_rgb(front), bgcolor=_rgb(ground)))
    return lines


def _density(frame: Frame, width: int) -> list[Text]:
    """A head a line, as shades of the share that is held."""
    held = np.zeros((*frame.held.shape[:2], frame.axis))
    held[:, :, : frame.held.shape[-1]] = frame.held
    labels, rows = _head_rows(frame, held, HEAD_LINES)
    shades = np.ceil(colours.resample(rows, max(1, width - len(labels[0]) - 1), 1) * (len(DENSITY) - 1)).astype(int)
    lines = ["".join(DENSITY[shade] for shade in row) for row in shades]
    return [Text(f"{label} {line}") for label, line in zip(labels, lines, strict=True)]


def _head_rows(frame: Frame, values: np.ndarray, most: int) -> tuple[list[str], np.ndarray]:
    """Flatten layers and heads to at most `most` rows; name the layer where it begins."""
    n_layers, n_heads = values.shape[:2]
    rows = values.reshape(n_layers * n_heads, *values.shape[2:])
    if len(rows) > most:
        rows = colours.resample(rows, most, 0)
    starts = {layer * len(rows) // n_layers: layer for layer in reversed(range(n_layers))}
    size = len(f"layer {n_layers - 1}")
    return [(f"layer {starts[row]}" if row in starts else "").ljust(size) for row in range(len(rows))], rows


def _legend() -> Text:
    legend = Text(no_wrap=True)
    ramp = colours.gradient(np.linspace(0, 1, 8))
    entries: list[tuple[str, list[Colour | np.ndarray]]] = [
        ("held, little to much attention", list(ramp)), ("evicted now", [colours.GONE]), ("before", [colours.EVICTED]),
        ("prompt", [colours.PROMPT]), ("dim: few heads hold it", [colours.FADED]),
    ]  # fmt: skip
    for words, tones in entries:
        for tone in tones:
            legend.append(MARK, Style(color=_rgb(tone)))
        legend.append(f" {words}  ", Style(color=_rgb(colours.WRITTEN)))
    return legend


def _rgb(colour: Colour | np.ndarray) -> str:
    red, green, blue = (round(float(value)) for value in colour)
    return f"rgb({red},{green},{blue})"
