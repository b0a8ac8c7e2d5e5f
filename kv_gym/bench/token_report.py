"""Losses of tokens -> what each agent loses on which of them, per budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kv_gym.bench.intervals import Interval, ratio_interval
from kv_gym.bench.labels import labels
from kv_gym.bench.report import average, is_ranked
from kv_gym.bench.rows import EpisodeRow
from kv_gym.bench.tables import Entry, Line, Table, entry_of, in_markdown, percent
from kv_gym.bench.token_losses import FULL, NEAR, TOKEN_MEASURES, TokenSums, token_sums
from kv_gym.engine.measures import MEASURES

RATIOS = {"loss_ratio": "loss ratio", "loss_ratio_low": "low entropy", "loss_ratio_high": "high entropy"}
"""Measures of rows that stand beside, and what heads them."""


@dataclass(frozen=True)
class TokenCell:
    """One agent at one budget.

    Attributes:
        agent: Label in tables; has the source behind it where two agents share a name.
        ranked, uses_hindsight: What kind of agent it is.
        n_problems, n_episodes: That it, `full` and `streaming` have replayed.
        n_tokens: Replayed tokens. `n_long_range`: of those, the long-range ones.
        measures: `RATIOS` as in a report, of the same episodes, and each of `TOKEN_MEASURES`: its mean over tokens.
    """

    agent: str
    agent_source: str
    budget: int
    ranked: bool
    uses_hindsight: bool
    n_problems: int
    n_episodes: int
    n_tokens: int
    n_long_range: int
    measures: dict[str, Interval | None]


@dataclass(frozen=True)
class TokenReport:
    """Losses of tokens of a whole benchmark.

    Attributes:
        cells: Ranked agents first, least loss first; budgets rising. The full cache has none: the others are measured
            against it.
        n_other: Rows of other settings, models or agent versions in the file, not used here.
    """

    env_id: str
    model: str
    split: str
    budgets: list[int]
    n_other: int
    cells: list[TokenCell]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values, with what each measure of tokens is; measures stand beside the other numbers."""
        cells = []
        for cell in self.cells:
            flat = asdict(cell)
            cells.append(flat | flat.pop("measures"))
        told = {measure.key: measure.description for measure in TOKEN_MEASURES}
        return asdict(self) | {"measures": told, "cells": cells}


def build_token_report(rows: Sequence[EpisodeRow], folder: Path, n_other: int = 0) -> TokenReport:
    """Sum up the losses of replayed tokens.

    Args:
        rows: That belong together (`kv_gym.bench.report.newest_rows`); at least one.
        folder: Where their texts are.
        n_other: Rows that were left aside.

    Raises:
        ConfigError, RowFileError: As `token_sums`.
    """
    sums = token_sums(rows, folder)
    label = labels(rows)
    cells: dict[tuple[str, int], list[EpisodeRow]] = {}
    for row in rows:
        if row.key in sums and row.agent != FULL:
            cells.setdefault((label[row.agent, row.agent_source], row.budget), []).append(row)
    found = [_cell(name, mine, [sums[row.key] for row in mine]) for (name, _), mine in cells.items()]
    first = rows[0]
    budgets = sorted({cell.budget for cell in found})
    return TokenReport(first.env_id, first.model, first.split, budgets, n_other, _ordered(found))


def _cell(name: str, rows: list[EpisodeRow], sums: list[TokenSums]) -> TokenCell:
    problems = [row.problem for row in rows]
    ratios = {measure.key: average(rows, measure) for measure in MEASURES if measure.key in RATIOS}
    means = {}
    for key in (measure.key for measure in TOKEN_MEASURES):
        totals, counts = zip(*(one.sums[key] for one in sums), strict=True)
        means[key] = ratio_interval(totals, counts, problems)
    return TokenCell(
        agent=name,
        agent_source=rows[0].agent_source,
        budget=rows[0].budget,
        ranked=is_ranked(rows[0]),
        uses_hindsight=rows[0].uses_hindsight,
        n_problems=len(set(problems)),
        n_episodes=len(rows),
        n_tokens=sum(one.n_tokens for one in sums),
        n_long_range=sum(one.n_long_range for one in sums),
        measures=ratios | means,
    )


def _ordered(cells: list[TokenCell]) -> list[TokenCell]:
    """Ranked agents by mean loss ratio, then the others."""
    losses: dict[str, list[float]] = {}
    for cell in cells:
        ratio = cell.measures["loss_ratio"]
        losses.setdefault(cell.agent, []).append(ratio.value if ratio else 0.0)

    def place(cell: TokenCell) -> tuple[bool, float, str, int]:
        mine = losses[cell.agent]
        return not cell.ranked, sum(mine) / len(mine), cell.agent, cell.budget

    return sorted(cells, key=place)


def token_tables(report: TokenReport, split: bool = False) -> list[Table]:
    """Agents x measures, a table a budget; without a column that no agent has a number for.

    Args:
        report: The numbers.
        split: Ratios and means over tokens in a table each, for a terminal that is not wide.
    """
    means = {measure.key: measure.title for measure in TOKEN_MEASURES}
    return [
        _table([cell for cell in report.cells if cell.budget == budget], heads)
        for budget in report.budgets
        for heads in ((RATIOS, means) if split else (RATIOS | means,))
    ]


def _table(cells: list[TokenCell], heads: dict[str, str]) -> Table:
    there = {key: head for key, head in heads.items() if any(cell.measures[key] for cell in cells)}
    lines = [
        Line(cell.agent, tuple(_entry(key, cell) for key in there), cell.ranked, cell.uses_hindsight) for cell in cells
    ]
    return Table(f"{cells[0].budget} slots: {_sample(cells)}", tuple(there.values()), tuple(lines))


def _entry(key: str, cell: TokenCell) -> Entry:
    interval = cell.measures[key]
    if key == "newly_lost" and interval is not None:
        return Entry(percent(interval, 1))
    return entry_of(interval)


def _sample(cells: list[TokenCell]) -> str:
    """What the numbers of a budget are measured on, and which agents have less."""

    def text(cell: TokenCell) -> str:
        return f"{cell.n_problems} problems, {cell.n_tokens:,} tokens, {cell.n_long_range:,} long-range"

    most = max(cells, key=lambda cell: (cell.n_episodes, cell.n_tokens))
    less = [f"{cell.agent}: {text(cell)}" for cell in cells if text(cell) != text(most)]
    return "; ".join([text(most), *less])


def token_notes(report: TokenReport) -> list[str]:
    """What a reader should know about the numbers."""
    lines = [
        f"{report.env_id}, {report.model}, {report.split}: replayed texts, [95% bootstrap interval over problems].",
        "loss ratio: of means over problems, as in the report without --tokens; low and high entropy: of the four "
        "fifths of the tokens that the full cache is most certain of, and of the others.",
    ]
    lines += [f"{measure.title.partition(',')[0]}: {measure.description}." for measure in TOKEN_MEASURES]
    lines.append(
        f"The last three are means over tokens. What {NEAR} loses defines the long-range tokens, so its own number "
        "there is high by construction, and low elsewhere."
    )
    if report.n_other:
        lines.append(f"{report.n_other} rows of other settings, models or agent versions are in the file and not used.")
    return lines


def token_markdown(report: TokenReport) -> str:
    """Tables of a results page, and how to read them."""
    parts = [f"# Losses of replayed tokens on {report.env_id}", "\n".join(f"- {line}" for line in token_notes(report))]
    for table in token_tables(report):
        parts += [table.title, in_markdown(table, "agent")]
    return "\n\n".join(parts)
