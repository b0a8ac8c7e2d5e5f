"""stable-baselines3: our vector environment as its VecEnv, and policies that treat all slots alike.

The actor is a `Scorer` of the observation's slot features with one MLP for all slots, so a policy does not care in
which order slots come, and a trained one can be saved as a checkpoint and run like any other agent.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor, nn

from kv_agents.learned.scorer import Scorer, ScorerConfig
from kv_gym.errors import ConfigError

MOST_WEIGHTS = 1_000_000  # of a policy


def policy_that_trains() -> torch.nn.Module | None:
    """The policy of the algorithm of stable-baselines3 that steps this environment; None where none does."""
    frame = sys._getframe(1)
    while frame is not None:
        stepping = frame.f_locals.get("self")
        if isinstance(stepping, BaseAlgorithm):
            return stepping.policy
        frame = frame.f_back  # type: ignore[assignment]
    return None


class SlotVecEnv(VecEnv):
    """A `KVEvictVectorEnv` as stable-baselines3 wants it.

    Args:
        env: With `autoreset_mode="SameStep"`, so that a row that ends starts anew at once. Gymnasium's wrappers for
            vector environments may lie around it.

    Raises:
        ConfigError: Another autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        mode = AutoresetMode(env.metadata["autoreset_mode"])
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"autoreset_mode={mode.value!r}: stable-baselines3 expects ended rows to start anew in the same step. "
                "Build the environment with autoreset_mode='SameStep'."
            )
        self.env = env
        self._listed = DictInfoToList(env)
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._advised = False

    def reset(self) -> VecEnvObs:
        """Start all rows, with the seeds and options given to `seed` and `set_options` if there were any."""
        seeds: Any = self._seeds if any(seed is not None for seed in self._seeds) else None
        observation, infos = self._listed.reset(seed=seeds, options=together(self._options))
        self.reset_infos = [told(info) for info in infos]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions."""
        self._advise()
        self._actions = actions

    def _advise(self) -> None:
        """Say once what becomes of a training whose policy has weights of its own for each slot."""
        if not self._advised:
            policy = policy_that_trains()
            size = 0 if policy is None else sum(weights.numel() for weights in policy.parameters())
            if size > MOST_WEIGHTS:
                warnings.warn(
                    f"the policy has {size:,} weights: {type(policy).__name__} has some of its own for each slot, and "
                    "an update moves them all at once, so learning hardly begins. Take SlotPolicy of "
                    "kv_agents.training.sb3, one small network for all slots, or granularity='token'.",
                    stacklevel=3,
                )
            self._advised = True

    def step_wait(self) -> VecEnvStepReturn:
        """Play them. Infos are those of the environment without hindsight, of the ended episode where one ends.

        Ended rows also come with `terminal_observation` and `TimeLimit.truncated`.
        """
        observation, reward, terminated, truncated, infos = self._listed.step(self._actions)
        ended = terminated | truncated
        rows = [told(info["final_info"] if end else info) for info, end in zip(infos, ended, strict=True)]
        for row in np.flatnonzero(ended).tolist():
            rows[row]["terminal_observation"] = infos[row]["final_obs"]
            rows[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        return observation, reward.astype(np.float32), ended, rows

    def close(self) -> None:
        """Let go of the caches."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The vector environment's attribute, once for each row."""
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set it for all rows: they share one environment."""
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method that returns one value for each row, such as `action_masks`."""
        values = getattr(self.env.unwrapped, method_name)(*args, **kwargs)
        return [values[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Rows are never wrapped one by one."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A picture of each row with `render_mode="rgb_array"`, else none."""
        pictures: Any = self.env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if pictures is None else list(pictures)


def together(options: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What stable-baselines3 keeps a row each, as one `options` of `reset`: the problem of each row.

    Raises:
        ConfigError: An option other than `problem`.
    """
    for name in {name for each in options for name in each} - {"problem"}:
        raise ConfigError(f"set_options: {name!r} is not an option of a row. There is 'problem', an index.")
    return {"problem": [each.get("problem") for each in options]} if any(options) else None


def told(info: Mapping[str, Any]) -> dict[str, Any]:
    """The info of a row without what an agent may not know, nor the ended episode's."""
    return {name: value for name, value in info.items() if name not in ("hindsight", "final_info", "final_obs")}


class Critic(nn.Module):
    """Value of an observation: an MLP on mean and maximum over slots, and the context."""

    def __init__(self, observation_space: spaces.Dict, hidden: int = 64) -> None:
        super().__init__()
        slots, context = observation_space["slots"].shape, observation_space["context"].shape
        assert slots is not None and context is not None
        self.net = nn.Sequential(nn.Linear(2 * slots[-1] + context[0], hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """[N, 1]."""
        slots = observation["slots"].flatten(1, -2)
        return self.net(torch.cat([slots.mean(1), slots.amax(1), observation["context"]], -1))


def slot_scorer(observation_space: spaces.Dict, hidden: int) -> Scorer:
    """A scorer of the observation's slot features, one MLP for all slots."""
    shape = observation_space["slots"].shape
    assert shape is not None
    layers, heads = (shape[0], shape[1]) if len(shape) == 4 else (1, 1)
    return Scorer(ScorerConfig(("features",), hidden, True, layers, heads, shape[-1]))


def slot_scores(scorer: Scorer, observation: dict[str, Tensor]) -> Tensor:
    """Keep scores of every slot of the observation, [N, slots]."""
    slots = observation["slots"]
    return scorer(slots.reshape(len(slots), 1, 1, -1, slots.shape[-1]))[:, 0, 0]


class SlotPolicy(ActorCriticPolicy):
    """Gaussian keep scores for `action="scores"`, with a scorer as the mean.

    Args:
        hidden: Width of the scorer.
        noise: Standard deviation of the scores at the start; learned.
    """

    def __init__(
        self, observation_space: spaces.Dict, action_space: spaces.Box, lr_schedule: Schedule, hidden: int = 32,
        noise: float = 0.3, **kwargs: Any,
    ) -> None:  # fmt: skip
        self._hidden, self._noise = hidden, noise
        super().__init__(observation_space, action_space, lr_schedule, ortho_init=False, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.observation_space, spaces.Dict)
        self.scorer = slot_scorer(self.observation_space, self._hidden)
        with torch.no_grad():
            self.scorer.w2.mul_(0.1)  # start near equal scores: noise decides at first
        self.critic = Critic(self.observation_space)
        self.log_std = nn.Parameter(torch.tensor(float(np.log(self._noise))))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _distribution(self, observation: Any) -> Distribution:
        mean = slot_scores(self.scorer, observation)
        return DiagGaussianDistribution(mean.shape[1]).proba_distribution(mean, self.log_std.expand_as(mean))

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [N, *action shape], values [N, 1], log-probabilities [N]."""
        distribution = self._distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        shaped = actions.reshape(-1, *(self.action_space.shape or ()))
        return shaped, self.critic(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values [N, 1], log-probabilities [N] and entropy [N] of actions taken before."""
        distribution = self._distribution(obs)
        return self.critic(obs), distribution.log_prob(actions.flatten(1)), distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values, [N, 1]."""
        return self.critic(obs)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """The Gaussian over keep scores."""
        return self._distribution(obs)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)[0]
