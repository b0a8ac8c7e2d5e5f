"""What an observation holds: one flat Dict of arrays of fixed shape.

`protected` is a Box of 0 and 1: libraries that normalise or stack observations take boxes alone, and some know no
MultiBinary of several axes.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from kv_gym.config import EnvConfig
from kv_gym.engine.eviction import Granularity
from kv_gym.engine.features import COLUMNS, CONTEXT, LIMIT, context_features, slot_features
from kv_gym.engine.slots import SlotView
from kv_gym.envs.actions import collapse
from kv_gym.llm.cache import CacheShape

KV_LIMIT = 65504.0
"""Keys and values are clipped to the range of float16; checkers warn about boxes without bounds."""

Observation = dict[str, np.ndarray]


def make_observation_space(config: EnvConfig, llm: CacheShape, shape: tuple[int, ...]) -> spaces.Dict:
    """Return the observation space of one episode.

    Args:
        config: Settings of the env.
        llm: Sizes of the model.
        shape: From `decision_shape`.
    """
    parts: dict[str, spaces.Space] = {
        "slots": spaces.Box(-LIMIT, LIMIT, (*shape, len(COLUMNS)), np.float32),
        "context": spaces.Box(-LIMIT, LIMIT, (len(CONTEXT),), np.float32),
        "protected": spaces.Box(0, 1, shape, np.int8),
    }
    if config.observe_kv:
        for name in ("keys", "values"):
            size = (llm.n_layers, llm.n_kv_heads, config.slots, llm.head_dim)
            parts[name] = spaces.Box(-KV_LIMIT, KV_LIMIT, size, np.float32)
    return spaces.Dict(parts)


@torch.no_grad()
def observe(view: SlotView, config: EnvConfig) -> Observation:
    """Return the observations of N episodes, each array with N in front. Nothing is shared with the engine.

    Args:
        view: What the engine shows.
        config: Settings of the env.
    """
    parts = {
        "slots": mean_shared(slot_features(view), config.shared),
        "context": context_features(view, config.max_new_tokens),
        "protected": collapse(view.protected, config.shared).to(torch.int8),
    }
    if config.observe_kv:
        parts["keys"] = view.keys.float().clamp(-KV_LIMIT, KV_LIMIT)
        parts["values"] = view.values.float().clamp(-KV_LIMIT, KV_LIMIT)
    return {name: own_array(tensor) for name, tensor in parts.items()}


def mean_shared(features: Tensor, granularity: Granularity) -> Tensor:
    """Mean over the heads, or layers and heads, that decide together, [N, L, H_kv, S, F] -> [N, *AXES, F]."""
    if granularity == "head":
        return features
    return features.mean(2 if granularity == "layer" else (1, 2))


def own_array(tensor: Tensor) -> np.ndarray:
    """Copy a tensor into an array that shares memory with nothing."""
    return np.array(tensor.cpu().numpy(), order="C")


def select_row(observation: Observation, row: int) -> Observation:
    """Copy the observation of one episode out of a batch."""
    return {name: array[row].copy() for name, array in observation.items()}
