"""CriticalKV on SnapKV: by hand."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from kv_agents.heuristics.criticalkv import CriticalKV, output_norms
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    MakeCache,
    MakeView,
    Memory,
    ReadOn,
    assert_scores,
    keep_everywhere,
    slow_dot,
    slow_keep_newest,
    snapkv_cache,
)
from test_snapkv import slow_snapkv

from kv_gym.engine.slots import SlotView

WINDOW = 4  # half of the budget of 12 holds two more slots than this window


def slow_criticalkv(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    attention = slow_snapkv(view, b, layer, head, memory, WINDOW)[:-WINDOW]
    # pooling makes equals of neighbours: the newer ones come first
    best = sorted(range(len(attention)), key=lambda slot: (attention[slot], slot), reverse=True)[: 12 // 2 - WINDOW]
    weight = view._llm.model.model.layers[layer].self_attn.o_proj.weight.tolist()  # [hidden, H_q * D]
    scores = []
    for slot, value in enumerate(view._cache.values[layer, b, head].tolist()[:-WINDOW]):
        norms = [
            sum(abs(slow_dot(row[8 * q_head : 8 * q_head + 8], value)) for row in weight)
            for q_head in (2 * head, 2 * head + 1)
        ]
        scores.append(KEPT if slot in best else (attention[slot] + 1e-4) * sum(norms) / 2)
    return slow_keep_newest([*scores, *[0.0] * WINDOW], WINDOW)


def hand_view(make_cache: MakeCache, make_view: MakeView) -> SlotView:
    """SnapKV's six slots with an output projection that gives values (a, b) the norm 3 |a| + 4 |b|."""
    cache = snapkv_cache(make_cache)
    view = make_view(cache)
    weights = torch.zeros(2, 2, 2, 8, 32)
    weights[0, 0, 0, 0, :3] = torch.tensor([1.0, -2.0, 3.0])  # the first query head: 6 |a|
    weights[0, 0, 1, 1, :2] = torch.tensor([4.0, -4.0])  # the second: 8 |b|
    view._llm = SimpleNamespace(output_weights=weights)
    cache.values[0, 0, 0, :, :2] = torch.tensor([[1.0, 0], [0, 1], [0, 0.5], [2, -1], [0, 0], [5, 0]])
    return view


def test_output_norms_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    assert_scores(output_norms(hand_view(make_cache, make_view)), [3.0, 4.0, 2.0, 10.0, 0.0, 15.0])


def test_criticalkv_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # SnapKV gives 3, 4, 5, 4 sixteenths and keeps its window of two. Budget 4; eps is another sixteenth.
    view = hand_view(make_cache, make_view)
    agent = CriticalKV(n_obs=2, kernel=1, first=0.5, eps=1 / 16)  # the window fills the first half
    assert_scores(agent.score(view), [3 * 4 / 16, 4 * 5 / 16, 2 * 6 / 16, 10 * 5 / 16, KEPT, KEPT])
    agent = CriticalKV(n_obs=2, kernel=1, first=0.75, eps=1 / 16)  # one slot more: the best by attention
    assert_scores(agent.score(view), [3 * 4 / 16, 4 * 5 / 16, KEPT, 10 * 5 / 16, KEPT, KEPT])
    agent = CriticalKV(n_obs=2, kernel=1, first=0.25, eps=0.0)  # the window stays though it is more than the share
    assert_scores(agent.score(view), [3 * 3 / 16, 4 * 4 / 16, 2 * 5 / 16, 10 * 4 / 16, KEPT, KEPT])


def test_criticalkv_takes_the_newer_of_equals(make_cache: MakeCache, make_view: MakeView) -> None:
    # pooled, slots 1 and 2 share the best score; the first share has room for one of them
    scores = CriticalKV(n_obs=2, kernel=3, first=0.75, eps=0.0).score(hand_view(make_cache, make_view))
    assert_scores(scores, [3 * 4 / 16, 4 * 5 / 16, KEPT, 10 * 4 / 16, KEPT, KEPT])


def test_criticalkv_norms_move_with_their_slots(make_cache: MakeCache, make_view: MakeView, read_on: ReadOn) -> None:
    view = hand_view(make_cache, make_view)
    llm, cache = view._llm, view._cache
    output_norms(view)
    view = read_on(view, keep_everywhere(cache, [0, 2, 3, 5]))
    view._llm = llm
    cache.values[0, 0, 0, 4:] = 0.0
    cache.values[0, 0, 0, 4, 1], cache.values[0, 0, 0, 5, 0] = 2.0, 1.0
    assert_scores(output_norms(view), [3.0, 2.0, 10.0, 15.0, 8.0, 3.0])
