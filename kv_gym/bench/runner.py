"""Plays the cells of a benchmark that its file does not hold yet, and turns each episode into a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kv_gym.agents import AgentLike
from kv_gym.bench import provenance
from kv_gym.bench.guard import ModelTouched, prepare_watched, reason_of
from kv_gym.bench.plan import Bench, Cell, Episode
from kv_gym.bench.play import Failed, Time, play
from kv_gym.bench.playing import Playing
from kv_gym.bench.progress import Progress
from kv_gym.bench.rows import EpisodeRow, RowFile, RowKey, RunRow, sha256_of
from kv_gym.bench.texts import TextFile, text_key
from kv_gym.bench.workers import Crew, Lost, Task, chunks
from kv_gym.engine.records import EpisodeRecord, full_cache_record
from kv_gym.identity import Identity
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_anew
from kv_gym.llm.tokens import way_to_read
from kv_gym.problems import Problem
from kv_gym.problems.grading import GRADING_VERSION

RECORDED = ("correct", "stop", "n_tokens", "n_steps", "tokens_sha256", "actions_sha256")
MISSED = "missed_attention"  # the column that only a full cache that reads along can fill


class Runner:
    """Runs cells and writes their rows.

    Args:
        llm: The frozen LLM, which all agents of the benchmark have seen.
        bench: What is run.
        file: Where rows go.
        progress: Told how far it is.
        run: What all new rows share.
        texts: Where generated texts go; None is nowhere.
        crew: Workers that play in this process's stead.

    Attributes:
        keys: Of all episodes of the plan, in order.
        n_new: Rows written.
    """

    def __init__(
        self, llm: FrozenLLM, bench: Bench, file: RowFile, progress: Progress, run: RunRow,
        texts: TextFile | None = None, crew: Crew | None = None,
    ) -> None:  # fmt: skip
        self.llm, self.bench, self.file, self.progress, self.run_row = llm, bench, file, progress, run
        self.texts, self.crew = texts, crew
        self._shown: list[AgentLike] = list(bench.agents)  # who has seen this very model
        self._playing = Playing(file.path)
        how = way_to_read(llm.shape.device, bench.config(bench.budgets[0], bench.modes[0]).compile)
        here = provenance.computation(llm.shape.dtype, llm.shape.device, how)
        self.computation = here if crew is None else crew.about.computation
        self.keys: dict[RowKey, None] = {}
        self.n_new = 0

    def run(self, cells: Sequence[Cell]) -> None:
        """Run what the file does not hold yet."""
        todo: list[tuple[Cell, list[Episode]]] = []
        for cell in cells:
            planned = {row.key: (row, episode) for episode in cell.episodes for row in [self._row(cell, episode)]}
            new = {key: pair for key, pair in planned.items() if key not in self.keys}  # asked for twice runs once
            self.keys |= dict.fromkeys(planned)
            todo.append((cell, [episode for row, episode in new.values() if not self._is_known(row)]))
        self.progress.begin("episodes", sum(len(episodes) for _, episodes in todo))
        if self.crew is not None:
            self._run_apart([(cell, episodes) for cell, episodes in todo if cell.agent.evicts], self.crew)
            todo = [(cell, episodes) for cell, episodes in todo if not cell.agent.evicts]
        for cell, episodes in todo:
            if episodes:
                self.progress.describe(f"{cell.agent.name}, budget {cell.config.budget}, {cell.config.mode}")
                self._run_cell(cell, episodes)

    def _is_known(self, row: EpisodeRow) -> bool:
        """Whether an episode needs not be played: a row that went well is there, and its text where that is asked for.

        What failed is played again by every new run: the cause (a limit, memory, a file) may be gone.
        """
        stored = self.file.rows.episodes.get(row.key)
        if stored is None or stored.failed is not None:
            return False
        if self.bench.missed_attention and row.mode == "replay" and stored.measured(MISSED) is None:
            return False
        return self.texts is None or text_key(stored) in self.texts.known

    def _run_cell(self, cell: Cell, episodes: Sequence[Episode]) -> None:
        if not cell.agent.evicts:
            for episode in episodes:
                record = full_cache_record(self.llm, cell.config, episode.reference)
                row = self._ungraded_row(cell, episode, record) or self._full_cache_row(cell, episode, record)
                self._write(row, record)
            return
        if not any(agent is cell.agent for agent in self._shown):
            prepare_watched(self.llm, cell.agent)
            self._shown.append(cell.agent)
        with self._playing.note(f"{cell.agent.name} at budget {cell.config.budget} in {cell.config.mode} mode"):
            touched = self._play(cell, episodes)
        if touched:
            self.llm, self._shown = load_anew(cell.config, self.llm), []  # agents have not seen that one yet

    def _play(self, cell: Cell, episodes: Sequence[Episode]) -> bool:
        """Play a cell and write its rows; return whether the agent changed the model."""
        left = {id(episode): episode for episode in episodes}
        try:
            for episode, outcome, spent in play(
                self.llm, cell.config, cell.agent, episodes, self.run_row.width, seconds=self.bench.agent_seconds
            ):  # fmt: skip
                del left[id(episode)]
                self._add(cell, episode, outcome, spent)
        except ModelTouched as touched:
            for episode in left.values():
                self._write(self._row(cell, episode, failed=reason_of(touched)))
            return True
        return False

    def _run_apart(self, todo: Sequence[tuple[Cell, list[Episode]]], crew: Crew) -> None:
        """Let workers play cells, all at once, and write rows as chunks of them end."""
        tasks: list[Task] = []
        most, n = self.run_row.width, crew.workers.n
        todo = [(cell, episodes) for cell, episodes in todo if episodes]
        for cell, episodes in todo:
            number = next(i for i, agent in enumerate(self.bench.agents) if agent is cell.agent)
            width = most if len(todo) >= n else min(most, -(-len(episodes) // n))  # so that all have something to do
            tasks += chunks(cell, episodes, number, crew, width, self.bench.agent_seconds)
        for task, found in crew.do(tasks):
            cell, episodes = task.of
            self.progress.describe(f"{cell.agent.name}, budget {cell.config.budget}, {cell.config.mode}")
            for place, outcome, spent in found.of_each(len(episodes)) if isinstance(found, Lost) else found:
                self._add(cell, episodes[place], outcome, spent)

    def _add(self, cell: Cell, episode: Episode, outcome: EpisodeRecord | Failed, spent: Time) -> None:
        """Write the row of what came of an episode."""
        if isinstance(outcome, Failed):
            self._write(self._row(cell, episode, failed=outcome.reason))
            return
        row = self._ungraded_row(cell, episode, outcome) or self._played_row(cell, episode, outcome, spent)
        self._write(row, outcome)

    def _write(self, row: EpisodeRow, record: EpisodeRecord | None = None) -> None:
        self.progress.advance(1)
        if self.texts is not None and row.failed is None and record is not None:
            self.texts.add(row, record)  # first: a row without its text would be played again
        stored = self.file.rows.episodes.get(row.key)
        if stored is not None and not row.replaces(stored):
            return  # played for its text, or failed as before
        if row.run_id not in self.file.rows.runs:
            self.file.add(self.run_row)
        self.file.add(row)
        self.n_new += 1

    def _played_row(self, cell: Cell, episode: Episode, record: EpisodeRecord, spent: Time) -> EpisodeRow:
        kv_bytes = cell.config.slots * self.llm.shape.slot_bytes  # every slot is allocated, all the time
        known = max(0, cell.config.slots + 1 - episode.reference.n_prompt)  # generated tokens read at the reset
        speed = (record.n_tokens - known) / spent.seconds
        row = self._row(cell, episode, record, kv_bytes, kv_bytes, spent.seconds, speed)
        return row.model_copy(update={"scoring_seconds": spent.scoring})

    def _ungraded_row(self, cell: Cell, episode: Episode, record: EpisodeRecord) -> EpisodeRow | None:
        """The row of an episode whose answer, or the full cache's, nobody could grade; None if both are graded."""
        why = episode.reference.undecided or record.undecided
        return self._row(cell, episode, failed=why) if why else None

    def _full_cache_row(self, cell: Cell, episode: Episode, record: EpisodeRecord) -> EpisodeRow:
        last = len(episode.reference) - 1  # tokens read when the last one is chosen
        mean = (episode.reference.n_prompt + last) / 2
        slot_bytes, seconds = self.llm.shape.slot_bytes, episode.seconds
        speed = None if seconds is None else record.n_tokens / seconds
        return self._row(cell, episode, record, last * slot_bytes, mean * slot_bytes, seconds, speed)

    def _row(
        self, cell: Cell, episode: Episode, record: EpisodeRecord | None = None, kv_bytes_peak: int | None = None,
        kv_bytes_mean: float | None = None, seconds: float | None = None, tokens_per_second: float | None = None,
        failed: str | None = None,
    ) -> EpisodeRow:  # fmt: skip
        reference, problem, config = episode.reference, episode.problem, cell.config
        return EpisodeRow(
            run_id=self.run_row.run_id,
            env_id=self.bench.env_id,
            mode=config.mode,
            split=config.split,
            uses_hindsight=cell.agent.uses_hindsight,
            evicts=cell.agent.evicts,
            budget=config.budget,
            evict_every=config.evict_every,
            problem=problem.id,
            family=problem.family,
            seed=episode.seed,
            failed=failed,
            correct_full=reference.correct,
            stop_full=reference.stop,
            kv_bytes_peak=kv_bytes_peak,
            kv_bytes_mean=kv_bytes_mean,
            seconds=seconds,
            tokens_per_second=tokens_per_second,
            model=self.llm.name,
            settings_sha256=self.run_row.settings_sha256,
            **known_by(cell.agent, cell.identity, episode, self.llm, self.computation),
            **({} if record is None else _measured(record)),
        )


def known_by(
    agent: AgentLike, identity: Identity, episode: Episode, llm: FrozenLLM, computation: str
) -> dict[str, Any]:
    """The fields of a row that this version knows its agent, problem, model and computation by."""
    return {
        "agent": agent.name,
        "agent_source": identity.where,
        "agent_sha256": identity.sha256,
        "reference_hash": episode.reference.hash,
        "problem_sha256": problem_hash(episode.problem),
        "model_fingerprint": llm.fingerprint,
        "computation": computation,
        "grading": GRADING_VERSION,
    }


def problem_hash(problem: Problem) -> str:
    """Hash of everything that is asked: also the trace that is replayed, and how the answer is scored."""
    return sha256_of([problem.family, problem.prompt, problem.answer, problem.graded, problem.trace])


def _measured(record: EpisodeRecord) -> dict[str, Any]:
    """The fields of a record that a row holds, NaN as None."""
    plain = {name: getattr(record, name) for name in RECORDED}
    return plain | {name: None if math.isnan(value) else value for name, value in record.measured.items()}
