"""Playing episodes side by side with an agent, whatever the agent does."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.guard import Guard
from kv_gym.bench.plan import Episode
from kv_gym.config import EnvConfig
from kv_gym.engine.episodes import EpisodeBatch, StepResult
from kv_gym.engine.records import EpisodeRecord
from kv_gym.errors import ScoreError
from kv_gym.llm.frozen import FrozenLLM

MAX_FAILURE_CHARS = 500


@dataclass
class Time:
    """Share of the wall time that an episode took.

    Attributes:
        seconds: In all.
        scoring: In the agent.
    """

    seconds: float = 0.0
    scoring: float = 0.0


class AgentFailure(Exception):
    """An agent raised; the cause says what."""

    @property
    def reason(self) -> str:
        """Class and message of the cause, bounded."""
        return f"{type(self.__cause__).__name__}: {self.__cause__}"[:MAX_FAILURE_CHARS]


def play(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, episodes: Sequence[Episode], width: int,
    evictions: bool = False, seconds: float | None = None,
) -> Iterator[tuple[Episode, EpisodeRecord, Time]]:  # fmt: skip
    """Play episodes side by side; a row that ends is filled with the next one.

    Args:
        llm: The frozen LLM.
        config: Settings of the env.
        agent: Who chooses.
        episodes: What is played.
        width: Most episodes side by side.
        evictions: Records hold which slots went.
        seconds: Longest time of a decision; None is without limit.

    Yields:
        (Episode, its record, its share of the time), as they end.

    Raises:
        AgentFailure: The agent raised, or its scores cannot be used.
    """
    waiting, running = deque(episodes), dict[int, Episode]()
    batch = EpisodeBatch(
        llm, config, min(width, len(episodes)), statistics=agent.needs, hindsight=agent.uses_hindsight,
        evictions=evictions, queries=queries_of(agent),
    )  # fmt: skip
    guard = Guard(batch, seconds)
    spent = [Time() for _ in range(batch.n)]
    free = list(range(batch.n))
    while running or waiting:
        clock = time.perf_counter()
        started = {row: waiting.popleft() for row in free[: len(waiting)]}
        if started:
            batch.reset(list(started), [e.reference for e in started.values()], [e.seed for e in started.values()])
            running |= started
        scoring = decide(batch, agent, guard)[0]
        free = [row for row in running if not batch.active[row]]
        share = (time.perf_counter() - clock) / len(running)
        for row in running:
            spent[row].seconds += share
            spent[row].scoring += scoring / len(running)
        for row in free:
            yield running.pop(row), batch.record(row), spent[row]
            spent[row] = Time()


def check_kind(scores: object) -> None:
    """Refuse what no scores can be.

    Raises:
        ScoreError: It is no tensor, or carries gradients.
    """
    if not isinstance(scores, torch.Tensor):
        raise ScoreError(f"keep scores are {type(scores).__name__}, not a tensor of shape [N, L, H_kv, S].")
    if scores.requires_grad:
        raise ScoreError("keep scores carry gradients. Return scores.detach().")


def decide(batch: EpisodeBatch, agent: AgentLike, guard: Guard) -> tuple[float, StepResult]:
    """Let the agent choose and the LLM write; errors of the agent become `AgentFailure`.

    Args:
        batch: The episodes.
        agent: Who chooses.
        guard: Watches that it only looks.

    Returns:
        (Seconds that the agent took, what the step did).
    """
    scoring = [0.0]
    try:
        view = batch.slots()
        with torch.no_grad(), guard.watch():
            clock = time.perf_counter()
            scores = agent.score(view)
            if isinstance(scores, torch.Tensor) and scores.is_cuda:
                torch.cuda.synchronize(scores.device)  # else the clock stops before the work is done
            scoring = [time.perf_counter() - clock]
        check_kind(scores)
    except (Exception, SystemExit) as error:  # sys.exit() is a failure of the agent, not an end of the benchmark
        raise AgentFailure from error
    try:
        return scoring[0], batch.step(scores)
    except ScoreError as error:
        raise AgentFailure from error
