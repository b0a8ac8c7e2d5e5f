"""Random eviction: by hand, and what its draws depend on."""

from __future__ import annotations

import numpy as np
import torch
from kv_agents.heuristics.random import Random
from slots_by_hand import MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_draws

from kv_gym.engine.slots import SlotView


def slow_random(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Its draws come one by one, layer by layer and head by head."""
    slots = view.shape[-1]
    return slow_draws(view, b, 4 * slots)[(2 * layer + head) * slots :][:slots]


def test_random_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 2, 5], evict_every=1)
    state = np.random.SeedSequence([7, 0]).generate_state(1)[0]
    assert state == 2083679832
    assert_scores(Random().score(make_view(cache, seeds=[7])), [0.4570639, 0.5911127, 0.5161383, 0.9366429])


def test_random_follows_seed_and_decision(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(n=4), seeds=[5, 5, 6, 5], decisions=[2, 2, 2, 3])
    first, same, other_seed, other_decision = Random().score(view)
    assert torch.equal(first, same)
    assert (first != other_seed).float().mean() > 0.9
    assert (first != other_decision).float().mean() > 0.9
    assert torch.equal(Random().score(view)[0], first)  # asked again


def test_random_draws_differ_between_layers_and_heads(make_cache: MakeCache, make_view: MakeView) -> None:
    heads = Random().score(make_view(make_cache(n=1))).flatten(0, 2)
    assert len(torch.unique(heads, dim=0)) == 4
    assert heads.min() >= 0 and heads.max() < 1 and abs(heads.mean() - 0.5) < 0.15
