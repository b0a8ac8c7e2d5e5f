"""Agents in an environment: what one would do, as an action of Gymnasium's."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from kv_gym.agents import AgentLike, load_agent
from kv_gym.bench.guard import prepare_watched
from kv_gym.bench.scoring import keep_scores
from kv_gym.engine.eviction import check_scores, share_scores
from kv_gym.envs.actions import collapse
from kv_gym.envs.core import EvictionCore
from kv_gym.errors import ConfigError
from kv_gym.llm.frozen import FrozenLLM

MOST_PREPARED = 8  # agents, held until others act
_named = functools.cache(load_agent)  # each name is built once
_prepared: dict[int, tuple[AgentLike, str]] = {}
"""Agents by id, and the model that each has seen last: some cannot be hashed, nor referred to weakly."""


def agent_action(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], agent: AgentLike | str) -> np.ndarray:
    """What an agent would do now in an environment, as an action of it; `env.step` then evicts the same slots.

    Args:
        env: With `action="scores"`, and an episode under way.
        agent: An agent, or its name.

    Returns:
        Ranks of the agent's keep scores, from -1 for what goes first to 1, float32 of the shape of the action space.

    Raises:
        ConfigError: Another kind of action; or hindsight that the environment does not have (`hindsight=True`); or the
            agent evicts nothing.
        ScoreError: A score is NaN, or they are no scores.
        KVGymError: The agent refuses the model.
    """
    core = env.unwrapped.core  # type: ignore[union-attr]
    assert isinstance(core, EvictionCore)
    if core.config.action != "scores":
        raise ConfigError(f"action={core.config.action!r}: agents give scores. Make it with action='scores'.")
    agent = _named(agent) if isinstance(agent, str) else agent
    if not agent.evicts:
        raise ConfigError(f"{agent.name} evicts nothing, so there is no action for it. Take another agent.")
    prepare_once(agent, core.llm)
    view = core.batch.slots()
    if agent.uses_hindsight and view.hindsight is None:
        raise ConfigError(f"{agent.name} knows the future. Make the environment with hindsight=True.")
    with torch.no_grad():
        found = keep_scores(agent, view).float()
        check_scores(found, view.shape)
        scores = collapse(share_scores(found, core.config.shared), core.config.shared)
    order = scores.argsort(dim=-1, stable=True)  # of equal scores the oldest go first, as in the engine
    places = torch.linspace(-1, 1, scores.shape[-1], device=scores.device)
    ranks = torch.empty_like(scores).scatter_(-1, order, places.expand_as(scores))
    actions = ranks.cpu().numpy()
    return actions if isinstance(env.unwrapped, VectorEnv) else actions[0]


def prepare_once(agent: AgentLike, llm: FrozenLLM) -> None:
    """Let an agent see the model, unless it is the one that it has seen last.

    Raises:
        KVGymError: As `prepare_watched`.
    """
    known, model = _prepared.pop(id(agent), (None, ""))
    if known is not agent or model != llm.fingerprint:
        prepare_watched(llm, agent)
    _prepared[id(agent)] = (agent, llm.fingerprint)
    while len(_prepared) > MOST_PREPARED:
        del _prepared[next(iter(_prepared))]
