"""Suites: every part is a benchmark of its own, and the page says what the parts say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_report import N, make_cell, make_run

from kv_gym.bench.report import Report, build_report
from kv_gym.bench.rows import read_rows
from kv_gym.bench.suite import Part, load_suite
from kv_gym.bench.suite_page import cross_table, increases, page, part_table, smallest_budget
from kv_gym.commands import main as cli
from kv_gym.commands.options import build_agent
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.registry import env_ids

MINE = """
title: Mine
problems: 2
budgets: [48]
agents: [full, random]
modes: [generate]
parts: {One: KVEvict-AIME-v0}
"""


def report(right: dict[int, int], **changes: Any) -> Report:
    """One agent with so many right answers at each budget; the full cache has six of eight."""
    rows = [row for budget, n in right.items() for row in make_cell("a", n, budget, **changes)]
    return build_report(rows, [make_run()])


def test_a_budget_is_enough_if_all_larger_ones_are_too() -> None:
    assert N == 8
    assert smallest_budget(report({32: 6, 64: 5, 128: 6, 256: 6}), "a") == 128
    assert smallest_budget(report({32: 6, 64: 6}), "a") == 32
    assert smallest_budget(report({32: 6, 64: 5}), "a") is None


def test_tables_mark_the_half_and_say_what_is_enough() -> None:
    part = Part(report({64: 5, 128: 6}, loss=1.0), 128)
    lines = part_table(part).splitlines()
    assert lines[0] == "| accuracy, % | 64 | 128 (half) | enough |"
    assert lines[2].startswith("| a | 62 [") and lines[2].endswith("] | 128 |") and "| 75 [" in lines[2]
    assert increases(part.report.cell("a", 128)) == "+500 / +900"  # losses of 3 and 5 over 0.5
    table = cross_table({"One": part, "Two": part}, lambda part, agent: f"{agent}{part.half}")
    assert table.splitlines()[2] == "| a | a128 | a128 |"
    text = page("Mine", {"One": part}, "plot.png")
    assert text.startswith("# Mine") and "![" in text and "128 slots in One" in text and "| a | +500 / +900 |" in text


def test_suites_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'al'.*Did you mean 'all'"):
        load_suite("al")
    with pytest.raises(ConfigError, match="no such file"):
        load_suite("no.yaml")
    (tmp_path / "bad.yaml").write_text(MINE + "agent: x\n")
    with pytest.raises(ConfigError, match="agent: Extra inputs"):
        load_suite(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_text(MINE.replace("KVEvict-AIME-v0", "KVEvict-AIM-v0"))
    with pytest.raises(UnknownNameError, match="KVEvict-AIM-v0"):
        load_suite(str(tmp_path / "bad.yaml"))


def test_the_shipped_suite_names_what_exists() -> None:
    suite = load_suite("all")
    assert set(suite.parts.values()) <= set(env_ids())
    for text in suite.agents:
        build_agent(text)


def test_a_suite_runs_once_and_writes_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            cli.main(["bench", "--suite", "mine.yaml", "--out", "out"])
        assert end.value.code == 0
    rows = list(read_rows(tmp_path / "out" / "One" / "rows.jsonl").episodes.values())
    budgets = {row.budget for row in rows}
    assert len(rows) == 2 * 2 * len(budgets) and 48 in budgets and len(budgets) == 2
    assert "(half)" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 10_000
    for wrong in (["bench"], ["bench", "KVEvict-AIME-v0", "--suite", "all"]):
        with pytest.raises(SystemExit) as end:
            cli.main(wrong)
        assert end.value.code == 2
    assert "one of the two" in capsys.readouterr().err
