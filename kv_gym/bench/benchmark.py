"""Agents x budgets x problems -> rows. Resumable after a kill at any point.

A cell is one agent at one budget in one mode. Accuracy is measured in generate mode, where the frozen LLM writes
freely. Loss, loss spike and missed attention are measured in replay mode: an evicted LLM's own greedy tokens are cheap
for itself, so in generate mode its losses say nothing. Rows are written as episodes end (`kv_gym.bench.rows`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kv_gym.bench import provenance
from kv_gym.bench.guard import prepare_watched
from kv_gym.bench.plan import Bench, Cell, Episode, plays, prepare, result_settings
from kv_gym.bench.play import AgentFailure, Time, play
from kv_gym.bench.progress import Progress, Silent
from kv_gym.bench.rows import EpisodeRow, RowFile, RowKey, RunRow, sha256_of
from kv_gym.config import EnvConfig
from kv_gym.engine.records import EpisodeRecord, full_cache_record
from kv_gym.identity import Identity, identity_of
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import Problem

RECORDED = ("correct", "stop", "n_tokens", "n_steps", "tokens_sha256", "actions_sha256")

logger = logging.getLogger(__name__)


@dataclass
class BenchResult:
    """What a benchmark gave.

    Attributes:
        rows: Of this plan only, new and resumed, in the order of the plan.
        runs: The runs they come from.
        left_out: Problems that cannot be played, by budget.
        n_new: Rows made now.
    """

    rows: list[EpisodeRow]
    runs: list[RunRow]
    left_out: dict[int, list[str]]
    n_new: int


def run_bench(bench: Bench, path: Path, progress: Progress | None = None) -> BenchResult:
    """Run what the file at `path` does not hold yet, writing each row as its episode ends.

    Args:
        bench: What to run.
        path: The JSONL file of rows; made if it does not exist.
        progress: Told how far it is.

    Raises:
        ConfigError: A budget or option is not allowed.
        KVGymError: An agent refuses the model (`prepare_agent`).
        RowFileError: The file is damaged or in use.
    """
    progress = progress or Silent()
    configs = {(budget, mode): bench.config(budget, mode) for budget in bench.budgets for mode in bench.modes}
    first = next(iter(configs.values()))
    with RowFile(path) as file:
        llm = load_llm(first.model, first.revision, first.dtype, first.device)
        for agent in bench.agents:
            prepare_watched(llm, agent)
        episodes = prepare(llm, first, bench.seeds, bench.width, progress, bench.problem_seeds)
        playable = {config: [e for e in episodes if plays(e.reference, config)] for config in configs.values()}
        left_out = {config.budget: _left_out(episodes, playable[config]) for config in configs.values()}
        identities = [identity_of(agent) for agent in bench.agents]
        warn_of_unnamed(identities)
        cells = [
            Cell(agent, identity, configs[budget, mode], playable[configs[budget, mode]])
            for budget in bench.budgets
            for agent, identity in zip(bench.agents, identities, strict=True)
            for mode in bench.modes
        ]
        run = describe_run(llm, bench, first, identities, left_out, path.parent)
        runner = _Runner(llm, bench, file, progress, run)
        runner.run(cells)
        found = file.rows
    rows = [found.episodes[key] for key in runner.keys]
    return BenchResult(rows, [found.runs[i] for i in dict.fromkeys(row.run_id for row in rows)], left_out, runner.n_new)


def warn_of_unnamed(identities: Sequence[Identity]) -> None:
    """Say of which agents no rows can be reused."""
    for identity in identities:
        if identity.unnamed:
            logger.warning(
                "%s cannot be told from other agents (%s), so its episodes are played again each time.",
                identity.where, identity.unnamed,
            )  # fmt: skip


def describe_run(
    llm: FrozenLLM, bench: Bench, config: EnvConfig, identities: Sequence[Identity], left_out: dict[int, list[str]],
    output: Path,
) -> RunRow:  # fmt: skip
    """Write down what all rows of this run share."""
    settings = result_settings(config)
    plan = {
        "env_id": bench.env_id, "split": config.split, "agents": [agent.name for agent in bench.agents],
        "budgets": list(bench.budgets), "modes": list(bench.modes), "problems": bench.problems, "seeds": bench.seeds,
        "problem_seeds": [config.problem_seed + i for i in range(bench.problem_seeds)],
    }  # fmt: skip
    model = {"name": llm.name, "revision": config.revision, "dtype": config.dtype, "fingerprint": llm.fingerprint}
    return RunRow(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=provenance.command(),
        versions=provenance.versions(),
        git=provenance.git_state(output=output),
        hardware=provenance.hardware(llm.shape.device),
        threads=torch.get_num_threads(),
        width=bench.width,
        model=model,
        settings=settings,
        settings_sha256=sha256_of(settings),
        plan=plan,
        agents={i.sha256: {"where": i.where, "parts": i.parts, "unnamed": i.unnamed} for i in identities},
        left_out=left_out,
    ).signed()


def _left_out(episodes: Sequence[Episode], played: Sequence[Episode]) -> list[str]:
    """Problems without any episode that is played."""
    there = {episode.problem.id for episode in played}
    return [problem for problem in dict.fromkeys(episode.problem.id for episode in episodes) if problem not in there]


class _Runner:
    """Runs cells and writes their rows.

    Attributes:
        keys: Of all episodes of the plan, in order.
        n_new: Rows written.
    """

    def __init__(self, llm: FrozenLLM, bench: Bench, file: RowFile, progress: Progress, run: RunRow) -> None:
        self.llm, self.bench, self.file, self.progress, self.run_row = llm, bench, file, progress, run
        self.computation = provenance.computation(llm.shape.dtype, llm.shape.device)
        self.keys: dict[RowKey, None] = {}
        self.n_new = 0

    def run(self, cells: Sequence[Cell]) -> None:
        """Run what the file does not hold yet."""
        todo: list[tuple[Cell, list[Episode]]] = []
        for cell in cells:
            planned = {self._row(cell, episode).key: episode for episode in cell.episodes}
            known = self.keys | self.file.rows.episodes  # an agent that was asked for twice runs once
            self.keys |= dict.fromkeys(planned)
            todo.append((cell, [episode for key, episode in planned.items() if key not in known]))
        self.progress.begin("episodes", sum(len(episodes) for _, episodes in todo))
        for cell, episodes in todo:
            if episodes:
                self.progress.describe(f"{cell.agent.name}, budget {cell.config.budget}, {cell.config.mode}")
                self._run_cell(cell, episodes)

    def _run_cell(self, cell: Cell, episodes: Sequence[Episode]) -> None:
        if not cell.agent.evicts:
            for episode in episodes:
                record = full_cache_record(self.llm, cell.config, episode.reference)
                self._write(self._ungraded_row(cell, episode, record) or self._full_cache_row(cell, episode, record))
            return
        left = {id(episode): episode for episode in episodes}
        try:
            for episode, record, spent in play(
                self.llm, cell.config, cell.agent, episodes, self.bench.width, seconds=self.bench.agent_seconds
            ):  # fmt: skip
                del left[id(episode)]
                row = self._ungraded_row(cell, episode, record) or self._played_row(cell, episode, record, spent)
                self._write(row)
        except AgentFailure as failure:
            logger.info("agent %s failed", cell.agent.name, exc_info=failure.__cause__)
            for episode in left.values():
                self._write(self._row(cell, episode, failed=failure.reason))

    def _write(self, row: EpisodeRow) -> None:
        if row.run_id not in self.file.rows.runs:
            self.file.add(self.run_row)
        self.file.add(row)
        self.n_new += 1
        self.progress.advance(1)

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
            agent=cell.agent.name,
            agent_source=cell.identity.where,
            agent_sha256=cell.identity.sha256,
            uses_hindsight=cell.agent.uses_hindsight,
            evicts=cell.agent.evicts,
            budget=config.budget,
            evict_every=config.evict_every,
            problem=problem.id,
            family=problem.family,
            seed=episode.seed,
            failed=failed,
            correct_full=reference.correct,
            kv_bytes_peak=kv_bytes_peak,
            kv_bytes_mean=kv_bytes_mean,
            seconds=seconds,
            tokens_per_second=tokens_per_second,
            reference_hash=reference.hash,
            problem_sha256=problem_hash(problem),
            model=self.llm.name,
            model_fingerprint=self.llm.fingerprint,
            settings_sha256=self.run_row.settings_sha256,
            computation=self.computation,
            **({} if record is None else _measured(record)),
        )


def problem_hash(problem: Problem) -> str:
    """Hash of everything that is asked: also the trace that is replayed, and how the answer is scored."""
    return sha256_of([problem.family, problem.prompt, problem.answer, problem.graded, problem.trace])


def _measured(record: EpisodeRecord) -> dict[str, Any]:
    """The fields of a record that a row holds, NaN as None."""
    plain = {name: getattr(record, name) for name in RECORDED}
    return plain | {name: None if math.isnan(value) else value for name, value in record.measured.items()}
