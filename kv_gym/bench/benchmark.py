"""Agents x budgets x problems -> rows. Resumable after a kill at any point.

A cell is one agent at one budget in one mode. Accuracy is measured in generate mode, where the frozen LLM writes
freely. Loss, loss spike and missed attention are measured in replay mode: an evicted LLM's own greedy tokens are cheap
for itself, so in generate mode its losses say nothing. Rows are written as episodes end (`kv_gym.bench.rows`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from kv_gym.agents import AgentLike, AgentSource, agent_source, prepare_agent
from kv_gym.bench import provenance
from kv_gym.bench.progress import Progress, Silent
from kv_gym.bench.rows import EpisodeRow, RowFile, RowKey, RunRow, sha256_of
from kv_gym.config import EnvConfig, env_page, make_config
from kv_gym.engine.episodes import ENTROPY_SHARE, EpisodeBatch, EpisodeRecord, StepResult, is_playable
from kv_gym.engine.reference import Reference, ReferenceStore, answer_start
from kv_gym.errors import ConfigError, ScoreError
from kv_gym.llm.loading import FrozenLLM, load_llm
from kv_gym.problems import Problem, list_problems

Mode = Literal["generate", "replay"]
MODES: tuple[Mode, ...] = ("generate", "replay")
WIDTH = 32
MAX_FAILURE_CHARS = 500
# What cannot move a row, is a part of its key by itself, or (the model) is in the fingerprint.
NO_SETTING = {
    "budget", "mode", "shadow", "n_problems", "split", "problem_seed", "model", "revision", "dtype", "action",
    "observe_kv", "hindsight", "w_correct", "w_loss", "w_attention", "n_recent", "granularity",
}  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What to run.

    Attributes:
        env_id: The environment.
        agents: Agents, built.
        budgets: Slots; default is the page's.
        problems: The first so many of the problem set; default is the page's.
        seeds: Episode seeds 0 to `seeds - 1`.
        modes: `generate`, `replay` or both; default is the page's.
        width: Episodes side by side.
        options: Other settings of the environment. Environments play the train split; the benchmark plays test.
    """

    env_id: str
    agents: Sequence[AgentLike]
    budgets: Sequence[int] = ()
    problems: int | None = None
    seeds: int = 1
    modes: Sequence[Mode] = ()
    width: int = WIDTH
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        defaults = env_page(self.env_id).bench
        object.__setattr__(self, "budgets", tuple(dict.fromkeys(self.budgets or defaults.budgets)))
        object.__setattr__(self, "modes", tuple(self.modes or defaults.modes))
        object.__setattr__(self, "problems", defaults.problems if self.problems is None else self.problems)
        for name in ("problems", "seeds", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} leaves nothing to run. Use 1 or more.")
        if not self.agents:
            raise ConfigError("there is no agent to run. Name at least one.")

    def config(self, budget: int, mode: Mode) -> EnvConfig:
        """Settings of one cell."""
        options = {"split": "test", **self.options, "budget": budget, "mode": mode, "shadow": mode == "replay"}
        return make_config(self.env_id, **options, n_problems=self.problems)


@dataclass(frozen=True)
class Episode:
    """One problem with one seed.

    Attributes:
        seconds: Time that its reference took, where it was generated in this run.
    """

    reference: Reference
    seed: int
    seconds: float | None = None

    @property
    def problem(self) -> Problem:
        """What is asked."""
        return self.reference.problem


