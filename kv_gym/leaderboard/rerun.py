"""Running a submitted agent again: on some of its own episodes, and on problems that nobody has seen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import binomtest, fisher_exact

from kv_gym.agents import AgentLike
from kv_gym.bench.guard import ModelTouched, building, prepare_watched
from kv_gym.bench.plan import Episode, plays
from kv_gym.bench.progress import Progress
from kv_gym.leaderboard.alone import build
from kv_gym.leaderboard.finding import Finding
from kv_gym.leaderboard.play import BoardCell, play_cell, references
from kv_gym.leaderboard.protocol import Protocol
from kv_gym.leaderboard.submission import ReadSubmission, SubmittedEpisode

SHARE = 0.1  # of each cell's episodes
LEVEL = 0.01  # a difference this unlikely, by either test, is a reason to refuse


def rerun_findings(
    found: ReadSubmission, protocol: Protocol, cells: list[BoardCell], progress: Progress, seed: int
) -> tuple[list[Finding], str]:
    """Play a random tenth of the episodes, and as many of unseen problems.

    Returns:
        (Reasons to refuse, what was done).
    """
    try:
        with building("the agent"):
            agent = build(found.folder, found.submission.agent)
        for cell in cells:
            prepare_watched(cell.llm, agent)
    except Exception as error:  # a stranger's code may raise anything
        return [Finding("rerun.load", f"{type(error).__name__}: {error}")], "the agent could not be loaded"
    try:
        return _played_again(found, agent, protocol, cells, progress, seed)
    except ModelTouched as touched:
        return [Finding("rerun.touched", str(touched))], "the agent changed the model"


def _played_again(
    found: ReadSubmission, agent: AgentLike, protocol: Protocol, cells: list[BoardCell], progress: Progress, seed: int
) -> tuple[list[Finding], str]:
    """As `rerun_findings`, of an agent that is loaded.

    Raises:
        ModelTouched: It changed the model.
    """
    rng = np.random.default_rng(seed)
    rows = {row.key: row for row in found.episodes}
    again: list[tuple[SubmittedEpisode, SubmittedEpisode]] = []
    fresh: list[SubmittedEpisode] = []
    for cell in cells:
        n = max(1, math.ceil(SHARE * len(cell.wanted)))
        mine = [cell.wanted[i] for i in rng.permutation(len(cell.wanted))[:n]]
        unseen = fresh_episodes(cell, protocol, n, rng, progress)
        progress.begin("rerun", len(mine) + len(unseen))
        for row, _ in play_cell(cell, agent, mine, protocol.width):
            again.append((rows[row.key], row))
            progress.advance(1)
        for row, _ in play_cell(cell, agent, unseen, protocol.width):
            fresh.append(row)
            progress.advance(1)
    return list(compare(found.episodes, again, fresh)), summary(again, fresh)


def fresh_episodes(
    cell: BoardCell, protocol: Protocol, n: int, rng: np.random.Generator, progress: Progress
) -> list[Episode]:
    """Playable episodes of problems behind the board's; few where a set has no more."""
    env = next(env for env in protocol.cells if env.env_id == cell.env_id)
    beyond = env.model_copy(update={"problems": env.problems + 2 * n})
    episodes, _ = references(protocol, beyond, progress)
    known = {episode.problem.id for episode in cell.wanted}  # what the cell cannot play is not played here either
    unseen = [e for e in episodes if e.problem.id not in known and plays(e.reference, cell.config)]
    return [unseen[i] for i in rng.permutation(len(unseen))[:n]]


def compare(
    submitted: list[SubmittedEpisode], again: list[tuple[SubmittedEpisode, SubmittedEpisode]],
    fresh: list[SubmittedEpisode],
) -> Iterator[Finding]:  # fmt: skip
    """Two-sided tests: the same episodes pair by pair (sign test), unseen ones against all submitted (Fisher).

    Besides, an agent that played an episode when it was submitted does not fail in it.
    """
    failed = [ours for theirs, ours in again if ours.failed is not None and theirs.failed is None]
    if failed:
        yield Finding(
            "rerun.failed", f"{len(failed)} of {len(again)} episodes fail here and were played: {failed[0].failed}"
        )
    better = sum(theirs.correct > ours.correct for theirs, ours in again)
    worse = sum(theirs.correct < ours.correct for theirs, ours in again)
    if better + worse:
        p = float(binomtest(better, better + worse).pvalue)
        if p < LEVEL:
            yield Finding("rerun.score", f"{better} episodes scored higher as submitted, {worse} lower; p = {p:.2g}.")
    cells = {(row.env_id, row.budget) for row in fresh}
    known = [row.correct > 0.5 for row in submitted if (row.env_id, row.budget) in cells]
    unseen = [row.correct > 0.5 for row in fresh]
    if known and unseen:
        table = [[sum(known), len(known) - sum(known)], [sum(unseen), len(unseen) - sum(unseen)]]
        p = float(fisher_exact(table).pvalue)
        if p < LEVEL:
            shares = f"{sum(known) / len(known):.0%} right as submitted, {sum(unseen) / len(unseen):.0%}"
            yield Finding("rerun.fresh", f"{shares} on problems nobody has seen; p = {p:.2g}.")


def summary(again: list[tuple[SubmittedEpisode, SubmittedEpisode]], fresh: list[SubmittedEpisode]) -> str:
    """What was done, for people."""
    equal = sum(theirs.tokens_sha256 == ours.tokens_sha256 for theirs, ours in again)
    right = sum(row.correct for row in fresh)
    return f"{equal} of {len(again)} episodes gave the same text; {right:g} of {len(fresh)} unseen problems right"
