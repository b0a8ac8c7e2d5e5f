"""Submissions -> the board.

An entry's rank is 1 plus the number of entries of its division that are better than it: those for which the 95%
interval of the paired difference of scores lies above 0. It is shown with the last one that it may have, as many
further down as there are entries that cannot be told apart from it (`Standing.ranks`). Agents that know the future and
the full cache are lines to compare with, and an entry that lacks an episode has no rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from kv_gym.bench.intervals import Interval, proportion_interval
from kv_gym.errors import KVGymError, first_complaint
from kv_gym.leaderboard.players import Arena, Cell, CellFacts, Player, RankError, Role
from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.rules import trial_text
from kv_gym.leaderboard.scores import Draws, Floats, better, cell_draws, score_draws
from kv_gym.leaderboard.submission import ReadSubmission, SubmittedAgent, SubmittedEpisode, read_submission

FULL_CACHE = "full_cache"  # no slug has an underscore
PREVIEWED = "_trial"  # ends the slug of a trial that is shown
SEED = 0  # of the bootstrap
DIVISIONS = ("closed", "open")

Kind = Literal["heuristic", "learned", "hindsight", "full cache"]


@dataclass(frozen=True)
class CellStanding:
    """One agent at one budget of one env.

    Attributes:
        accuracy: Share of right answers; None where nothing was played.
        score: The same between random eviction (0) and the full cache (100); None for incomplete entries.
        families: Accuracy per family of problems.
    """

    env_id: str
    budget: int
    n_episodes: int
    n_failed: int
    accuracy: Interval | None
    score: Interval | None = None
    mean_tokens: float | None = None
    kv_slots_mean: float | None = None
    kv_slots_peak: float | None = None
    scoring_share: float | None = None
    families: dict[str, Interval | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """One line of the board.

    Attributes:
        role: `entry`: ranked. `line`: a reference, unranked. `incomplete`: lacks something, unranked.
        rank: The first that it may have in its division.
        score: Mean over budgets, then over envs.
        better_than_next: Score minus that of the next entry of the division, paired.
        ties: Slugs of the entries of the division whose paired interval with this one includes 0.
        missing: What it lacks.
        replaced: Older submissions of this slug that are left out.
    """

    slug: str
    title: str
    agent: str
    kind: Kind
    division: str
    authors: list[str]
    date: str
    link: str
    role: Role
    cells: list[CellStanding]
    rank: int | None = None
    score: Interval | None = None
    next: str | None = None
    better_than_next: Interval | None = None
    ties: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    replaced: int = 0

    @property
    def ranks(self) -> str:
        """The ranks that it may have, as its page shows them: `3`, or `3-5` with two that it is not told apart from."""
        if self.rank is None:
            return ""
        return f"{self.rank}-{self.rank + len(self.ties)}" if self.ties else str(self.rank)


@dataclass(frozen=True)
class Board:
    """All of it.

    Attributes:
        standings: By division entries best first; then lines, then what is incomplete.
        n_trials: Trial submissions, which are left out.
    """

    protocol: str
    cells: list[CellFacts]
    standings: list[Standing]
    n_trials: int

    def of_role(self, role: Role) -> list[Standing]:
        """The lines of one role, in order."""
        return [standing for standing in self.standings if standing.role == role]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)


def read_submissions(folder: Path) -> list[ReadSubmission]:
    """Read every submission in a folder, by name; files, and folders that begin with a dot, are passed over.

    Raises:
        RankError: There is no such folder, or a submission in it cannot be read.
    """
    if not folder.is_dir():
        raise RankError(
            f"there is no folder {folder}. Name one that holds submissions, such as leaderboards/submissions of a "
            "clone of kv-gym: scores stand on a scale from the board's random agent to its full cache."
        )
    folders = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    return [_read(place) for place in folders]


def _read(folder: Path) -> ReadSubmission:
    try:
        return read_submission(folder)
    except (KVGymError, ValidationError) as error:
        reason = f"{first_complaint(error)}." if isinstance(error, ValidationError) else str(error)
        raise RankError(f"{folder} cannot be read. {reason} `kv-gym submit check {folder}` says more.") from error


def add_preview(submissions: Sequence[ReadSubmission], folder: Path) -> list[ReadSubmission]:
    """Add a submission that may lie elsewhere; a trial gets a name of its own, so that the board shows it.

    Raises:
        RankError: It cannot be read.
    """
    one, others = _read(folder), [other for other in submissions if other.folder.resolve() != folder.resolve()]
    if not one.submission.trial:
        return [*others, one]
    said = {"slug": one.submission.slug + PREVIEWED, "title": f"{one.submission.title} (trial)"}
    return [*others, replace(one, submission=one.submission.model_copy(update=said))]


def build_board(submissions: Iterable[ReadSubmission], protocol: Protocol) -> Board:
    """Rank submissions that were read and checked.

    Of one slug the newest counts; trials do not count at all, and only a previewed one (`add_preview`) is shown.

    Raises:
        RankError: There are submissions or a preview, but no complete one of random eviction; or the full cache is no
            better than random eviction in some cell.
    """
    submissions = list(submissions)
    real = [found for found in submissions if not found.submission.trial]
    previewed = [found for found in submissions if found.submission.slug.endswith(PREVIEWED)]
    n_trials = len(submissions) - len(real) - len(previewed)
    if not real and not previewed:
        return Board(protocol.id, [], [], n_trials)
    players = [Player(found, replaced) for found, replaced in _newest(real)]
    arena = Arena.of(players, protocol)
    for player in players:
        player.missing = arena.missing_of(player)
    standings = _played(arena, [player for player in players if not player.missing])
    incomplete = [player for player in players if player.missing] + [_trial(found, arena) for found in previewed]
    standings += [_standing(player, arena, "incomplete") for player in incomplete]
    return Board(protocol.id, arena.facts(), standings, n_trials)


def _trial(found: ReadSubmission, arena: Arena) -> Player:
    """A trial as a player; what it did in cells that the board has not is said in words."""
    player = Player(found, 0)
    player.missing = [f"a trial, no leaderboard entry: {trial_text(found.submission)}"]
    for cell, rows in player.cells.items():
        if cell not in arena.cells:
            right = sum(row.correct for row in rows.values())
            player.missing.append(f"{right:g} of {len(rows)} episodes of {cell[0]} at budget {cell[1]} right")
    return player


def _newest(found: Sequence[ReadSubmission]) -> list[tuple[ReadSubmission, int]]:
    """The newest submission of each slug, in the order of slugs, and how many older ones it replaces."""
    of_slug: dict[str, list[ReadSubmission]] = {}
    for one in sorted(found, key=lambda one: (one.submission.slug, one.submission.date)):
        of_slug.setdefault(one.submission.slug, []).append(one)
    return [(ones[-1], len(ones) - 1) for ones in of_slug.values()]


def _played(arena: Arena, players: Sequence[Player]) -> list[Standing]:
    """Entries, best first by division, then lines; the full cache is always among them."""
    envs = [cell.env_id for cell in arena.protocol.cells]
    drawn = [cell_draws(arena.outcomes(env_id, players), (SEED, place))[0] for place, env_id in enumerate(envs)]
    scores = score_draws(drawn)
    by_cell = np.concatenate(drawn, axis=1)  # [A, cells of all envs, D]
    found = []
    for player, score, cells in zip(players, scores, by_cell, strict=True):
        standing = _standing(player, arena, player.role)
        intervals = [Draws(cell[~np.isnan(cell)]).interval() for cell in cells]
        scored = [replace(cell, score=interval) for cell, interval in zip(standing.cells, intervals, strict=True)]
        found.append(replace(standing, score=Draws(score).interval(), cells=scored))
    pairs = list(zip(found, scores, strict=True))
    entries = [_ranked([(s, d) for s, d in pairs if (s.role, s.division) == ("entry", name)]) for name in DIVISIONS]
    lines = [standing for standing in found if standing.role == "line"]
    if not any(standing.kind == "full cache" for standing in lines):
        lines.append(_full_cache(arena))
    return [*entries[0], *entries[1], *sorted(lines, key=_by_score)]


def _by_score(standing: Standing) -> tuple[float, str]:
    return -(standing.score.value if standing.score else 0.0), standing.slug


def _ranked(entries: Sequence[tuple[Standing, Floats]]) -> list[Standing]:
    """Rank the entries of one division.

    Args:
        entries: Each with its score in every draw; the draws are the same for all.
    """
    placed = []
    for ours, draws in entries:
        ahead = {other.slug for other, theirs in entries if better(theirs, draws)}
        behind = {other.slug for other, theirs in entries if better(draws, theirs)}
        ties = sorted({other.slug for other, _ in entries} - ahead - behind - {ours.slug})
        placed.append((replace(ours, rank=1 + len(ahead), ties=ties), draws))
    placed.sort(key=lambda one: (one[0].rank, *_by_score(one[0])))
    return [
        replace(one, next=below[0].slug, better_than_next=Draws(draws - below[1]).interval()) if below else one
        for (one, draws), below in zip_longest(placed, placed[1:])
    ]


def _standing(player: Player, arena: Arena, role: Role) -> Standing:
    """What a submission says of itself, and its accuracy in each cell, without score and rank."""
    submission = player.submission
    return Standing(
        slug=submission.slug,
        title=submission.title,
        agent=submission.agent.name,
        kind=_kind(submission.agent),
        division=submission.division,
        authors=list(submission.authors),
        date=str(submission.date),
        link=submission.link,
        role=role,
        cells=[_cell(player, cell) for cell in arena.cells],
        missing=player.missing,
        replaced=player.replaced,
    )


def _kind(agent: SubmittedAgent) -> Kind:
    if not agent.evicts:
        return "full cache"
    if agent.uses_hindsight:
        return "hindsight"
    return "learned" if agent.trained or agent.kind == "checkpoint" else "heuristic"


def _full_cache(arena: Arena) -> Standing:
    """The line at 100, from what random eviction was compared with; for boards without a submission of it."""
    cells = []
    for cell in arena.cells:
        rows = list(arena.random.cells[cell].values())
        accuracy = proportion_interval([row.correct_full for row in rows], [row.problem for row in rows])
        cells.append(CellStanding(*cell, len(rows), 0, accuracy, Interval(100.0, 100.0, 100.0)))
    return Standing(
        slug=FULL_CACHE, title="Full cache", agent="full", kind="full cache", division="", authors=[], date="", link="",
        role="line", cells=cells, score=Interval(100.0, 100.0, 100.0),
    )  # fmt: skip


def _cell(player: Player, cell: Cell) -> CellStanding:
    rows = list(player.cells.get(cell, {}).values())
    by_family: dict[str, list[SubmittedEpisode]] = {}
    for row in sorted(rows, key=lambda row: row.family):
        by_family.setdefault(row.family, []).append(row)
    seconds = sum(row.seconds or 0.0 for row in rows)
    return CellStanding(
        env_id=cell[0],
        budget=cell[1],
        n_episodes=len(rows),
        n_failed=sum(row.failed is not None for row in rows),
        accuracy=_accuracy(rows),
        mean_tokens=_mean([row.tokens for row in rows]),
        kv_slots_mean=_mean([row.kv_slots_mean for row in rows]),
        kv_slots_peak=max((row.kv_slots_peak for row in rows), default=None),
        scoring_share=sum(row.scoring_seconds or 0.0 for row in rows) / seconds if seconds else None,
        families={family: _accuracy(group) for family, group in by_family.items()},
    )


def _accuracy(rows: Sequence[SubmittedEpisode]) -> Interval | None:
    return proportion_interval([row.correct for row in rows], [row.problem for row in rows])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
