"""From an environment's observation to an agent, and back: policies play on the bench, agents through Gymnasium."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from kv_agents.base import Agent
from kv_gym.agents import AgentLike, load_agent, prepare_agent
from kv_gym.bench.scoring import keep_scores
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.eviction import share_scores
from kv_gym.engine.slots import SlotView
from kv_gym.envs.actions import check_action, collapse, decision_shape
from kv_gym.envs.actions import keep_scores as scores_of_actions
from kv_gym.envs.core import EvictionCore
from kv_gym.envs.observations import Observation, observe
from kv_gym.errors import ConfigError
from kv_gym.llm.accumulators import ACCUMULATORS

Policy = Callable[[Observation], Any]
_named = functools.cache(load_agent)  # each name is built once
_prepared: WeakKeyDictionary[AgentLike, str] = WeakKeyDictionary()  # agents, by the model that they have seen


class ObservationAgent(Agent):
    """Evict as a policy says that sees an environment's observations: the bench and the board take it.

    The policy gets what `gym.make_vec(env_id, **options)` shows, N episodes at once, and returns their actions. One of
    stable-baselines3 is `lambda observation: model.predict(observation, deterministic=True)[0]`.

    Args:
        policy: Observations [N, ...] by name -> actions [N, *action shape].
        env_id: Environment whose observation and action it was made for.
        options: Settings of that environment; budget and `evict_every` are those of the bench.

    Raises:
        ConfigError: A setting is not allowed.
    """

    name = "policy"
    scope = "model"  # an observation shows all layers
    needs = tuple(ACCUMULATORS)

    def __init__(self, policy: Policy, env_id: str, **options: Any) -> None:
        self.policy, self.config = policy, make_config(env_id, **options)

    def score(self, slots: SlotView) -> Tensor:
        """Show the policy the observation, and turn its actions into keep scores."""
        sizes = {"budget": slots.budget, "evict_every": slots.evict_every}
        config = EnvConfig.model_validate(self.config.model_dump() | sizes)
        n, n_layers, n_kv_heads, count = slots.shape
        shape = decision_shape(n_layers, n_kv_heads, count, config.shared)
        actions = np.asarray(self.policy(observe(slots, config)))
        if len(actions) != n:
            raise ConfigError(f"the policy gave {len(actions)} actions for {n} episodes. It gets all of them at once.")
        checked = np.stack([check_action(action, config, shape, row) for row, action in enumerate(actions)])
        return scores_of_actions(torch.as_tensor(checked, device=slots.device), slots.protected, config)[0]


def agent_action(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], agent: AgentLike | str) -> np.ndarray:
    """What an agent would do now in an environment, as an action of it; `env.step` then evicts the same slots.

    Args:
        env: With `action="scores"`, and an episode under way.
        agent: An agent, or its name.

    Returns:
        Ranks of the agent's keep scores, from -1 for what goes first to 1, float32 of the shape of the action space.

    Raises:
        ConfigError: Another kind of action; or hindsight that the environment does not have (`hindsight=True`).
        KVGymError: The agent refuses the model.
    """
    core = env.unwrapped.core  # type: ignore[union-attr]
    assert isinstance(core, EvictionCore)
    if core.config.action != "scores":
        raise ConfigError(f"action={core.config.action!r}: agents give scores. Make it with action='scores'.")
    agent = _named(agent) if isinstance(agent, str) else agent
    if _prepared.get(agent) != core.llm.fingerprint:
        prepare_agent(agent, core.llm)
        _prepared[agent] = core.llm.fingerprint
    view = core.batch.slots()
    if agent.uses_hindsight and view.hindsight is None:
        raise ConfigError(f"{agent.name} knows the future. Make the environment with hindsight=True.")
    with torch.no_grad():
        scores = collapse(share_scores(keep_scores(agent, view).float(), core.config.shared), core.config.shared)
    order = scores.argsort(dim=-1, stable=True)  # of equal scores the oldest go first, as in the engine
    places = torch.linspace(-1, 1, scores.shape[-1], device=scores.device)
    ranks = torch.empty_like(scores).scatter_(-1, order, places.expand_as(scores))
    actions = ranks.cpu().numpy()
    return actions if isinstance(env.unwrapped, VectorEnv) else actions[0]
