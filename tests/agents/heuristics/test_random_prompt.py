"""Random eviction that spares the prompt: by hand."""

from __future__ import annotations

from kv_agents.heuristics.random import Random
from kv_agents.heuristics.random_prompt import RandomPrompt
from slots_by_hand import MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_positions
from test_random import slow_random

from kv_gym.engine.slots import SlotView


def slow_random_prompt(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    draws, positions = slow_random(view, b, layer, head, memory), slow_positions(view, b, layer, head)
    return [draw + 1 if position < 6 else draw for draw, position in zip(draws, positions, strict=True)]


def test_random_prompt_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(hand_cache(make_cache, [0, 5, 6, 7], evict_every=1))  # the prompt is 0-5
    assert_scores(RandomPrompt().score(view) - Random().score(view), [1.0, 1.0, 0.0, 0.0])
