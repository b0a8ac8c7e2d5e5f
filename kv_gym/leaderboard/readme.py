"""leaderboards/README.md: the ranking as a Markdown table, and what else lies in the folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kv_gym.bench.intervals import Interval
from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.rank import DIVISIONS, Board, CellFacts, Standing

_UNSAFE = re.compile(r"(?<=www)\.|[^\w ,.()'/+-]|_", re.IGNORECASE)

HEAD = """# Leaderboard

<!-- Written by `kv-gym leaderboard build`; do not edit. -->

How many of the right answers survive when an agent decides which KV-cache slots are evicted: 0 is random eviction,
100 is the full cache (per cell, on the same episodes; mean over budgets, then over environments). In brackets are 95%
bootstrap intervals over problems. Ranks are a range: from 1 plus the number of entries of the division that are better
than an entry, that is, for which the interval of the paired difference lies above 0, to as many further down as there
are entries that cannot be told apart from it. Lines in italics are references and not ranked.
"""

TAIL = """## Submit

    kv-gym submit new path/to/mine.py:MyAgent --author "My Name"
    kv-gym submit check leaderboards/submissions/<date>_<slug>

The first plays the protocol and writes a folder, the second checks it; [docs/submitting.md](../docs/submitting.md)
says what the folder holds and how to send it in, and `schema/` has JSON Schemas of its files. `kv-gym leaderboard rank
FOLDER` ranks any folder of submissions; `kv-gym leaderboard build` writes this page and
[site/index.html](site/index.html), with curves and a page per agent.

## Results

`results/<env id>/` holds what `make results` made: `rows.jsonl.gz` (a `run` line with versions, hardware, commit and
command, then a line per episode), `report.json` (the numbers with their intervals) and `accuracy.png`. Sum them up
again with `kv-gym report leaderboards/results/<env id>`. Results are re-run when code that can move them changes.

Lines marked as references (`full`, `golden`) are not ranked: one never evicts, the other knows the future.
"""


def readme(board: Board, protocol: Protocol) -> str:
    """The whole file; the same board gives the same text."""
    return "\n".join([HEAD, *_played(protocol), "", *_tables(board), TAIL])


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line: what could be markup becomes character references."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _UNSAFE.sub(lambda found: f"&#{ord(found[0])};", line)


def _played(protocol: Protocol) -> list[str]:
    seeds = f" x {protocol.seeds} seeds" if protocol.seeds > 1 else ""
    return [
        f"- {cell.env_id}: {cell.problems} {protocol.split} problems{seeds}, model {cell.model}, budgets "
        f"{', '.join(map(str, cell.budgets))} (columns: accuracy, %)"
        for cell in protocol.cells
    ]


def _tables(board: Board) -> list[str]:
    if not board.standings:
        return ["No submissions yet.", ""]
    lines = board.of_role("line")
    found = []
    for division in DIVISIONS:
        entries = [standing for standing in board.of_role("entry") if standing.division == division]
        if entries:
            found += [f"## {division.capitalize()} division", "", *_table(board.cells, [*entries, *lines]), ""]
    incomplete = board.of_role("incomplete")
    if incomplete:
        found += ["## Incomplete", "", *(_lacks(standing) for standing in incomplete), ""]
    return found


def _table(cells: Sequence[CellFacts], standings: Sequence[Standing]) -> list[str]:
    envs = {cell.env_id for cell in cells}
    heads = [str(cell.budget) if len(envs) == 1 else f"{cell.env_id} {cell.budget}" for cell in cells]
    rows = ["| rank | agent | kind | score | " + " | ".join(heads) + " |", "|---:|---|---|---:|" + "---:|" * len(cells)]
    for one in standings:
        title = escaped(one.title)
        name = title if one.role == "entry" else f"*{title}*"
        accuracies = [f"{100 * cell.accuracy.value:.0f}" if cell.accuracy else "" for cell in one.cells]
        columns = [one.ranks, name, one.kind, _interval(one.score), *accuracies]
        rows.append("| " + " | ".join(columns) + " |")
    return rows


def _interval(score: Interval | None) -> str:
    return "" if score is None else f"{_plain(score.value, 1)} [{_plain(score.low, 0)}, {_plain(score.high, 0)}]"


def _plain(value: float, digits: int) -> str:
    """A number without the sign of a rounded -0."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _lacks(standing: Standing) -> str:
    return f"- {escaped(standing.title)}: {escaped('; '.join(standing.missing))}"
