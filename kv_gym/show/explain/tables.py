"""An explanation as tables of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kv_gym.bench.intervals import Interval
from kv_gym.bench.tables import percent
from kv_gym.show.explain.duel import Duel
from kv_gym.show.explain.explanation import Cut, Explanation, Measures

COLUMNS = {
    "of what went": "share of all evicted slots that are of this kind",
    "rate": "evicted slots of those of this kind that could have gone, at one decision",
    "needed": "share of these evicted slots that Golden Eviction would have kept",
    "a slot": "golden attention that an evicted slot would have got: share of a query's attention, mean over a block "
    "of later queries, of the block that pays most [95% interval over problems]",
    "a step": "the same summed over the kind, for each step (one eviction) and KV head",
    "golden": "what Golden Eviction, which knows the future, would lose there with the same cache, a step",
}
"""Heads of the columns, all in %, and what they mean."""


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        title: Above it.
        heads: Of the columns.
        lines: Cells, a line a group and agent.
    """

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def grids(found: Explanation) -> list[Grid]:
    """All that the terminal shows: a table for each cut, and the problems won and lost."""
    shown = [cut for cut in found.cuts if cut.key != ("head" if found.crowded else "layer")]
    tables = [grid_of(cut, found.agents) for cut in shown]
    return tables if found.duel is None else [*tables, families_grid(found.duel)]


def grid_of(cut: Cut, agents: Sequence[str]) -> Grid:
    """One cut: a line for each group and agent."""
    lines = []
    for group in cut.groups:
        for i, agent in enumerate(agents):
            lines.append((group.label if i == 0 else "", agent, *cells_of(group.of[agent])))
    return Grid(cut.title, (cut.title, "agent", *(f"{head} %" for head in COLUMNS)), tuple(lines))


def cells_of(measures: Measures) -> tuple[str, ...]:
    """Numbers of a group, in the order of `COLUMNS`, in percent."""
    return (
        _share(measures.evicted), _share(measures.rate), _share(measures.needed), _interval(measures.lost_per_slot),
        _interval(measures.lost), f"{100 * measures.golden:.2f}",
    )  # fmt: skip


def families_grid(fought: Duel) -> Grid:
    """How many problems of each family were won and lost, of all rows."""
    heads = ("Family of problems", f"{fought.ours} better", f"{fought.theirs} better", "equal")
    lines = [(family, *map(str, counts)) for family, counts in fought.by_family().items()]
    totals = [sum(counts) for counts in zip(*fought.by_family().values(), strict=True)]
    return Grid(duel_title(fought), heads, (*lines, ("all", *map(str, totals))))


def duel_title(fought: Duel) -> str:
    """What is compared."""
    what = "by their answers" if fought.measure == "accuracy" else "by the loss of the replayed text"
    return f"Problems won and lost, {what}: {fought.ours} against {fought.theirs}"


def told(found: Explanation) -> list[str]:
    """What a reader should know about the numbers."""
    seeds = len({seed for _, _, seed in found.episodes})
    lines = [
        f"{found.env_id}, {found.model}, budget {found.budget}, {found.evict_every} evicted a decision: "
        f"{len(found.episodes)} episodes{f' of {seeds} seeds' if seeds > 1 else ''} replayed on the full cache's text, "
        f"{found.decisions} decisions in each of {found.n_layers} x {found.n_kv_heads} KV heads."
    ]
    return [*lines, *(f"{head}: {meaning}." for head, meaning in COLUMNS.items())]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _interval(found: Interval | None) -> str:
    return "" if found is None else percent(found, 2)