@dataclass
class Time:
    """Share of the wall time that an episode took.

    Attributes:
        seconds: In all.
        scoring: In the agent.
    """

    seconds: float = 0.0
    scoring: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One agent at one budget in one mode, with the episodes it is measured on."""

    agent: AgentLike
    source: AgentSource
    config: EnvConfig
    episodes: list[Episode]


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


class AgentFailure(Exception):
    """An agent raised; the cause says what."""

    @property
    def reason(self) -> str:
        """Class and message of the cause, bounded."""
        return f"{type(self.__cause__).__name__}: {self.__cause__}"[:MAX_FAILURE_CHARS]


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
            prepare_agent(agent, llm)
        episodes = prepare(llm, first, bench.seeds, bench.width, progress)
        playable = {config: [e for e in episodes if plays(e.reference, config)] for config in configs.values()}
        left_out = {config.budget: _left_out(episodes, playable[config]) for config in configs.values()}
        cells = [
            Cell(agent, agent_source(agent), configs[budget, mode], playable[configs[budget, mode]])
            for budget in bench.budgets
            for agent in bench.agents
            for mode in bench.modes
        ]
        runner = _Runner(llm, bench, file, progress, describe_run(llm, bench, first, left_out, path.parent))
        runner.run(cells)
        found = file.rows
    rows = [found.episodes[key] for key in runner.keys]
    return BenchResult(rows, [found.runs[i] for i in dict.fromkeys(row.run_id for row in rows)], left_out, runner.n_new)


def _left_out(episodes: Sequence[Episode], played: Sequence[Episode]) -> list[str]:
    """Problems without any episode that is played."""
    there = {episode.problem.id for episode in played}
    return [problem for problem in dict.fromkeys(episode.problem.id for episode in episodes) if problem not in there]


def plays(reference: Reference, config: EnvConfig) -> bool:
    """Whether an episode can be played: as `is_playable`, and a protected prompt leaves something to choose."""
    room = not config.protect_prompt or reference.n_prompt + config.recent < config.budget
    return room and is_playable(reference, config)


def prepare(llm: FrozenLLM, config: EnvConfig, seeds: int, width: int, progress: Progress) -> list[Episode]:
    """Return an episode for every problem and seed, with the full-cache generation of each."""
    wanted = [(problem, seed) for problem in list_problems(config) for seed in range(seeds)]
    store = ReferenceStore(llm, config)
    keys = [store.key(problem, seed) for problem, seed in wanted]
    unique = dict(zip(keys, wanted, strict=True))  # greedy: one reference for all seeds
    missing = [key for key in unique if not store.path(key).exists()]
    progress.begin("full-cache references", len(missing))
    seconds: dict[str, float] = {}
    for start in range(0, len(missing), width):
        part = missing[start : start + width]
        clock = time.perf_counter()
        store.get([unique[key][0] for key in part], [unique[key][1] for key in part], width=width)
        seconds |= dict.fromkeys(part, (time.perf_counter() - clock) / len(part))
        progress.advance(len(part))
    references = store.get([problem for problem, _ in wanted], [seed for _, seed in wanted], width=width)
    return [
        Episode(reference, seed, seconds.get(key))
        for reference, (_, seed), key in zip(references, wanted, keys, strict=True)
    ]


def result_settings(config: EnvConfig) -> dict[str, Any]:
    """Every setting that can move a row, apart from budget, mode, problem, seed and model, which its key holds."""
    settings = config.model_dump(mode="json", exclude=NO_SETTING)
    return settings | {"recent": config.recent, "shared": config.shared}


def describe_run(
    llm: FrozenLLM, bench: Bench, config: EnvConfig, left_out: dict[int, list[str]], output: Path
) -> RunRow:
    """Write down what all rows of this run share."""
    settings = result_settings(config)
    plan = {
        "env_id": bench.env_id, "split": config.split, "agents": [agent.name for agent in bench.agents],
        "budgets": list(bench.budgets), "modes": list(bench.modes), "problems": bench.problems, "seeds": bench.seeds,
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
        left_out=left_out,
    ).signed()


def play(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, episodes: Sequence[Episode], width: int,
    evictions: bool = False,
) -> Iterator[tuple[Episode, EpisodeRecord, Time]]:  # fmt: skip
    """Play episodes side by side; a row that ends is filled with the next one. Records hold `evictions` if asked for.

    Yields:
        (Episode, its record, its share of the time), as they end.

    Raises:
        AgentFailure: The agent raised, or its scores cannot be used.
    """
    waiting, running = deque(episodes), dict[int, Episode]()
    batch = EpisodeBatch(
        llm, config, min(width, len(episodes)), statistics=agent.needs_statistics, hindsight=agent.uses_hindsight,
        evictions=evictions,
    )  # fmt: skip
    spent = [Time() for _ in range(batch.n)]
    free = list(range(batch.n))
    while running or waiting:
        clock = time.perf_counter()
        started = {row: waiting.popleft() for row in free[: len(waiting)]}
        if started:
            batch.reset(list(started), [e.reference for e in started.values()], [e.seed for e in started.values()])
            running |= started
        scoring = decide(batch, agent)[0]
        free = [row for row in running if not batch.active[row]]
        share = (time.perf_counter() - clock) / len(running)
        for row in running:
            spent[row].seconds += share
            spent[row].scoring += scoring / len(running)
        for row in free:
            yield running.pop(row), batch.record(row), spent[row]
            spent[row] = Time()


def decide(batch: EpisodeBatch, agent: AgentLike) -> tuple[float, StepResult]:
    """Let the agent choose and the LLM write; errors of the agent become `AgentFailure`.

    Returns:
        (Seconds that the agent took, what the step did).
    """
    clock = time.perf_counter()
    try:
        with torch.no_grad():
            scores = agent.score(batch.slots())
        if not isinstance(scores, torch.Tensor):
            raise ScoreError(f"keep scores are {type(scores).__name__}, not a tensor of shape [N, L, H_kv, S].")
    except Exception as error:
        raise AgentFailure from error
    if scores.is_cuda:
        torch.cuda.synchronize(scores.device)  # else the clock stops before the work is done
    scoring = time.perf_counter() - clock
    try:
        return scoring, batch.step(scores)
    except ScoreError as error:
        raise AgentFailure from error


def full_cache_record(llm: FrozenLLM, config: EnvConfig, reference: Reference) -> EpisodeRecord:
    """What an episode without evictions gives: its reference, measured over the same tokens as in replay."""
    generated = reference.tokens[reference.n_prompt :]
    replay = config.mode == "replay"
    end = answer_start(llm, reference) if replay else 0
    measured = slice(max(config.slots + 1, reference.n_prompt), end)
    surprisal = reference.surprisal[measured].double()
    high = reference.entropy[measured] > reference.entropy_percentile(ENTROPY_SHARE)
    loss, low, high_loss = (float(x.mean()) for x in (surprisal, surprisal[~high], surprisal[high]))  # NaN of nothing
    spike = 0.0 if replay else math.nan
    return EpisodeRecord(
        correct=reference.correct,
        stop=reference.stop,
        n_tokens=len(generated),
        n_steps=0,
        loss_spike=spike,
        attention_spike=spike,
        missed_attention=spike,
        loss=loss,
        loss_full=loss,
        loss_low=low,
        loss_low_full=low,
        loss_high=high_loss,
        loss_high_full=high_loss,
        tokens_sha256=hashlib.sha256(generated.int().cpu().numpy().tobytes()).hexdigest(),
        actions_sha256=hashlib.sha256().hexdigest(),
        text="",
    )


class _Runner:
    """Runs cells and writes their rows.

    Attributes:
        keys: Of all episodes of the plan, in order.
        n_new: Rows written.
    """

    def __init__(self, llm: FrozenLLM, bench: Bench, file: RowFile, progress: Progress, run: RunRow) -> None:
        self.llm, self.bench, self.file, self.progress, self.run_row = llm, bench, file, progress, run
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
                self._write(self._full_cache_row(cell, episode))
            return
        left = {id(episode): episode for episode in episodes}
        try:
            for episode, record, spent in play(self.llm, cell.config, cell.agent, episodes, self.bench.width):
                del left[id(episode)]
                self._write(self._played_row(cell, episode, record, spent))
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

    def _full_cache_row(self, cell: Cell, episode: Episode) -> EpisodeRow:
        record = full_cache_record(self.llm, cell.config, episode.reference)
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
            agent_source=cell.source.where,
            agent_sha256=cell.source.sha256,
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
            problem_sha256=sha256_of([problem.family, problem.prompt, problem.answer]),
            model=self.llm.name,
            model_fingerprint=self.llm.fingerprint,
            settings_sha256=self.run_row.settings_sha256,
            **({} if record is None else _measured(record)),
        )


def _measured(record: EpisodeRecord) -> dict[str, Any]:
    """The fields of a record that a row holds, NaN as None."""
    values = {name: value for name, value in vars(record).items() if name not in ("text", "evicted")}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
