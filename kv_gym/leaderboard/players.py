"""Who plays, and what everybody is measured on: the episodes of random eviction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kv_gym.errors import KVGymError
from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.scores import MIN_ROOM, EnvOutcomes
from kv_gym.leaderboard.submission import ReadSubmission, SubmittedEpisode

BASELINE = "random"

Role = Literal["entry", "line", "incomplete"]
Cell = tuple[str, int]  # env id, budget
Episode = tuple[str, int]  # problem, seed


class RankError(KVGymError):
    """There is nothing that scores can be measured against."""


@dataclass(frozen=True)
class CellFacts:
    """What a cell is measured against: accuracy of random eviction and of the full cache, on the same episodes."""

    env_id: str
    budget: int
    n_problems: int
    n_episodes: int
    random: float
    full: float


class Player:
    """A submission with its episodes by cell."""

    def __init__(self, found: ReadSubmission, replaced: int) -> None:
        self.submission = found.submission
        self.replaced = replaced
        self.missing: list[str] = []
        self.cells: dict[Cell, dict[Episode, SubmittedEpisode]] = {}
        for row in found.episodes:
            self.cells.setdefault((row.env_id, row.budget), {})[row.problem, row.seed] = row

    @property
    def role(self) -> Role:
        """What a complete submission is on the board."""
        agent = self.submission.agent
        return "line" if agent.uses_hindsight or not agent.evicts else "entry"

    def right(self, cell: Cell, episodes: Sequence[Episode]) -> list[float]:
        """Scores of episodes, 0 for those that are no part of the cell."""
        rows = self.cells[cell]
        return [rows[episode].correct if episode in rows else 0.0 for episode in episodes]


@dataclass(frozen=True)
class Arena:
    """What everybody is measured on: the episodes of random eviction."""

    protocol: Protocol
    random: Player

    @classmethod
    def of(cls, players: Sequence[Player], protocol: Protocol) -> Arena:
        """Find random eviction among the players.

        Raises:
            RankError: It is not there, or lacks a cell.
        """
        agents = [(player, player.submission.agent) for player in players]
        found = [p for p, a in agents if a.name == BASELINE and a.kind == "installed" and not a.options]
        if not found:
            raise RankError(
                f"none of these {len(players)} submissions is of the agent {BASELINE!r}, which is 0 on the scale of "
                f"scores. Put one into the folder: kv-gym submit new {BASELINE} --author NAME."
            )
        arena = cls(protocol, found[0])
        missing = arena.missing_of(found[0])
        if missing:
            raise RankError(
                f"scores are measured against the submission {found[0].submission.slug!r}, which is incomplete: "
                f"{'; '.join(missing)}. Make it again: kv-gym submit new {BASELINE} --author NAME."
            )
        arena.facts()
        return arena

    @property
    def cells(self) -> list[Cell]:
        """Those of the protocol, in its order."""
        return [(cell.env_id, budget) for cell in self.protocol.cells for budget in cell.budgets]

    def missing_of(self, player: Player) -> list[str]:
        """Say what a player lacks to be ranked."""
        played, rules = player.submission, self.protocol
        if played.protocol != rules.id:
            return [f"played by protocol {played.protocol}, not {rules.id}"]
        if played.protocol_sha256 != rules.sha256:
            return [f"played by another version of protocol {rules.id} (sha256 {played.protocol_sha256[:12]}...)"]
        found = []
        for env in self.protocol.cells:
            for cell in ((env.env_id, budget) for budget in env.budgets):
                theirs, ours = self.random.cells.get(cell, {}), player.cells.get(cell, {})
                wanted = env.problems * self.protocol.seeds
                absent = len(theirs.keys() - ours.keys()) or wanted - len(theirs)
                if absent:
                    found.append(f"lacks {absent} of {wanted} episodes of {cell[0]} at budget {cell[1]}")
        return found

    def facts(self) -> list[CellFacts]:
        """The two ends of the scale in each cell."""
        return [self._facts(cell) for cell in self.cells]

    def _facts(self, cell: Cell) -> CellFacts:
        rows = self.random.cells[cell]
        by_problem: dict[str, list[SubmittedEpisode]] = {}
        for row in rows.values():
            by_problem.setdefault(row.problem, []).append(row)
        random, full = (
            float(np.mean([np.mean([getattr(row, name) for row in group]) for group in by_problem.values()]))
            for name in ("correct", "correct_full")
        )
        if full - random < MIN_ROOM:
            raise RankError(
                f"{cell[0]}, budget {cell[1]}: the full cache is right in {full:.1%} and random eviction in "
                f"{random:.1%}. Less than {MIN_ROOM:.0%} between them tells no agents apart: take the cell out of the "
                "protocol."
            )
        return CellFacts(*cell, len(by_problem), len(rows), random, full)

    def outcomes(self, env_id: str, players: Sequence[Player]) -> EnvOutcomes:
        """Everybody's episodes in one env."""
        cells = [cell for cell in self.cells if cell[0] == env_id]
        episodes = sorted({episode for cell in cells for episode in self.random.cells[cell]})
        theirs = [self.random.cells[cell] for cell in cells]
        full = [[rows[one].correct_full if one in rows else 0.0 for one in episodes] for rows in theirs]
        return EnvOutcomes(
            problems=[problem for problem, _ in episodes],
            agents=np.array([[player.right(cell, episodes) for cell in cells] for player in players]),
            random=np.array([self.random.right(cell, episodes) for cell in cells]),
            full=np.array(full),
            played=np.array([[one in rows for one in episodes] for rows in theirs]),
        )
