"""Playing the protocol: the episodes of each environment and budget, and what is known of them beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from kv_gym.agents import AgentLike
from kv_gym.bench.guard import ModelTouched
from kv_gym.bench.plan import Episode, plays, prepare
from kv_gym.bench.play import Failed, Time, play
from kv_gym.bench.progress import Progress
from kv_gym.bench.rows import sha256_of
from kv_gym.bench.workers import Crew, Lost, WorkerError, Workers, chunks
from kv_gym.config import EnvConfig
from kv_gym.engine.records import EpisodeRecord, full_cache_record, tokens_hash
from kv_gym.engine.reference import Reference
from kv_gym.leaderboard.protocol import Protocol, ProtocolEnv
from kv_gym.leaderboard.submission import MAX_FAILED, SubmittedEpisode, episode_key
from kv_gym.leaderboard.text import one_line
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm


@dataclass(frozen=True)
class BoardCell:
    """One environment at one budget, with the episodes that are played.

    Attributes:
        wanted: Playable episodes.
    """

    env_id: str
    config: EnvConfig
    llm: FrozenLLM
    wanted: list[Episode]

    def key(self, episode: Episode) -> str:
        """Name of an episode of this cell; its row has the same."""
        return episode_key(self.env_id, self.config.budget, episode.problem.id, episode.seed)


def board_cells(protocol: Protocol, progress: Progress) -> list[BoardCell]:
    """All cells of a protocol; the full-cache references are made where they are missing."""
    cells = []
    for env in protocol.cells:
        episodes, llm = references(protocol, env, progress)
        for budget in env.budgets:
            config = protocol.config(env, budget)
            cells.append(BoardCell(env.env_id, config, llm, [e for e in episodes if plays(e.reference, config)]))
    return cells


def references(protocol: Protocol, env: ProtocolEnv, progress: Progress) -> tuple[list[Episode], FrozenLLM]:
    """Episodes of one environment with their full-cache generations, and its LLM."""
    config = protocol.config(env, env.budgets[0])
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    return prepare(llm, config, protocol.seeds, protocol.width, progress), llm


def play_cell(
    cell: BoardCell, agent: AgentLike, episodes: list[Episode], width: int
) -> Iterator[tuple[SubmittedEpisode, Tensor | None]]:
    """Play episodes of a cell; those in which the agent raises have failed.

    An answer that nobody could grade fails its episode.

    Yields:
        (Row, evicted slots [steps, L, H_kv, evict_every], None where nothing was evicted), as episodes end.

    Raises:
        ModelTouched: The agent changed the model.
    """
    if not agent.evicts:
        for episode in episodes:
            record = full_cache_record(cell.llm, cell.config, episode.reference)
            if record.undecided:
                yield _failed_row(cell, episode, record.undecided), None
            else:
                yield _row(cell, episode, record, *_full_slots(episode.reference)), None
        return
    for episode, outcome, spent in play(cell.llm, cell.config, agent, episodes, width, evictions=True):
        yield played_row(cell, episode, outcome, spent)


def play_apart(
    todo: Sequence[tuple[BoardCell, list[Episode]]], agent: AgentLike, width: int, workers: Workers
) -> Iterator[tuple[SubmittedEpisode, Tensor | None]]:
    """The same, of all cells, by workers; those of one model after those of another.

    Yields:
        As `play_cell`.

    Raises:
        ModelTouched: The agent changed the model.
        WorkerError: No worker could play some of them; the others have been yielded.
        ConfigError: As `Crew`.
    """
    lost: list[str] = []
    for llm in {id(cell.llm): cell.llm for cell, _ in todo}.values():
        mine = [(cell, episodes) for cell, episodes in todo if cell.llm is llm]
        with Crew(workers, mine[0][0].config, llm) as crew:
            crew.send([agent])
            tasks = [
                task for cell, episodes in mine for task in chunks(cell, episodes, 0, crew, width, evictions=True)
            ]  # fmt: skip
            for task, found in crew.do(tasks):
                cell, episodes = task.of
                if isinstance(found, Lost):  # the workers' trouble, not the agent's failure
                    lost.append(found.reason)
                    continue
                for place, outcome, spent in found:
                    if isinstance(outcome, Failed) and outcome.touched:
                        raise ModelTouched(outcome.reason)
                    yield played_row(cell, episodes[place], outcome, spent)
    if lost:
        raise WorkerError(f"{len(lost)} chunks could not be played. {lost[0]} The same command plays what is missing.")


def played_row(
    cell: BoardCell, episode: Episode, outcome: EpisodeRecord | Failed, spent: Time
) -> tuple[SubmittedEpisode, Tensor | None]:
    """The row of what came of an episode in which slots were evicted, and those slots."""
    if isinstance(outcome, Failed):
        return _failed_row(cell, episode, outcome.reason), None
    if why := episode.reference.undecided or outcome.undecided:
        return _failed_row(cell, episode, why), None
    mean = cell.config.budget + (cell.config.evict_every + 1) / 2  # slots are filled one by one after an eviction
    row = _row(cell, episode, outcome, mean, cell.config.slots)
    seconds = {"seconds": round(spent.seconds, 6), "scoring_seconds": round(spent.scoring, 6)}
    return row.model_copy(update=seconds), outcome.evicted


def _full_slots(reference: Reference) -> tuple[float, int]:
    last = len(reference) - 1  # tokens read when the last one is chosen
    return (reference.n_prompt + last) / 2, last


def _row(
    cell: BoardCell, episode: Episode, record: EpisodeRecord, kv_mean: float, kv_peak: int
) -> SubmittedEpisode:  # fmt: skip
    return SubmittedEpisode(
        env_id=cell.env_id,
        budget=cell.config.budget,
        problem=episode.problem.id,
        seed=episode.seed,
        family=episode.problem.family,
        correct=record.correct,
        correct_full=episode.reference.correct,
        tokens=record.n_tokens,
        steps=record.n_steps,
        stop="eos" if record.stop == "eos" else "length",
        kv_slots_mean=kv_mean,
        kv_slots_peak=kv_peak,
        tokens_sha256=record.tokens_sha256,
        actions_sha256=record.actions_sha256,
    )


def _failed_row(cell: BoardCell, episode: Episode, failed: str) -> SubmittedEpisode:
    nothing = hashlib.sha256().hexdigest()
    return SubmittedEpisode(
        env_id=cell.env_id, budget=cell.config.budget, problem=episode.problem.id, seed=episode.seed,
        family=episode.problem.family, correct=0.0, correct_full=episode.reference.correct, tokens=0, steps=0, stop="",
        kv_slots_mean=0.0, kv_slots_peak=0, tokens_sha256=nothing, actions_sha256=nothing,
        failed=one_line(failed, MAX_FAILED),
    )  # fmt: skip


def text_hash(reference: Reference) -> str:
    """Hash of the tokens that the full cache generated."""
    return tokens_hash(reference.tokens[reference.n_prompt :])


def reference_digest(cells: list[BoardCell]) -> str:
    """Hash over the full-cache generations of all cells: who has the same one measured against the same."""
    found = {(c.env_id, e.problem.id, e.seed, text_hash(e.reference)) for c in cells for e in c.wanted}
    return sha256_of(sorted(found))
