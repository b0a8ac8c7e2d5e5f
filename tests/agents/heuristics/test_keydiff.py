"""KeyDiff: by hand."""

from __future__ import annotations

import math

import torch
from kv_agents.heuristics.keydiff import KeyDiff
from slots_by_hand import MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_dot

from kv_gym.engine.slots import SlotView


def slow_keydiff(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    keys = view._cache.keys[layer, b, head].tolist()
    unit = [[x / math.hypot(*key) for x in key] for key in keys]
    anchor = [sum(column) / len(unit) for column in zip(*unit, strict=True)]
    return [-slow_dot(key, anchor) / math.hypot(*key) / math.hypot(*anchor) for key in keys]


def test_keydiff_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 5], evict_every=1)
    # unit keys (1, 0), (1, 0), (0, 1): the anchor points along (2, 1), whatever their lengths
    cache.keys[0, 0, 0, :, :2] = torch.tensor([[1.0, 0.0], [20.0, 0.0], [0.0, 3.0]])
    assert_scores(KeyDiff().score(make_view(cache)), [-2 / 5**0.5, -2 / 5**0.5, -1 / 5**0.5])
