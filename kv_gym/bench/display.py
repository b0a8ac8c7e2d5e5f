"""A report as tables for the terminal and as a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box, progress
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kv_gym.bench.intervals import Interval
from kv_gym.bench.report import CellReport, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL_COLOUR, HINDSIGHT_COLOUR = "0.25", "0.5"
MARKERS = "osD^vPX"
PLOT_AGENTS = 10
DODGE = 0.09  # width over which agents are spread at a budget, in octaves
PLOT_DPI = 150


def tables(report: Report) -> RenderableType:
    """Everything the terminal shows: accuracy, loss spike, loss ratio, cost, and what is worth knowing about them."""
    mode = "" if report.accuracy_mode == "generate" else " of the answer after the replayed trace"
    parts: list[RenderableType] = [
        _matrix(report, f"Accuracy{mode}, % [95% interval]", _accuracy_text),
        _matrix(report, "Loss spike, nats² [95% interval]", lambda cell: _interval_text(cell.loss_spike)),
        _matrix(report, "Loss over full-cache loss [95% interval]", lambda cell: _interval_text(cell.loss_ratio)),
        _matrix(report, "KV cache, MiB · new tokens a second · share of the time spent in the agent", _cost_text),
        *(Text(line, style="red") for line in failures(report)),
        *(Text(line, style="dim") for line in notes(report)),
    ]
    return Group(*parts)


def markdown(report: Report) -> str:
    """A results page: accuracy with intervals, loss ratios and cost per agent and budget, and the runs behind them."""
    tables = (
        ("accuracy, %", lambda cell: str(_accuracy_text(cell))),
        ("loss ratio", lambda cell: _interval_text(cell.loss_ratio)),
        ("MiB · tokens/s · share in the agent", _cost_text),
    )
    head = (
        f"# Results on {report.env_id}\n\n{_sample(report)} of the {report.split} split, model `{report.model}`. 95% "
        "bootstrap intervals over problems; agents in italics are references, not ranked."
    )
    parts = [
        " ".join([head, *_gaps(report)]),
        *(filled for title, text in tables if (filled := _markdown_table(report, title, text))),
    ]
    return "\n\n".join([*parts, "## Runs", "\n".join(_run_text(run) for run in report.runs)])


def _run_text(run: dict[str, Any]) -> str:
    """A line on one run: command, source, machine."""
    git = run["git"] or {}
    source = f"commit {git['commit'][:8]}{' (changed)' if git.get('dirty') else ''}, " if git else ""
    libraries = "".join(f"{name} {run['versions'].get(name)}, " for name in ("torch", "transformers"))
    return f"- `{run['command']}` ({source}{libraries}{run['threads']} threads, {run['hardware'].get('cpu')})"


def _markdown_table(report: Report, title: str, text: Callable[[CellReport], str]) -> str:
    """Agents x budgets; empty where no cell has a text."""
    if not any(text(cell) for cell in report.cells):
        return ""
    hindsight = {cell.agent for cell in report.cells if not cell.ranked}
    lines = [f"| {title} | " + " | ".join(map(str, report.budgets)) + " |", "|---|" + "---:|" * len(report.budgets)]
    for agent in report.agents:
        cells = [report.cell(agent, budget) for budget in report.budgets]
        name = f"*{agent}*" if agent in hindsight else agent
        lines.append(f"| {name} | " + " | ".join("" if cell is None else text(cell) for cell in cells) + " |")
    return "\n".join(lines)


def failures(report: Report) -> list[str]:
    """A line for every cell in which the agent raised."""
    return [
        f"{cell.agent}, budget {cell.budget}: {cell.n_failed} episodes failed and count as wrong. {cell.failure}"
        for cell in report.cells
        if cell.n_failed
    ]


def notes(report: Report) -> list[str]:
    """What a reader should know about the numbers."""
    lines = [f"{report.env_id}, {report.model}, {report.split}: {_sample(report)}. Means over problems."]
    if any(cell.versus_best for cell in report.cells if cell.ranked):
        lines.append("Bold: the best ranked agent, and those whose paired difference to it includes 0.")
    if any(not cell.ranked for cell in report.cells):
        lines.append("Below the line: references, not ranked. (hindsight) knows the future.")
    lines += _gaps(report)
    if report.n_other:
        lines.append(f"{report.n_other} rows of other settings, models or agent versions are in the file and not used.")
    commits = {str(run["git"] and run["git"]["commit"][:8]) for run in report.runs}
    if len(commits) > 1:
        lines.append(f"Rows come from different commits: {', '.join(sorted(commits))}.")
    return lines


def _gaps(report: Report) -> list[str]:
    """Where accuracy is of fewer problems than elsewhere, and so of other texts; and how many cannot be played."""
    fewer = []
    for budget in report.budgets:
        counts = {cell.agent: cell.n_problems for cell in report.cells if cell.budget == budget and cell.n_problems}
        most = max(counts.values(), default=report.n_problems)
        if most < report.n_problems:
            fewer.append(f"{most} at budget {budget}")
        fewer += [f"{n} for {agent} at budget {budget}" for agent, n in counts.items() if n < most]
    left_out = [f"{len(names)} at budget {budget}" for budget, names in sorted(report.left_out.items()) if names]
    told = {"Accuracy of fewer problems": fewer, "Left out, too short or too long to play": left_out}
    return [f"{what}: {', '.join(where)}." for what, where in told.items() if where]


def _sample(report: Report) -> str:
    seeds = "" if report.n_seeds == 1 else f" x {report.n_seeds} seeds"
    return f"{report.n_problems} problems{seeds}"


def _matrix(report: Report, title: str, text: Callable[[CellReport], Text | str]) -> RenderableType:
    """A table of agents x budgets; nothing where no cell has a text."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("agent")
    for budget in report.budgets:
        table.add_column(str(budget), justify="right", no_wrap=True)
    ranked = {cell.agent for cell in report.cells if cell.ranked}
    hindsight = {cell.agent for cell in report.cells if cell.uses_hindsight}
    filled, above = False, None
    for agent in report.agents:
        cells = [report.cell(agent, budget) for budget in report.budgets]
        texts = [Text("") if cell is None else Text.assemble(text(cell)) for cell in cells]
        filled |= any(texts)
        if above is not None and above != (agent in ranked):
            table.add_section()
        above = agent in ranked
        name = f"{agent} (hindsight)" if agent in hindsight else agent
        table.add_row(Text(name), *texts, style=None if agent in ranked else "italic")
    return Group(Text(title, style="bold"), table) if filled else Text("", end="")


