"""What the commands say: results on stdout, the rest and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import ProgressColumn

    from kv_gym.bench.report import Report
    from kv_gym.bench.tables import Table

PIPE_COLUMNS = 200  # width of tables that are not written to a terminal
WIDE = 140  # columns of a terminal that has room for a long bar
SECONDS_BETWEEN = 30  # of two lines that say how far it is, where no bar does

Result = TypeVar("Result")


def console() -> Console:
    """Where results are printed."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False, markup=False)


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


def report_view(report: Report) -> RenderableType:
    """A report for the terminal: its tables, what failed, and what is worth knowing about the numbers."""
    from rich.console import Group
    from rich.text import Text

    from kv_gym.bench.tables import failures, notes, tables

    parts: list[RenderableType] = [table_view(table) for table in tables(report)]
    parts += [Text(line, style="red") for line in failures(report)]
    return Group(*parts, *(Text(line, style="dim") for line in notes(report, bold=console().is_terminal)))


def table_view(data: Table) -> RenderableType:
    """One table; references stand below a line, in italics."""
    from rich import box, table
    from rich.console import Group
    from rich.text import Text

    view = table.Table(box=box.SIMPLE, pad_edge=False)
    view.add_column("agent")
    for head in data.heads:
        view.add_column(head, justify="right", no_wrap=True)
    above = None
    for line in data.lines:
        if above is not None and above != line.ranked:
            view.add_section()
        above = line.ranked
        name = f"{line.agent} (hindsight)" if line.hindsight else line.agent
        texts = [Text.assemble((entry.text, "bold" if entry.bold else "")) for entry in line.entries]
        view.add_row(Text(name), *texts, style=None if line.ranked else "italic")
    return Group(Text(data.title, style="bold"), view)


def watched(run: Callable[[BarProgress], Result], path: Path, made: str = "rows") -> Result:
    """Run with a bar; a stopped run says where what it `made` is."""
    with BarProgress() as progress:
        try:
            return run(progress)
        except KeyboardInterrupt:
            progress.stop()
            say(f"Stopped. The {made} so far are in {path}; the same command goes on from there.")
            raise typer.Exit(130) from None


def _columns(width: int) -> list[ProgressColumn]:
    """What a bar shows on a terminal of so many columns: where it is narrow, the bar and what is under way give way."""
    from rich import progress
    from rich.table import Column

    cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return [
        progress.TextColumn("{task.fields[stage]}", table_column=Column(no_wrap=True)),
        progress.BarColumn(bar_width=40 if width >= WIDE else 8),
        progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        progress.TimeElapsedColumn(table_column=Column(no_wrap=True)),
        progress.TextColumn("left", table_column=Column(no_wrap=True)),
        progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
        progress.TextColumn("{task.description}", style="cyan", table_column=cut),
    ]


class BarProgress:
    """Progress as a bar on stderr: what is under way, how many are done, the time left.

    Where stderr is no terminal, such as in a job on a cluster, it is a line every half minute.
    """

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._lines = not sys.stderr.isatty()
        self._begun = self._told = time.monotonic()
        console = Console(stderr=True)
        self._bar = progress.Progress(*_columns(console.width), console=console, disable=self._lines, expand=True)
        self._task: Any = None

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def begin(self, stage: str, total: int) -> None:
        """Start a stage; nothing is shown for one without items."""
        self._task = self._bar.add_task("", total=total, stage=stage, visible=total > 0)

    def describe(self, text: str) -> None:
        """Say what is under way."""
        self._bar.update(self._task, description=text)
        self._tell()

    def advance(self, n: int) -> None:
        """Count `n` more items."""
        self._bar.advance(self._task, n)
        self._tell()

    def _tell(self) -> None:
        """Where there is no bar to look at, say how far it is, now and then."""
        now = time.monotonic()
        if not self._lines or now - self._told < SECONDS_BETWEEN:
            return
        self._told, task = now, self._bar.tasks[self._task]
        what = f", {task.description}" if task.description else ""
        minutes = (now - self._begun) / 60
        say(f"{task.fields['stage']}: {task.completed:.0f} of {task.total:.0f} after {minutes:.1f} minutes{what}")
