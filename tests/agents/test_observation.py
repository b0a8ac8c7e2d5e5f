"""A policy plays on the bench what it plays in the environment, and an agent in the environment what it plays there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import small_env
import torch
from kv_agents.base import Agent
from kv_agents.observation import ObservationAgent

import kv_gym  # noqa: F401
from kv_gym.agents import AgentLike, load_agent, prepare_agent
from kv_gym.bench.scoring import keep_scores
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.slots import SlotView
from kv_gym.envs.acting import agent_action
from kv_gym.errors import ActionError, ConfigError
from kv_gym.llm.frozen import FrozenLLM

ENV = small_env.ENV
SMALL = small_env.SMALL | {"n_problems": 4}


def engine(env: Any, agent: AgentLike) -> EpisodeBatch:
    """The same episodes as those under way in a vector environment, played by an agent as the bench does."""
    core = env.unwrapped.core
    prepare_agent(agent, core.llm)
    batch = EpisodeBatch(core.llm, core.config, core.n, hindsight=core.config.hindsight)
    references = [core.reference(row) for row in range(core.n)]
    batch.reset(range(core.n), references, core.batch.seeds.tolist())
    return batch


def positions(batch: EpisodeBatch) -> torch.Tensor:
    return batch.cache.positions


@pytest.mark.parametrize(
    ("agent", "options"),
    [
        ("rkv", {}), ("h2o", {"granularity": "layer"}), ("random", {"granularity": "token"}), ("knorm", {"n_sink": 2}),
        ("golden", {"hindsight": True}),
    ],
)  # fmt: skip
def test_an_agent_evicts_the_same_slots_through_gymnasium(agent: str, options: dict[str, Any]) -> None:
    env = gymnasium.make_vec(ENV, num_envs=3, autoreset_mode="Disabled", **(SMALL | options))
    env.reset(seed=1)
    played = load_agent(agent)
    batch = engine(env, played)
    core = env.unwrapped.core  # type: ignore[attr-defined]
    for _ in range(5):
        actions = agent_action(env, agent)
        assert actions in env.action_space and actions.dtype == np.float32
        _, _, terminated, truncated, _ = env.step(actions)
        with torch.no_grad():
            batch.step(keep_scores(played, batch.slots()))
        assert torch.equal(positions(batch), positions(core.batch))
        if (terminated | truncated).any():
            break
    one = gymnasium.make(ENV, **(SMALL | options))
    one.reset(seed=1)
    assert agent_action(one, played) in one.action_space


@pytest.mark.parametrize("options", [{}, {"action": "mask", "granularity": "token"}, {"observe_kv": True}])
def test_a_policy_plays_on_the_bench_what_it_plays_in_the_environment(options: dict[str, Any]) -> None:
    env = gymnasium.make_vec(ENV, num_envs=3, autoreset_mode="Disabled", **(SMALL | options))
    shape = env.single_action_space.shape
    assert shape is not None

    def policy(observation: dict[str, np.ndarray]) -> np.ndarray:
        """Prefer what was attended to and is old; with keys, long ones."""
        scores = observation["slots"][..., 0] - observation["slots"][..., 15] + observation["context"].sum(-1).mean()
        if "keys" in observation:
            scores = scores + np.linalg.norm(observation["keys"], axis=-1)
        if options.get("action") == "mask":
            return (scores < np.median(scores, -1, keepdims=True)).astype(np.int8)
        return np.tanh(scores).astype(np.float32)

    observation, _ = env.reset(seed=1)
    agent = ObservationAgent(policy, ENV, **(SMALL | options))
    batch = engine(env, agent)
    for _ in range(5):
        observation, _, terminated, truncated, _ = env.step(policy(observation))
        with torch.no_grad():
            batch.step(keep_scores(agent, batch.slots()))
        assert torch.equal(positions(batch), positions(env.unwrapped.core.batch))  # type: ignore[attr-defined]
        if (terminated | truncated).any():
            break


def test_an_agent_sees_the_model_of_the_environment_that_it_acts_in() -> None:
    """Once for each, also where environments of two models take turns; agents that cannot be hashed act too."""
    seen: list[str] = []

    @dataclass
    class Seeing(Agent):
        name = "seeing"

        def prepare(self, llm: FrozenLLM) -> None:
            seen.append(llm.fingerprint)

        def score(self, slots: SlotView) -> torch.Tensor:
            return slots.positions.float()

    one, other = gymnasium.make(ENV, **SMALL), gymnasium.make(ENV, **(SMALL | {"model": "tiny-domains"}))
    agent = Seeing()
    for env in (one, one, other, one):
        env.reset(seed=0)
        agent_action(env, agent)
    models = [env.unwrapped.core.llm.fingerprint for env in (one, other)]  # type: ignore[attr-defined]
    assert seen == [models[0], models[1], models[0]]


def test_mistakes_are_told() -> None:
    env = gymnasium.make(ENV, **(SMALL | {"action": "mask"}))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="action='mask': agents give scores"):
        agent_action(env, "rkv")
    env = gymnasium.make_vec(ENV, num_envs=2, **SMALL)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="golden knows the future"):
        agent_action(env, "golden")
    view = env.unwrapped.core.batch.slots()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="gave 1 actions for 2 episodes"):
        ObservationAgent(lambda observation: np.zeros((1, 2)), ENV, **SMALL).score(view)
    with pytest.raises(ActionError, match="has shape"):
        ObservationAgent(lambda observation: np.zeros((2, 3)), ENV, **SMALL).score(view)