def _accuracy_text(cell: CellReport) -> Text | str:
    if cell.accuracy is None:
        return ""
    value, low, high = (f"{100 * x:.0f}" for x in (cell.accuracy.value, cell.accuracy.low, cell.accuracy.high))
    mark = "!" if cell.n_failed else ""
    with_best = cell.ranked and (cell.versus_best is None or cell.versus_best.high >= 0)
    return Text(f"{mark}{value} [{low}, {high}]", style="bold" if with_best else "")


def _interval_text(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{short(interval.value)} [{short(interval.low)}, {short(interval.high)}]"


def _cost_text(cell: CellReport) -> str:
    size = "" if cell.kv_bytes_peak is None else short(cell.kv_bytes_peak / 2**20)
    speed = "" if cell.tokens_per_second is None else f" · {cell.tokens_per_second:,.0f}"
    scoring = "" if cell.scoring_share is None else f" · {100 * cell.scoring_share:.0f}%"
    return size + speed + scoring


def short(value: float) -> str:
    """Write a number with three digits: 0.0123, 1.23, 12.3, 123, 1.23e+04."""
    if value == 0:
        return "0"
    if abs(value) >= 9999.5 or abs(value) < 0.001:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def save_plot(report: Report, path: Path) -> None:
    """Save accuracy against budget, with 95% intervals, as a PNG.

    Agents stand a little beside each other at each budget, so that equal ones do not hide. Of many agents the best
    `PLOT_AGENTS` are drawn, besides Golden Eviction.
    """
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
    """Write a PNG, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)


def draw(axes: Axes, report: Report) -> None:
    """Draw accuracy against budget; no legend yet."""
    ranked = list(dict.fromkeys(cell.agent for cell in report.cells if cell.ranked))  # best first
    hindsight = list(dict.fromkeys(cell.agent for cell in report.cells if cell.uses_hindsight))
    agents = [*ranked[:PLOT_AGENTS], *hindsight[:1]]
    for place, agent in enumerate(agents):
        shift = DODGE * (place - (len(agents) - 1) / 2) / max(1, len(agents) - 1)
        cells = [cell for cell in report.cells if cell.agent == agent and cell.accuracy is not None]
        if cells:
            _draw_agent(axes, cells, place, 2**shift)
    _draw_full(axes, report)
    _dress(axes, report)


def _draw_agent(axes: Axes, cells: Sequence[CellReport], place: int, shift: float) -> None:
    accuracies = [cell.accuracy for cell in cells if cell.accuracy is not None]
    budgets = [cell.budget * shift for cell in cells]
    value, low, high = ([100 * getattr(a, name) for a in accuracies] for name in ("value", "low", "high"))
    name, colour, style = cells[0].agent, f"C{place % 10}", "-"
    if cells[0].uses_hindsight:
        name, colour, style = f"{name} (hindsight)", HINDSIGHT_COLOUR, "--"
    marker = "." if cells[0].uses_hindsight else MARKERS[place % len(MARKERS)]
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
    axes.set_xlabel("budget, slots per layer and KV head")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"{report.env_id}: {_sample(report)}, {report.model} model", loc="left", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def progress_bar(text: str) -> progress.Progress:
    """A bar on stderr behind `text`: how many are done, the time it took and the time left."""
    return progress.Progress(
        progress.TextColumn(text), progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
        progress.TextColumn("left"), progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}", style="cyan"), console=Console(stderr=True),
    )  # fmt: skip
