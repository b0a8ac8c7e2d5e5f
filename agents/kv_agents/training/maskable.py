"""MaskablePPO's policy for `action="slot"`; needs sb3-contrib (`pip install kv-gym[contrib]`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from kv_agents.training.sb3 import Critic, slot_scorer, slot_scores


class SlotChoicePolicy(MaskableActorCriticPolicy):
    """Which slot goes: a categorical distribution over slots, whose logits are negated keep scores.

    Args:
        hidden: Width of the scorer.
    """

    def __init__(
        self, observation_space: spaces.Dict, action_space: spaces.Discrete, lr_schedule: Schedule, hidden: int = 32,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        self._hidden = hidden
        super().__init__(observation_space, action_space, lr_schedule, ortho_init=False, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.observation_space, spaces.Dict)
        self.scorer = slot_scorer(self.observation_space, self._hidden)
        self.critic = Critic(self.observation_space)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def get_distribution(self, obs: PyTorchObs, action_masks: np.ndarray | None = None) -> Any:
        """The distribution over slots."""
        logits = -slot_scores(self.scorer, obs)  # type: ignore[arg-type]
        distribution = MaskableCategoricalDistribution(logits.shape[1]).proba_distribution(logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slots [N], values [N, 1], log-probabilities [N]."""
        distribution = self.get_distribution(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.critic(obs), distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values [N, 1], log-probabilities [N] and entropy [N] of slots chosen before."""
        distribution = self.get_distribution(obs, action_masks)
        return self.critic(obs), distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: Any) -> Tensor:
        """Values, [N, 1]."""
        return self.critic(obs)

    def _predict(self, observation: Any, deterministic: bool = False, action_masks: Any = None) -> Tensor:
        return self.get_distribution(observation, action_masks).get_actions(deterministic=deterministic)
