"""Reports as plots: accuracy against budget, and two rankings beside each other."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kv_gym.bench.agreement import ACCURACY, Agreement, Ranked
from kv_gym.bench.report import CellReport, Report
from kv_gym.bench.suite import Part
from kv_gym.bench.tables import sample_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL_COLOUR, HINDSIGHT_COLOUR = "0.25", "0.5"
MARKERS = "osD^vPX"
COLOURS = {
    "foresight-rl": "#d62728", "foresight": "#ff7f0e", "transfer": "#8c564b", "ppo": "#e377c2", "kvp": "#bcbd22",
    "rkv": "#1f77b4", "h2o": "#2ca02c", "snapkv": "#9467bd", "tova": "#17becf", "streaming": "#7b5800",
    "random": "#000000", "random-prompt": "#ff6f91", "keydiff": "#004c6d", "lagkv": "#6a8d00", "gkv": "#5c3566",
}  # fmt: skip
"""An agent has one colour in all figures; none is grey, which golden and the full cache have."""
OTHERS = ("#b15928", "#66c2a5", "#b39ddb", "#3f51ff", "#c51b7d", "#4d9221", "#35978f", "#4a1486")
"""Of agents without one of their own, by their names."""
PLOT_AGENTS = 10
DODGE = 0.06  # width over which agents are spread at a budget, in octaves: 48 slots stand between 47 and 49
BAR = 0.7  # of the room that an agent has
PLOT_DPI = 150


def save_plot(report: Report, path: Path) -> None:
    """Save accuracy against budget, with 95% intervals, as a picture; of one budget as bars.

    Agents stand a little beside each other at each budget, so that equal ones do not hide; Golden Eviction stands at
    the budget itself. Of many agents the best `PLOT_AGENTS` are drawn, besides Golden Eviction.
    """
    if len(report.budgets) == 1:
        figure = new_figure(7.0, 1.8 + 0.32 * len(drawn_agents(report)))
        _draw_bars(figure.add_subplot(), report)
    else:
        figure = new_figure(9.0, 4.8)
        axes = figure.add_subplot()
        draw(axes, report)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="mean, 95% interval")
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture of the kind that its name ends with, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def draw(axes: Axes, report: Report) -> None:
    """Draw accuracy against budget; no legend yet."""
    agents = drawn_agents(report)
    looks = looks_of(agents)
    beside = [agent for agent in agents if not _knows_the_future(report, agent)]
    for agent in agents:
        place = beside.index(agent) if agent in beside else (len(beside) - 1) / 2
        shift = DODGE * (place - (len(beside) - 1) / 2) / max(1, len(beside) - 1)
        cells = [cell for cell in report.cells if cell.agent == agent and cell.accuracy is not None]
        if cells:
            _draw_agent(axes, cells, looks[agent], 2**shift)
    _draw_full(axes, report)
    _dress(axes, report)


def drawn_agents(report: Report) -> list[str]:
    """The best `PLOT_AGENTS`, best first, then the first that knows the future."""
    ranked = list(dict.fromkeys(cell.agent for cell in report.cells if cell.ranked))
    hindsight = list(dict.fromkeys(cell.agent for cell in report.cells if cell.uses_hindsight))
    return [*ranked[:PLOT_AGENTS], *hindsight[:1]]


def _knows_the_future(report: Report, agent: str) -> bool:
    return any(cell.uses_hindsight for cell in report.cells if cell.agent == agent)


def _draw_bars(axes: Axes, report: Report) -> None:
    """Accuracy at the only budget, the best agent on top, and the full cache as a line."""
    agents = drawn_agents(report)[::-1]
    looks, (budget,) = looks_of(agents[::-1]), report.budgets
    names = []
    for place, agent in enumerate(agents):
        cell, future = report.cell(agent, budget), _knows_the_future(report, agent)
        names.append(f"{agent} (hindsight)" if future else agent)
        if cell is None or cell.accuracy is None:
            continue
        value, low, high = (100 * getattr(cell.accuracy, end) for end in ("value", "low", "high"))
        colour = HINDSIGHT_COLOUR if future else looks[agent][0]
        axes.barh(place, value, BAR, color=colour, edgecolor=colour, linewidth=2.0)  # a line, where nothing is right
        axes.hlines(place, low, high, color="0.15", linewidth=1.2)
    full = max((cell for cell in report.cells if cell.full_accuracy is not None), key=lambda one: one.n_episodes)
    axes.axvline(100 * (full.full_accuracy or 0.0), color=FULL_COLOUR, linestyle="--", linewidth=1.3, zorder=0)
    axes.set_yticks(range(len(agents)), names)
    axes.set_xlim(-1, 103)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"accuracy at {budget} slots, %; mean, 95% interval; dashed: full cache")
    axes.set_title(f"{report.env_id}: {sample_text(report)}, {report.model} model", loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def looks_of(agents: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each agent of a figure: its own, whoever else is drawn, as long as there are colours left.

    Of several with one name, such as one agent with other options, the first has the name's colour.
    """
    looks: dict[str, tuple[str, str]] = {}
    for agent in agents:
        taken, number = {colour for colour, _ in looks.values()}, zlib.crc32(agent.encode())
        own = COLOURS.get(re.split(r"[\[( ,]", agent)[0])
        turned = [OTHERS[(number + i) % len(OTHERS)] for i in range(len(OTHERS))]
        wanted = [*([own] if own else []), *turned]
        looks[agent] = next((one for one in wanted if one not in taken), wanted[0]), MARKERS[number % len(MARKERS)]
    return looks


