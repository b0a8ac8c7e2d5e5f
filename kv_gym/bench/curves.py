"""Learning curves: what trainings logged, as a table of numbers and as a plot."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_gym.bench.plots import new_figure, save_figure
from kv_gym.errors import ConfigError

LOG_FILE = "log.jsonl"
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
    path = place / LOG_FILE if place.is_dir() else place
    path = path.with_suffix(".json") if path.suffix == ".safetensors" else path
    if not path.is_file():
        raise ConfigError(f"{path}: there is no log. Give the folder of a training (runs/train/NAME), or a checkpoint.")
    try:
        rows = [_numbers(row) for row in _rows(path)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no log of a training ({type(error).__name__}: {str(error)[:200]}).") from error
    if not any(rows):
        raise ConfigError(f"{path}: nothing was logged yet.")
    return Curve(path.parent.name if path.name in (LOG_FILE, "progress.csv") else path.stem, rows)


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    text = path.read_text()
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix == ".json":
        return list(json.loads(text)["curve"])
    return [json.loads(line) for line in text.splitlines() if line]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; of those inside a dict, with its name in front."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {inner}": number for inner, number in _numbers(value).items()}
        elif value not in ("", None) and not isinstance(value, bool) and math.isfinite(float(value)):
            found[name] = float(value)
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


def save_curves(curves: Sequence[Curve], path: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Draw one panel a column and one line a training; PNG or SVG, by the name of `path`.

    Returns:
        The columns.

    Raises:
        ConfigError: A wanted column is in no log, or the name ends in something else.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path}: use a name that ends in .png, .svg or .pdf.")
    names = columns_of(curves, wanted)
    across = min(COLUMNS, len(names))
    down = math.ceil(len(names) / across)
    figure = new_figure(4.0 * across, 2.6 * down + 0.4)
    for i, name in enumerate(names):
        axes = figure.add_subplot(down, across, i + 1)
        for place, curve in enumerate(curves):
            steps, values = curve.of(name)
            axes.plot(steps, values, color=f"C{place % 10}", marker="." if len(steps) < 30 else "", label=curve.name)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(curves[0].axis or "row", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [axes.plot([], [], color=f"C{place % 10}", label=curve.name)[0] for place, curve in enumerate(curves)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(curves)), frameon=False, fontsize=8)
    save_figure(figure, path)
    return names
