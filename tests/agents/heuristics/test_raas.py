"""RaaS: by hand."""

from __future__ import annotations

import math

from kv_agents.heuristics.raas import RaaS
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    LOGIT,
    MakeCache,
    MakeView,
    Memory,
    ReadOn,
    assert_scores,
    hand_cache,
    keep_everywhere,
    set_weights,
    slow_best_attention,
    slow_positions,
    slow_seen,
)

from kv_gym.engine.slots import SlotView
from kv_gym.llm.cache import SlotCache


def slow_raas(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Memory: the stamp of each position."""
    positions = slow_positions(view, b, layer, head)
    for position in positions:
        memory.setdefault(position, position)
    for back in reversed(range(8)):
        row = slow_best_attention(view, b, layer, head, back)
        ranked = sorted(slow_seen(view, b, layer, head, back), key=lambda slot: -row[slot])
        for slot in ranked[: math.ceil(len(ranked) / 2)]:
            memory[positions[slot]] = int(view.text_length[b]) - 1 - back
    return [KEPT if position < 6 else memory[position] for position in positions]


def raas_cache(make_cache: MakeCache) -> SlotCache:
    """Six slots, the first of the prompt, two queries. The query at 11 ranks them 0 < 1 < 2 < 3 < 4.

    That at 12 gives them 6, 4.5, 3, 1.5, 1, 6 by its first query head and 1, 2, 3, 4, 5, 7 by its second, in 22nds.
    """
    cache = hand_cache(make_cache, [5, 8, 9, 10, 11, 12], evict_every=2)
    set_weights(cache, 0, [6.0, 4.5, 3.0, 1.5, 1.0, 6.0])
    set_weights(cache, 1, [1.0, 2.0, 3.0, 4.0, 5.0, 7.0])
    cache.queries[0, 0, :2, -2, 1] = LOGIT
    cache.queries[0, 0, 0, -1, 0] = cache.queries[0, 0, 1, -1, 1] = LOGIT
    return cache


def test_raas_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # 11 sees five slots and refreshes three: 2, 3, 4; 12 refreshes three of six: 5, 0, 4
    assert_scores(RaaS().score(make_view(raas_cache(make_cache))), [KEPT, 8.0, 11.0, 11.0, 12.0, 12.0])
    # a quarter: 11 refreshes two, 3 and 4, and 12 two, 5 and 0
    assert_scores(RaaS(share=0.25).score(make_view(raas_cache(make_cache))), [KEPT, 8.0, 9.0, 11.0, 11.0, 12.0])
    # no share: the best one all the same
    assert_scores(RaaS(share=0.0).score(make_view(raas_cache(make_cache))), [KEPT, 8.0, 9.0, 10.0, 11.0, 12.0])


def test_raas_stamps_stay_with_their_slots(make_cache: MakeCache, make_view: MakeView, read_on: ReadOn) -> None:
    cache = raas_cache(make_cache)
    RaaS().score(make_view(cache))
    view = read_on(make_view(cache), keep_everywhere(cache, [1, 2, 4, 5]))  # stamps 8, 11, 12, 12
    cache.queries.zero_()
    set_weights(cache, 0, [9.0, 1.0, 2.0, 3.0, 8.0, 4.0])
    cache.queries[0, 0, :2, -2:, 0] = LOGIT
    # 13 sees five slots and refreshes 0, 4 and 3, 14 three of six: 0, 4, 5
    assert_scores(RaaS().score(view), [14.0, 11.0, 12.0, 13.0, 14.0, 14.0])
