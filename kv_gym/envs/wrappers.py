"""Wrappers for libraries that take less than Gymnasium allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import VectorEnv, VectorWrapper


class FlatSlots(gymnasium.Wrapper[Any, Any, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """An environment whose observation is one vector, and whose scores are another: RLlib and Tianshou take that.

    `slots` come first, slot after slot, then `context`, then the others in the order of their names, so that a network
    can take slots out again: `vector[:wrapper.n_slots * wrapper.n_features].reshape(n_slots, n_features)`, where
    `n_slots` counts all that one decision is about. Infos are those of the environment, without hindsight. Actions
    of `action="scores"` are a vector of [-1, 1] too; those of other kinds are as they are.

    Args:
        env: A single environment.

    Attributes:
        n_slots: Slots in an observation; with `granularity="token"` S, else of all layers or heads as well.
        n_features: Numbers of each.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Dict), "the observation of a kv-gym environment is a Dict"
        self._names = sorted(space.spaces, key=lambda name: (name != "slots", name != "context", name))
        *_, self.n_features = space["slots"].shape or ()
        self.n_slots = flatdim(space["slots"]) // self.n_features
        bounds = [[np.ravel(getattr(_as_box(space[name]), end)) for name in self._names] for end in ("low", "high")]
        low, high = (np.concatenate(part).astype(np.float32) for part in bounds)
        self.observation_space = Box(low, high, dtype=np.float32)
        scores = env.action_space
        if isinstance(scores, Box):
            self.action_space = Box(scores.low.ravel(), scores.high.ravel(), dtype=np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's, flat."""
        observation, info = self.env.reset(**kwargs)
        return self._flat(observation), without_hindsight(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, flat."""
        scores = self.env.action_space
        if isinstance(scores, Box):
            action = np.asarray(action, np.float32).reshape(scores.shape)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._flat(observation), reward, terminated, truncated, without_hindsight(info)

    def _flat(self, observation: Mapping[str, Any]) -> Any:
        return np.concatenate([np.ravel(observation[name]) for name in self._names], dtype=np.float32)


def _as_box(space: gymnasium.Space[Any]) -> Box:
    """The bounds of a space of numbers; of bits, 0 and 1."""
    return space if isinstance(space, Box) else Box(0, 1, space.shape, np.float32)


def without_hindsight(info: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent may see."""
    return {name: value for name, value in info.items() if name != "hindsight"}


class NumericInfo(VectorWrapper):
    """A vector environment whose infos are arrays of numbers, one a row, and nothing else.

    Dicts in dicts become names with a stroke, such as `reward_terms/correct`; texts and hindsight are left out. What
    an ended row ended with keeps its place in `final_obs` and `final_info`. TorchRL's `GymWrapper` needs that for rows
    that start anew by themselves; it takes a single environment, and `autoreset_mode="Disabled"`, as they are.

    Args:
        env: The vector environment.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.autoreset_mode = env.metadata["autoreset_mode"]  # TorchRL asks for the attribute

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's, with the other infos."""
        observation, infos = self.env.reset(**kwargs)
        return observation, numeric(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's, with the other infos."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        return observation, reward, terminated, truncated, numeric(infos)


def numeric(infos: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The numbers of infos, under names that begin with `before`; and, with a line in front, which rows have them."""
    found: dict[str, Any] = {}
    for name, value in infos.items():
        if name.startswith("_"):  # the mask of another name
            continue
        if name in ("final_obs", "final_info"):
            found[name] = numeric(value) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping) and name != "hindsight":
            found |= numeric(value, f"{before}{name}/")
            continue
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            found[before + name] = value
        else:
            continue
        if f"_{name}" in infos:
            found[f"_{before}{name}"] = infos[f"_{name}"]
    return found
