"""From an environment's observation to an agent: a policy of any library plays on the bench."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.slots import SlotView
from kv_gym.envs.actions import check_action, decision_shape, keep_scores
from kv_gym.envs.observations import Observation, observe
from kv_gym.errors import ConfigError
from kv_gym.llm.accumulators import ACCUMULATORS

Policy = Callable[[Observation], Any]


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
        return keep_scores(torch.as_tensor(checked, device=slots.device), slots.protected, config)[0]
