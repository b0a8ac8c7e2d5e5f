"""`kv-gym report`: sum up what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.console import console, report_view, say

if TYPE_CHECKING:
    from kv_gym.bench.report import Report

ROWS_FILE, REPORT_FILE, PLOT_FILE = "rows.jsonl", "report.json", "accuracy.png"


def report(
    rows: Annotated[Path, typer.Argument(help="A rows.jsonl(.gz) that `kv-gym bench` wrote, or its folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print accuracy, loss ratio and cost as Markdown tables.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Save accuracy against budget to this PNG.")] = None,
) -> None:
    """Sum rows up: those with the env, model and settings of the last row, with the newest version of each agent."""
    from kv_gym.bench.report import build_report, newest_rows
    from kv_gym.bench.rows import RowFileError, read_rows

    path = rows / ROWS_FILE if rows.is_dir() else rows
    if rows.is_dir() and not path.exists():
        path = path.with_name(f"{ROWS_FILE}.gz")
    found = read_rows(path)
    chosen = newest_rows(found)
    if not chosen:
        raise RowFileError(f"{path} holds no episodes yet. Run `kv-gym bench` first.")
    summed = build_report(chosen, found.runs.values(), len(found.episodes) - len(chosen))
    if as_markdown:
        from kv_gym.bench.tables import markdown

        print(markdown(summed))
        return
    show(summed, as_json, plot)


def save_json(report: Report, path: Path) -> None:
    """Write a report in one piece."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    temporary.replace(path)


def show(report: Report, as_json: bool, plot: Path | None) -> None:
    """Print a report, as tables or as JSON, and save its plot."""
    from kv_gym.bench.plots import save_plot

    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        console().print(report_view(report))
    if plot is not None:
        save_plot(report, plot)
        say(f"plot: {plot}")
