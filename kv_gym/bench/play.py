"""Playing episodes side by side with an agent, whatever the agent does."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.guard import Guard, ModelTouched, reason_of
from kv_gym.bench.plan import Episode
from kv_gym.bench.scoring import keep_scores
from kv_gym.config import EnvConfig
from kv_gym.engine.episodes import EpisodeBatch, StepResult
from kv_gym.engine.records import EpisodeRecord
from kv_gym.errors import ScoreError
from kv_gym.llm.frozen import FrozenLLM

CHECK_EVERY = 8  # decisions, after which episodes that have ended are yielded: the model is compared with what it was

logger = logging.getLogger(__name__)


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
        return "" if self.__cause__ is None else reason_of(self.__cause__)


@dataclass(frozen=True)
class Failed:
    """An episode in which the agent raised.

    Attributes:
        reason: Class and message.
        touched: Whether it changed the model.
    """

    reason: str
    touched: bool = False


Outcome = tuple[Episode, EpisodeRecord | Failed, Time]


def play(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, episodes: Sequence[Episode], width: int,
    evictions: bool = False, seconds: float | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Play episodes side by side; a row that ends is filled with the next one.

    Where the agent raises, each episode of that moment is played again, alone: only those in which it raises then have
    failed, however many were side by side.

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
        ModelTouched: The agent changed the model: it must not be used again, and what was not yielded is lost.
    """
    waiting = deque(episodes)

    def start(queue: deque[Episode], most: int, running: dict[int, Episode]) -> Iterator[Outcome]:
        batch = EpisodeBatch(
            llm, config, min(most, len(queue)), statistics=agent.needs, hindsight=agent.uses_hindsight,
            evictions=evictions, queries=queries_of(agent),
        )  # fmt: skip
        return _side_by_side(batch, agent, queue, running, seconds)

    while waiting:
        running: dict[int, Episode] = {}
        try:
            yield from start(waiting, width, running)
        except AgentFailure as failure:
            failed = _told(agent, failure)
        again = list(running.values())
        if len(again) == 1:
            yield again[0], failed, Time()
            continue
        for episode in again:
            try:
                yield from start(deque([episode]), 1, {})
            except AgentFailure as failure:
                yield episode, _told(agent, failure), Time()


def _told(agent: AgentLike, failure: AgentFailure) -> Failed:
    """What is kept of a failure: not its frames, which hold the whole batch.

    Raises:
        ModelTouched: That is what it was.
    """
    if isinstance(failure.__cause__, ModelTouched):
        raise failure.__cause__
    logger.info("agent %s failed", agent.name, exc_info=failure.__cause__)
    return Failed(failure.reason)


def _side_by_side(
    batch: EpisodeBatch, agent: AgentLike, waiting: deque[Episode], running: dict[int, Episode],
    seconds: float | None,
) -> Iterator[Outcome]:  # fmt: skip
    """Play what waits in one batch; `running` holds at any time what has begun and not ended, by row.

    Raises:
        AgentFailure: The agent raised, or its scores cannot be used.
    """
    guard = Guard(batch, seconds)
    spent = [Time() for _ in range(batch.n)]
    free = list(range(batch.n))
    ended: list[Outcome] = []  # since the model was looked at
    decisions = 0
    while running or waiting:
        clock = time.perf_counter()
        started = {row: waiting.popleft() for row in free[: len(waiting)]}
        if started:
            batch.reset(list(started), [e.reference for e in started.values()], [e.seed for e in started.values()])
            running |= started
        try:
            scoring = decide(batch, agent, guard)[0]
        except AgentFailure as failure:
            if not isinstance(failure.__cause__, ModelTouched):
                yield from ended
            raise
        decisions += 1
        free = [row for row in running if not batch.active[row]]
        share = (time.perf_counter() - clock) / len(running)
        for row in running:
            spent[row].seconds += share
            spent[row].scoring += scoring / len(running)
        for row in free:
            ended.append((running.pop(row), batch.record(row), spent[row]))
            spent[row] = Time()
        if ended and (decisions % CHECK_EVERY == 0 or not (running or waiting)):
            check_model(guard)
            yield from ended
            ended = []


def decide(batch: EpisodeBatch, agent: AgentLike, guard: Guard) -> tuple[float, StepResult]:
    """Let the agent choose and the LLM write; errors of the agent become `AgentFailure`.

    Args:
        batch: The episodes.
        agent: Who chooses.
        guard: Watches that it only looks. `check_model` comes before an episode that has ended counts.

    Returns:
        (Seconds that the agent took, what the step did).
    """
    scoring = [0.0]
    try:
        view = batch.slots()
        with torch.no_grad(), guard.watch():
            clock = time.perf_counter()
            scores = keep_scores(agent, view)
            if scores.is_cuda:
                torch.cuda.synchronize(scores.device)  # else the clock stops before the work is done
            scoring = [time.perf_counter() - clock]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() and the like are failures of the agent, not an end of the benchmark
        check_model(guard)
        raise AgentFailure from error
    try:
        result = batch.step(scores)
    except ScoreError as error:
        check_model(guard)
        raise AgentFailure from error
    return scoring[0], result


def check_model(guard: Guard) -> None:
    """Look at the whole model: before an episode counts, and before anything else that an agent did is told.

    Raises:
        AgentFailure: From `ModelTouched`.
    """
    try:
        guard.check_model()
    except ModelTouched as touched:
        raise AgentFailure from touched
