"""Trainings that are stopped, and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Stopped(Exception):
    """As Ctrl-C or a kill ends a training."""


class StopAt:
    """Progress that stops a training when so many steps of it are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, stage: str, total: int) -> None:
        pass

    def describe(self, text: str) -> None:
        pass

    def advance(self, n: int) -> None:
        if n == 1:  # steps that were done before are counted at once
            self.left -= 1
        if self.left < 0:
            raise Stopped


def finished(make: Callable[[], Any], stops: Sequence[int]) -> Any:
    """Train to the end, stopped after so many steps each time; return the last trainer."""
    for steps in stops:
        trainer = make()
        trainer.course.progress, kept = StopAt(steps), trainer.course.progress
        try:
            trainer.resume()
            trainer.run()
            raise AssertionError("it was not stopped")
        except Stopped:
            pass
        finally:
            trainer.course.progress = kept
            trainer.work.close()
    trainer = make()
    trainer.resume()
    trainer.run()
    trainer.work.close()
    return trainer


def without_seconds(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a log without the time they took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in log]
