"""K-norm: by hand."""

from __future__ import annotations

import torch
from kv_agents.heuristics.knorm import KNorm
from slots_by_hand import MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_dot

from kv_gym.engine.slots import SlotView


def slow_knorm(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    return [-(slow_dot(key, key) ** 0.5) for key in view._cache.keys[layer, b, head].tolist()]


def test_knorm_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 4, 5], evict_every=1)
    cache.keys[0, 0, 0, :, :3] = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1.0, -2.0, 2.0], [0.0, -0.5, 0.0]])
    assert_scores(KNorm().score(make_view(cache)), [-5.0, 0.0, -3.0, -0.5])
