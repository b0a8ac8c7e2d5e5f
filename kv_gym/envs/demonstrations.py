"""Episodes as they are seen through Gymnasium, whole: what an agent saw, did and got."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from kv_gym.agents import AgentLike
from kv_gym.bench.guard import AgentUnusable, Guard, reason_of
from kv_gym.envs.acting import agent_action
from kv_gym.envs.core import Draw
from kv_gym.envs.observations import Observation, select_row
from kv_gym.envs.vector_env import KVEvictVectorEnv
from kv_gym.envs.wrappers import numeric
from kv_gym.errors import KVGymError


@dataclass
class Demonstration:
    """One episode of T steps.

    Attributes:
        problem: Index of its problem.
        seed: Of the environment's `reset`.
        observations: T + 1 of them.
        actions: T of them, of the environment's action space.
        rewards: T numbers.
        terminations: T times whether it ended so.
        truncations: T times whether it was cut off.
        infos: T + 1 times the numbers of the infos (`reward_terms/correct`), without hindsight.
    """

    problem: int
    seed: int
    observations: list[Observation] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminations: list[bool] = field(default_factory=list)
    truncations: list[bool] = field(default_factory=list)
    infos: list[dict[str, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rewards)


def demonstrate(env: KVEvictVectorEnv, agent: AgentLike, draws: Iterable[Draw]) -> Iterator[Demonstration]:
    """Play episodes side by side, in any order.

    Args:
        env: With `autoreset_mode="Disabled"`; no other episodes may be under way.
        agent: Plays.
        draws: Problem and seed of each.

    Yields:
        Each episode, as it ends.

    Raises:
        KVGymError: The agent raised, or touched what it was shown.
    """
    assert env.autoreset_mode is AutoresetMode.DISABLED
    coming = deque(draws)
    if not coming:
        return
    row_draws: list[Draw] = [coming[0]] * env.num_envs
    rows: list[Demonstration | None] = [None] * env.num_envs
    idle = np.ones(env.num_envs, dtype=np.bool_)
    guard = Guard(env.core.batch)
    while True:
        for row in np.flatnonzero(idle).tolist():
            if coming:
                row_draws[row] = coming.popleft()
                rows[row] = Demonstration(*row_draws[row])
        if all(row is None for row in rows):
            return
        if idle.any():  # rows for which nothing is left play what they played, unseen: all rows go in lockstep
            problems, seeds = zip(*row_draws, strict=True)
            observation, infos = env.reset(
                seed=[seed if new else None for seed, new in zip(seeds, idle, strict=True)],
                options={"reset_mask": idle, "problem": list(problems)},
            )
            _see(rows, idle, observation, infos)
        actions = watched_action(env, agent, guard)
        observation, reward, terminated, truncated, infos = env.step(actions)
        for row, episode in enumerate(rows):
            if episode is not None:
                episode.actions.append(np.array(actions[row]))
                episode.rewards.append(float(reward[row]))
                episode.terminations.append(bool(terminated[row]))
                episode.truncations.append(bool(truncated[row]))
        _see(rows, np.ones_like(idle), observation, infos)
        idle = terminated | truncated
        if idle.any():
            guard.check_model()
        for row in np.flatnonzero(idle).tolist():
            ended, rows[row] = rows[row], None
            if ended is not None:
                yield ended


def watched_action(env: KVEvictVectorEnv, agent: AgentLike, guard: Guard) -> np.ndarray:
    """What an agent would do, which may only look.

    Raises:
        AgentUnusable: It raised.
        KVGymError: It touched what it was shown, or gave no scores.
    """
    try:
        with guard.watch():
            return agent_action(env, agent)
    except (KVGymError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also sys.exit()
        raise AgentUnusable(f"agent {agent.name!r} failed: {reason_of(error)}. Mend it.") from error


def _see(rows: list[Demonstration | None], new: np.ndarray, observation: Observation, infos: dict[str, Any]) -> None:
    """Add what there is to see now to the episodes in rows that have something new."""
    numbers = {name: values for name, values in numeric(infos).items() if not name.startswith("_")}
    for row in np.flatnonzero(new).tolist():
        episode = rows[row]
        if episode is not None:
            episode.observations.append(select_row(observation, row))
            episode.infos.append({name: float(values[row]) for name, values in numbers.items()})
