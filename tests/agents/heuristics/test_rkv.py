"""R-KV: by hand, with its redundancy."""

from __future__ import annotations

import math

import pytest
import torch
from kv_agents.heuristics import rkv
from kv_agents.heuristics.rkv import RKV, redundancy
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    MakeCache,
    MakeView,
    Memory,
    assert_scores,
    hand_cache,
    slow_keep_newest,
    slow_pool,
    slow_positions,
    slow_redundancy,
    slow_window,
)

from kv_gym.engine.slots import SlotView

KEYS = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 3, 0], [0.6, 0.8, 0], [0.3, 0, math.sqrt(0.91)]])
# Cosines with zero diagonal; in brackets the newest above 0.5 of each row, which is forgiven. The last row has none.
#   0     1    0    [0.6]  0.3
#   1     0    0    [0.6]  0.3
#   0     0    0    [0.8]  0
#   0.6   0.6 [0.8]  0     0.18
#   0.3   0.3  0     0.18  0
COLUMNS = [1.9 / 5, 1.9 / 5, 0.0, 0.18 / 5, 0.78 / 5]
REDUNDANCY = [math.exp(c) / sum(math.exp(d) for d in COLUMNS) for c in COLUMNS]


def slow_rkv(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    importance = slow_pool(slow_window(view, b, layer, head, 8), slow_positions(view, b, layer, head), 3)
    redundant = slow_redundancy(view, b, layer, head)
    return slow_keep_newest([0.1 * i - 0.9 * r for i, r in zip(importance, redundant, strict=True)], 8)


def test_redundancy_by_hand() -> None:
    assert [round(r, 4) for r in REDUNDANCY] == [0.2385, 0.2385, 0.1631, 0.1691, 0.1907]
    assert_scores(redundancy(KEYS[None, None, None], 0.5), REDUNDANCY)


def test_redundancy_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rkv, "BLOCK", 2)
    assert_scores(redundancy(KEYS[None, None, None], 0.5), REDUNDANCY)


def test_rkv_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 2, 5, 6], evict_every=1)
    cache.keys[0, 0, 0, :, :3] = KEYS
    # zero queries: the importance of the four slots before the window of one is 1/4
    expected = [0.1 * 0.25 - 0.9 * r for r in REDUNDANCY[:4]]
    assert_scores(RKV(n_obs=1).score(make_view(cache)), [*expected, KEPT])
