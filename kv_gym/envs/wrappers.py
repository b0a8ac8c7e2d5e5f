"""Wrappers for libraries that take less than Gymnasium allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper


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
