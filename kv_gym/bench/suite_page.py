"""The results page of a suite: a table per environment and cross tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kv_gym.bench.report import CellReport, Report
from kv_gym.bench.suite import Part
from kv_gym.bench.tables import cut_off_notes, markdown_table, percent

WITHIN = 0.02
"""Accuracy that an agent may lack to the full cache and still count as equal to it."""


def page(title: str, parts: Mapping[str, Part], plot: str) -> str:
    """All tables as Markdown.

    Args:
        title: Heads the page.
        parts: What each environment gave.
        plot: File name of the plot beside the page.
    """
    lines = [f"# {title}", "", f"![Accuracy against budget in each environment]({plot})", ""]
    lines += ["## Half of the mean length", ""]
    lines += [f"Accuracy in % at half of the mean length of the full-cache texts: {_halves(parts)}.", ""]
    lines += [cross_table(parts, lambda part, agent: accuracy(part.report.cell(agent, part.half)))]
    lines += ["", f"## Smallest budget within {100 * WITHIN:g} points of the full cache", ""]
    lines += ["Slots; a dash where no measured budget is enough.", ""]
    lines += [cross_table(parts, lambda part, agent: smallest_text(part.report, agent))]
    lines += ["", "## What eviction costs, by entropy", ""]
    lines += [
        "Increase of the loss of the replayed texts over the full cache's at half of the mean length, in % of it: of "
        "the four fifths of the tokens that the full cache is surest of, and of the others.", "",
    ]  # fmt: skip
    lines += [cross_table(parts, lambda part, agent: increases(part.report.cell(agent, part.half)))]
    for name, part in parts.items():
        lines += ["", f"## {name}: {part.report.env_id}", "", part_table(part)]
        lines += [line for note in cut_off_notes(part.report) for line in ("", note)]
    return "\n".join(lines) + "\n"


def _halves(parts: Mapping[str, Part]) -> str:
    return ", ".join(f"{part.half} slots in {name}" for name, part in parts.items())


def cross_table(parts: Mapping[str, Part], text: Callable[[Part, str], str]) -> str:
    """A Markdown table of agents x environments; agents in the order of the first report."""
    agents = dict.fromkeys(agent for part in parts.values() for agent in part.report.agents)
    rows = {agent: [text(part, agent) for part in parts.values()] for agent in agents}
    shown = [[_shown(parts, agent), *cells] for agent, cells in rows.items() if any(cells)]
    return markdown_table(["agent", *parts], shown)


def _shown(parts: Mapping[str, Part], agent: str) -> str:
    """Name of an agent, in italics if it is a reference line."""
    cells = [cell for part in parts.values() for cell in part.report.cells if cell.agent == agent]
    return agent if cells[0].ranked else f"*{agent}*"


def part_table(part: Part) -> str:
    """Accuracy per agent and budget, the half marked, and the smallest budget that is enough."""
    report = part.report
    heads = [f"{budget} (half)" if budget == part.half else str(budget) for budget in report.budgets]
    rows = []
    for agent in report.agents:
        cells = [accuracy(report.cell(agent, budget)) for budget in report.budgets]
        rows.append([_shown({"": part}, agent), *cells, smallest_text(report, agent)])
    return markdown_table(["accuracy, %", *heads, "enough"], rows)


def accuracy(cell: CellReport | None) -> str:
    """Accuracy with its interval, %."""
    return "" if cell is None or cell.accuracy is None else percent(cell.accuracy)


def increases(cell: CellReport | None) -> str:
    """Loss increase of low- and high-entropy tokens, %."""
    ratios = [] if cell is None else [cell.measures[name] for name in ("loss_ratio_low", "loss_ratio_high")]
    return " / ".join(f"{100 * (ratio.value - 1):+,.0f}" for ratio in ratios if ratio) if all(ratios) else ""


def smallest_budget(report: Report, agent: str) -> int | None:
    """The smallest budget at which an agent is within `WITHIN` of the full cache, and stays so at larger ones."""
    found = None
    for budget in sorted(report.budgets, reverse=True):
        cell = report.cell(agent, budget)
        if cell is None or cell.accuracy is None or cell.full_accuracy is None:
            continue
        if cell.accuracy.value < cell.full_accuracy - WITHIN - 1e-9:
            break
        found = budget
    return found


def smallest_text(report: Report, agent: str) -> str:
    """The same, with a dash where there is none; nothing for the full cache."""
    cells = [cell for cell in report.cells if cell.agent == agent]
    if not cells or not cells[0].evicts:
        return ""
    return str(smallest_budget(report, agent) or "-")
