"""H2O and its two remedies, per opportunity and decayed: by hand."""

from __future__ import annotations

import torch
from kv_agents.heuristics.h2o import H2O, H2ODecayed, H2OMean
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    MakeCache,
    MakeView,
    Memory,
    assert_scores,
    decayed_of,
    hand_cache,
    slow_keep_newest,
    slow_positions,
    total_of,
)

from kv_gym.engine.slots import SlotView


def slow_h2o(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    first, second = total_of(view._cache)[layer, b, head].tolist()
    return slow_keep_newest([(x + y) / 2 for x, y in zip(first, second, strict=True)], 6)  # budget 12


def slow_h2o_mean(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    read = int(view.text_length[b])
    sums, positions = slow_h2o(view, b, layer, head, memory), slow_positions(view, b, layer, head)
    return slow_keep_newest([x / (read - position) for x, position in zip(sums, positions, strict=True)], 6)


def slow_h2o_decayed(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    read, scores = int(view.text_length[b]), []
    first, second = decayed_of(view._cache)[layer, b, head].tolist()
    for x, y, position in zip(first, second, slow_positions(view, b, layer, head), strict=True):
        scores.append((x + y) / 2 / sum(0.9 ** ((read - 1 - when) / 16) for when in range(position, read)))
    return slow_keep_newest(scores, 6)


def test_h2o_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 4, 5, 8, 9], evict_every=1)  # budget 5: its recent half is 2
    total_of(cache)[0, 0, 0] = torch.tensor([[3.0, 1.0, 0.5, 0.5, 9.0, 9.0], [1.0, 0.0, 1.5, 0.5, 9.0, 9.0]])
    assert_scores(H2O().score(make_view(cache)), [2.0, 0.5, 1.0, 0.5, KEPT, KEPT])


def test_h2o_with_budget_one_has_no_recent_half(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1], evict_every=1)
    total_of(cache)[0, 0, 0] = torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    assert_scores(H2O().score(make_view(cache)), [2.0, 0.5])


def test_h2o_mean_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 4, 5, 8, 9], evict_every=1)
    total_of(cache)[0, 0, 0] = torch.tensor([[3.0, 1.0, 0.5, 0.5, 9.0, 9.0], [1.0, 0.0, 1.5, 0.5, 9.0, 9.0]])
    # ten tokens were read: slot 0 stood before 10 queries, those at 1, 4 and 5 before 9, 6 and 5
    assert_scores(H2OMean().score(make_view(cache)), [2 / 10, 0.5 / 9, 1 / 6, 0.5 / 5, KEPT, KEPT])


def test_h2o_decayed_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 16, 32, 33], evict_every=1)  # budget 3: its recent half is 1
    total_of(cache)[:] = 100.0  # does not count
    decayed_of(cache)[0, 0, 0] = torch.tensor([[3.0, 1.0, 0.6, 9.0], [1.0, 3.0, 0.2, 9.0]])
    # ones, decayed by w = 0.9 ** (1 / 16) a query: 34, 18 and 2 of them; w ** 16 = 0.9, w ** 32 = 0.81
    w = 0.9 ** (1 / 16)
    counts = [(1 - 0.81 * w * w) / (1 - w), (1 - 0.9 * w * w) / (1 - w), 1 + w]
    assert [round(count, 4) for count in counts] == [30.5631, 17.0301, 1.9934]
    assert_scores(H2ODecayed().score(make_view(cache)), [2 / 30.5631, 2 / 17.0301, 0.4 / 1.9934366, KEPT])
