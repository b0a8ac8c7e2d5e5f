"""Who is told how far long work is: library code reports, and the command line shows a bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """Who is told how far it is."""

    def begin(self, stage: str, total: int) -> None:
        """Start a stage of `total` items."""
        ...

    def describe(self, text: str) -> None:
        """Say what is under way."""
        ...

    def advance(self, n: int) -> None:
        """Count `n` more items."""
        ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, stage: str, total: int) -> None:
        """Ignore it."""

    def describe(self, text: str) -> None:
        """Ignore it."""

    def advance(self, n: int) -> None:
        """Ignore it."""


def steps(progress: Progress, stage: str, first: int, last: int) -> Iterator[int]:
    """Yield `first` to `last` - 1, counting each when it is done; those before `first` count as done."""
    progress.begin(stage, last)
    progress.advance(first)
    for step in range(first, last):
        yield step
        progress.advance(1)
