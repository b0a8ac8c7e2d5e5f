"""The problems that one agent wins and loses against another, as rows say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kv_gym.bench.labels import labels
from kv_gym.bench.rows import EpisodeRow

MARGIN = 0.01
"""Nats a token: losses of a replayed text that are nearer than this are equal."""


@dataclass(frozen=True)
class Bout:
    """One problem with one seed that both played.

    Attributes:
        ours, theirs: Score of the answer, 0 to 1; or loss, nats a token.
        gain: How much better ours is, in the same unit; 0 where they are equal.
    """

    problem: str
    family: str
    seed: int
    ours: float
    theirs: float
    gain: float


@dataclass(frozen=True)
class Duel:
    """All of them, at one budget.

    Attributes:
        measure: `accuracy`, of answers that the LLM wrote; `loss`, where rows hold replays only.
        ours, theirs: Labels of the agents.
        bouts: By what was gained, most first.
    """

    measure: str
    ours: str
    theirs: str
    bouts: tuple[Bout, ...]

    @property
    def won(self) -> list[Bout]:
        """Most clearly won ones first."""
        return [bout for bout in self.bouts if bout.gain > 0]

    @property
    def lost(self) -> list[Bout]:
        """Most clearly lost ones first."""
        return sorted((bout for bout in self.bouts if bout.gain < 0), key=lambda bout: bout.gain)

    def by_family(self) -> dict[str, tuple[int, int, int]]:
        """(Won, lost, equal) of each family."""
        found: dict[str, list[int]] = {}
        for bout in self.bouts:
            counts = found.setdefault(bout.family, [0, 0, 0])
            counts[0 if bout.gain > 0 else 1 if bout.gain < 0 else 2] += 1
        return {family: (one[0], one[1], one[2]) for family, one in sorted(found.items())}


def duel(rows: Sequence[EpisodeRow], ours: str, theirs: str, budget: int) -> Duel:
    """Compare two agents by answers, or by losses where there are no answers.

    Args:
        rows: That belong together.
        ours: Label of an agent (`kv_gym.bench.labels`).
        theirs: Label of another.
        budget: Slots.
    """
    label = labels(rows)
    here = [row for row in rows if row.budget == budget and label[row.agent, row.agent_source] in (ours, theirs)]
    written = [row for row in here if row.mode == "generate"]
    mine, other = ([row for row in written if label[row.agent, row.agent_source] == who] for who in (ours, theirs))
    if mine and other:
        return Duel("accuracy", ours, theirs, _bouts(mine, other, lambda row: row.correct or 0.0, 1.0, 0.0))
    mine, other = (
        [row for row in here if row.mode == "replay" and label[row.agent, row.agent_source] == who]
        for who in (ours, theirs)
    )
    return Duel("loss", ours, theirs, _bouts(mine, other, lambda row: row.measured("loss"), -1.0, MARGIN))


def _bouts(
    mine: Iterable[EpisodeRow], other: Iterable[EpisodeRow], value: Callable[[EpisodeRow], float | None], sign: float,
    margin: float,
) -> tuple[Bout, ...]:  # fmt: skip
    """Pair episodes; `sign` is 1 where more is better, and what differs by `margin` or less is equal."""
    theirs = {(row.problem, row.seed): value(row) for row in other}
    found = []
    for row in mine:
        ours, there = value(row), theirs.get((row.problem, row.seed))
        if ours is None or there is None:
            continue
        gain = sign * (ours - there)
        found.append(Bout(row.problem, row.family, row.seed, ours, there, gain if abs(gain) > margin else 0.0))
    return tuple(sorted(found, key=lambda bout: -bout.gain))
