"""One agent with many options: how much a rule depends on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kv_gym.bench.benchmark import BenchResult
from kv_gym.bench.intervals import Interval
from kv_gym.bench.plan import Bench
from kv_gym.bench.plots import new_figure, save_figure
from kv_gym.bench.report import build_report
from kv_gym.errors import ConfigError
from kv_gym.identity import identity_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SETTINGS = 200  # of one sweep; what is more is a slip of the pen


@dataclass(frozen=True)
class Point:
    """What one setting gave at one budget; None where that was not measured.

    Attributes:
        options: The setting.
        budget: Slots.
        accuracy: Share of right answers.
        loss_ratio: Loss of the replayed text over that of the full cache.
    """

    options: Mapping[str, Any]
    budget: int
    accuracy: Interval | None
    loss_ratio: Interval | None


def settings(over: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values of options, the last one fastest.

    Raises:
        ConfigError: There are none, or too many.
    """
    found = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    if not over or not found:
        raise ConfigError("a sweep goes over the values of at least one option: --over lam=0,0.1,0.5.")
    if len(found) > MOST_SETTINGS:
        raise ConfigError(f"{len(found)} settings are more than {MOST_SETTINGS}. Use fewer values.")
    return found


def points(bench: Bench, result: BenchResult, over: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Sum up a benchmark whose agents are one agent with each of the settings `over`, in order."""
    found = []
    for agent, options in zip(bench.agents, over, strict=True):
        known = identity_of(agent).sha256
        report = build_report([row for row in result.rows if row.agent_sha256 == known], result.runs)
        found += [Point(options, c.budget, c.accuracy, c.measures["loss_ratio"]) for c in report.cells]
    return found


def save_sweep_plot(found: Sequence[Point], path: Path) -> None:
    """Save a curve a budget over one option, or a heat map a budget over two: accuracy, or else loss ratios.

    Raises:
        ConfigError: There are more options than a picture shows.
    """
    names = list(found[0].options)
    if len(names) > 2:
        raise ConfigError(f"a picture shows one option or two, and {', '.join(names)} were swept. Leave --plot out.")
    what = "accuracy" if any(point.accuracy for point in found) else "loss ratio"
    budgets = sorted({point.budget for point in found})
    figure = new_figure(6.4 if len(names) == 1 else 1.0 + 4.0 * len(budgets), 4.2)
    if len(names) == 1:
        _draw_curves(figure.add_subplot(), found, names[0], what, budgets)
    else:
        panels = figure.subplots(1, len(budgets), squeeze=False)[0]
        for axes, budget in zip(panels, budgets, strict=True):
            _draw_map(axes, [point for point in found if point.budget == budget], names, what)
    save_figure(figure, path)


def _value(point: Point, what: str) -> Interval | None:
    return point.accuracy if what == "accuracy" else point.loss_ratio


def _axis(found: Sequence[Point], name: str) -> list[Any]:
    """Values of an option in the order they were given."""
    return list({repr(point.options[name]): point.options[name] for point in found}.values())


def _draw_curves(axes: Axes, found: Sequence[Point], name: str, what: str, budgets: Sequence[int]) -> None:
    values = _axis(found, name)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    for budget in budgets:
        here = [point for point in found if point.budget == budget and _value(point, what) is not None]
        x = [point.options[name] if numbers else values.index(point.options[name]) for point in here]
        ends = np.array([[getattr(_value(point, what), end) for end in ("value", "low", "high")] for point in here])
        (line,) = axes.plot(x, ends[:, 0], marker="o", markersize=5, label=f"{budget} slots")
        axes.fill_between(x, ends[:, 1], ends[:, 2], color=line.get_color(), alpha=0.12, linewidth=0)
    if not numbers:
        axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_xlabel(name)
    axes.set_ylabel(what)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_map(axes: Axes, here: Sequence[Point], names: Sequence[str], what: str) -> None:
    down, across = (_axis(here, name) for name in names)
    table = np.full((len(down), len(across)), np.nan)
    for point in here:
        value = _value(point, what)
        place = down.index(point.options[names[0]]), across.index(point.options[names[1]])
        table[place] = np.nan if value is None else value.value
    axes.imshow(table, cmap="viridis" if what == "accuracy" else "viridis_r", aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        axes.text(j, i, f"{value:.3g}", ha="center", va="center", color="white", fontsize=9)
    axes.set_yticks(range(len(down)), [str(value) for value in down])
    axes.set_xticks(range(len(across)), [str(value) for value in across])
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    axes.set_title(f"{what}, {here[0].budget} slots", loc="left", fontsize=10)
