"""StreamingLLM: by hand."""

from __future__ import annotations

from kv_agents.heuristics.streaming import Streaming
from kv_agents.heuristics.window import KEPT
from slots_by_hand import MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_positions

from kv_gym.engine.slots import SlotView


def slow_streaming(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    return [KEPT if position in (0, 1, 2, 3) else position for position in slow_positions(view, b, layer, head)]


def test_streaming_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(hand_cache(make_cache, [0, 1, 4, 5, 9], evict_every=1))
    assert_scores(Streaming(n_sink=2).score(view), [KEPT, KEPT, 4.0, 5.0, 9.0])
    assert_scores(Streaming(n_sink=5).score(view), [KEPT, KEPT, KEPT, 5.0, 9.0])
    assert_scores(Streaming(n_sink=0).score(view), [0.0, 1.0, 4.0, 5.0, 9.0])
