"""What the terminal shows where it is narrow, or where there is none."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich import progress
from rich.console import Console

from kv_gym.commands import console


@pytest.mark.parametrize("width", [80, 100, 139, 140, 200])
def test_a_bar_keeps_its_times_on_a_narrow_terminal(width: int) -> None:
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = progress.Progress(*console._columns(width), console=screen, expand=True)
    task = bar.add_task("expected-attention, budget 128, generate", total=1024, stage="full-cache references")
    bar.update(task, completed=512)
    screen.print(bar.get_renderable())
    (line,) = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("full-cache references ━━━") and " 512/1024 0:00:00 left -:--:-- expected-a" in line
    assert ("generate" in line) == (width >= 139)


def test_bold_is_only_told_of_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from kv_gym.bench import tables

    told: list[bool] = []
    report: Any = type("Report", (), {"cells": []})()
    monkeypatch.setattr(tables, "tables", lambda _: [])
    monkeypatch.setattr(tables, "notes", lambda _, bold: told.append(bold) or [])
    for terminal in (True, False):
        screen = Console(file=io.StringIO(), force_terminal=terminal)
        monkeypatch.setattr(console, "console", lambda screen=screen: screen)
        console.report_view(report)
    assert told == [True, False]
