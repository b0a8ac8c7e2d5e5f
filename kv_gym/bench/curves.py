"""Learning curves: what trainings logged, as a table of numbers and as a plot."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_gym.bench.plots import new_figure, save_figure
from kv_gym.errors import ConfigError

LOG_FILES = ("log.jsonl", "progress.csv")
"""Of a training in its folder: ours, and that of stable-baselines3."""

STEPS = ("step", "time/total_timesteps", "global_step")
"""Columns that count steps; the first one that a log has is the axis."""

NO_CURVE = {"seconds", "time/iterations", "time/fps", "time/time_elapsed", *STEPS}
MOST_PANELS, COLUMNS = 12, 3


@dataclass(frozen=True)
class Curve:
    """What one training logged.

    Attributes:
        name: For the legend.
        rows: Numbers by column, in order; a column may be missing in a row.
    """

    name: str
    rows: list[dict[str, float]]

    @property
    def axis(self) -> str:
        """The column that counts steps, or "" for the number of the row."""
        return next((name for name in STEPS if all(name in row for row in self.rows)), "")

    def of(self, column: str) -> tuple[list[float], list[float]]:
        """(Steps, values) of a column, where it has any."""
        found = [(row.get(self.axis, i), row[column]) for i, row in enumerate(self.rows) if column in row]
        return [step for step, _ in found], [value for _, value in found]


def read_curve(place: Path) -> Curve:
    """Read the log of a training.

    Args:
        place: Folder of a training (`--work`), its log.jsonl, a checkpoint's .json, or the progress.csv of
            stable-baselines3.

    Raises:
        ConfigError: There is no log, or it is none.
    """
    logs = [place / name for name in LOG_FILES if (place / name).is_file()] if place.is_dir() else [place]
    path = logs[0] if logs else place / LOG_FILES[0]
    path = path.with_suffix(".json") if path.suffix == ".safetensors" else path
    if not path.is_file():
        raise ConfigError(f"{path}: there is no log. Give the folder of a training (runs/train/NAME), or a checkpoint.")
    try:
        rows = [_numbers(row) for row in _rows(path)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{path} is no log of a training ({type(error).__name__}: {str(error)[:200]}).") from error
    if not any(row.keys() - NO_CURVE for row in rows):
        raise ConfigError(f"{path}: nothing was logged yet.")
    return Curve(path.resolve().parent.name if path.name in LOG_FILES else path.stem, rows)


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    text = path.read_text()
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix == ".json":
        return list(json.loads(text)["curve"])
    *whole, last = text.split("\n")  # a line without an end is under way
    return [json.loads(line) for line in whole if line] + ([json.loads(last)] if last.endswith("}") else [])


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; of those inside a dict, with its name in front."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            with suppress(ValueError):  # a text among the numbers is none of them
                found |= {name: float(value)} if math.isfinite(float(value)) else {}
    return found


def columns_of(curves: Sequence[Curve], wanted: Sequence[str] = ()) -> list[str]:
    """Columns to draw, in the order of the logs.

    Raises:
        ConfigError: One that is wanted is in no log.
    """
    there = list(dict.fromkeys(name for curve in curves for row in curve.rows for name in row if name not in NO_CURVE))
    for name in wanted:
        if name not in there:
            raise ConfigError(f"column {name!r} is in none of the logs. There are: {', '.join(there)}.")
    return list(wanted) or there[:MOST_PANELS]


def check_picture(path: Path) -> None:
    """Refuse a picture of a kind that is not drawn.

    Raises:
        ConfigError: Its name ends in something else than .png, .svg or .pdf.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path}: use a name that ends in .png, .svg or .pdf.")


def labels_of(curves: Sequence[Curve]) -> list[str]:
    """Names for the legend; of those that share one, with their place."""
    names = [curve.name for curve in curves]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def style(place: int) -> str:
    """Lines of the second ten, which have the colours of the first, are dashed, and so on."""
    return ("-", "--", ":", "-.")[place // 10 % 4]


def plain_text(name: str) -> str:
    """A name as matplotlib shows it as it is: a dollar would begin a formula."""
    return name.replace("$", r"\$")


def save_curves(curves: Sequence[Curve], path: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Draw one panel a column and one line a training; PNG or SVG, by the name of `path`.

    Returns:
        The columns.

    Raises:
        ConfigError: A wanted column is in no log, or the name ends in something else.
    """
    check_picture(path)
    names, labels = columns_of(curves, wanted), labels_of(curves)
    across = min(COLUMNS, len(names))
    down = math.ceil(len(names) / across)
    figure = new_figure(4.0 * across, 2.6 * down + 0.4)
    for i, name in enumerate(names):
        axes = figure.add_subplot(down, across, i + 1)
        for place, curve in enumerate(curves):
            steps, values = curve.of(name)
            axes.plot(
                steps, values, color=f"C{place % 10}", linestyle=style(place), marker="." if len(steps) < 30 else ""
            )
        axes.set_title(plain_text(name), fontsize=9)
        kinds = dict.fromkeys(curve.axis or "row" for curve in curves if curve.of(name)[0])
        axes.set_xlabel(plain_text(" or ".join(kinds)), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        axes.plot([], [], color=f"C{place % 10}", linestyle=style(place), label=plain_text(label))[0]
        for place, label in enumerate(labels)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(curves)), frameon=False, fontsize=8)
    save_figure(figure, path)
    return names