def _draw_agent(axes: Axes, cells: Sequence[CellReport], look: tuple[str, str], shift: float) -> None:
    accuracies = [cell.accuracy for cell in cells if cell.accuracy is not None]
    budgets = [cell.budget * shift for cell in cells]
    value, low, high = ([100 * getattr(a, name) for a in accuracies] for name in ("value", "low", "high"))
    name, (colour, marker), style = cells[0].agent, look, "-"
    if cells[0].uses_hindsight:
        name, colour, style, marker = f"{name} (hindsight)", HINDSIGHT_COLOUR, "--", "."
    axes.plot(budgets, value, label=name, color=colour, linestyle=style, linewidth=1.7, marker=marker, markersize=5.5)
    axes.vlines(budgets, low, high, color=colour, linewidth=1.0, alpha=0.7)
    axes.fill_between(budgets, low, high, color=colour, alpha=0.06, linewidth=0)


def _draw_full(axes: Axes, report: Report) -> None:
    """The full cache: one dashed line; it moves only where budgets play different problems."""
    by_size = sorted(report.cells, key=lambda cell: cell.n_episodes)  # an unfinished cell gives way to a finished one
    points = {cell.budget: 100 * cell.full_accuracy for cell in by_size if cell.full_accuracy is not None}
    if not points:
        return
    budgets, values = zip(*sorted(points.items()), strict=True)
    reach = [budgets[0] / 4, *budgets, budgets[-1] * 4]  # from one edge of the plot to the other
    style: dict[str, Any] = {"color": FULL_COLOUR, "linestyle": "--", "linewidth": 1.3, "zorder": 1}
    axes.plot(reach, [values[0], *values, values[-1]], label="full cache", **style)


def _dress(axes: Axes, report: Report) -> None:
    budgets = report.budgets
    axes.set_xscale("log", base=2)
    axes.set_xlim(budgets[0] / 1.12, budgets[-1] * 1.12)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.set_xlabel("budget, slots per layer and KV head (agents stand beside each other)")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"{report.env_id}: {sample_text(report)}, {report.model} model", loc="left", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save_agreement_plot(agreement: Agreement, names: tuple[str, str], path: Path) -> None:
    """Save two rankings beside each other, in the order of the first, best on top.

    Args:
        agreement: The rankings, and how far they agree.
        names: What the sets of rows are called.
        path: Picture.
    """
    sides = (agreement.one, agreement.other)
    figure = new_figure(9.0, 1.2 + 0.24 * len(sides[0].agents))
    for axes, ranked, name in zip(figure.subplots(1, 2, sharey=True), sides, names, strict=True):
        _draw_ranked(axes, ranked, agreement.one.values.argsort(), name)
    tau = agreement.tau
    figure.suptitle(f"Kendall's tau {tau.value:+.2f} [{tau.low:+.2f}, {tau.high:+.2f}]", fontsize=11)
    save_figure(figure, path)


def _draw_ranked(axes: Axes, ranked: Ranked, order: NDArray[np.intp], name: str) -> None:
    """A point with its 95% interval for each agent, in `order` from below."""
    every, places = ranked.intervals, range(len(order))
    intervals = [every[i] for i in order]
    values = [one.value for one in intervals]
    axes.hlines(
        places, [one.low for one in intervals], [one.high for one in intervals], color="C0", alpha=0.5, linewidth=1.6
    )
    axes.plot(values, places, "o", color="C0", markersize=5)
    axes.set_yticks(places, [ranked.agents[i] for i in order])
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    better = "more" if ranked.by == ACCURACY else "less"
    axes.set_xlabel(f"{ranked.by.replace('_', ' ')} ({better} is better)")
    axes.set_title(f"{name}\n{ranked.budget} slots, {ranked.n_problems} problems", loc="left", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save_suite_plot(parts: Mapping[str, Part], path: Path) -> None:
    """Accuracy against budget, a panel per environment."""
    figure = new_figure(11.0, 3.6 * ((len(parts) + 1) // 2))
    panels = figure.subplots((len(parts) + 1) // 2, 2, squeeze=False).flatten()
    for axes, (name, part) in zip(panels, parts.items(), strict=False):
        draw(axes, part.report)
        axes.set_title(name, loc="left", fontsize=11)
        axes.axvline(part.half, color="0.8", linewidth=1, zorder=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7)
    for axes in panels[len(parts) :]:
        axes.remove()
    save_figure(figure, path)
