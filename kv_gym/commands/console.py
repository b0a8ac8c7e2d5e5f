"""What the commands say: results on stdout, the rest and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 200  # width of tables that are not written to a terminal

Result = TypeVar("Result")


def console() -> Console:
    """Where results are printed."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)


def watched(run: Callable[[BarProgress], Result], path: Path, made: str = "rows") -> Result:
    """Run with a bar; a stopped run says where what it `made` is."""
    with BarProgress() as progress:
        try:
            return run(progress)
        except KeyboardInterrupt:
            progress.stop()
            say(f"Stopped. The {made} so far are in {path}; the same command goes on from there.")
            raise typer.Exit(130) from None


class BarProgress:
    """Progress as a bar on stderr: what is under way, how many are done, the time left."""

    def __init__(self) -> None:
        from kv_gym.bench.display import progress_bar

        self._bar = progress_bar("{task.fields[stage]}")
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

    def advance(self, n: int) -> None:
        """Count `n` more items."""
        self._bar.advance(self._task, n)
