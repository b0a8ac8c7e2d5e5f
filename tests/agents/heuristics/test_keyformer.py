"""Keyformer: by hand, with and without its noise."""

from __future__ import annotations

import math

import pytest
import torch
from kv_agents.heuristics import keyformer
from kv_agents.heuristics.keyformer import Keyformer
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    LOGIT,
    MakeCache,
    MakeView,
    Memory,
    assert_scores,
    hand_cache,
    set_weights,
    slow_draws,
    slow_keep_newest,
    slow_logit,
    slow_positions,
    slow_seen,
    slow_softmax,
)
from torch import Tensor

from kv_gym.engine.slots import SlotView
from kv_gym.llm.cache import SlotCache


def slow_keyformer(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Memory: the sum of each position. Draws come layer by layer, then by query head, query and slot."""
    slots, positions = view.shape[-1], slow_positions(view, b, layer, head)
    draws = slow_draws(view, b, 2 * 4 * 8 * slots)
    tau = 1 + min(1.0, (int(view.text_length[b]) - 6) / (8 * 12))  # prompt 6, budget 12
    for q_head in (2 * head, 2 * head + 1):
        for query in range(8):
            seen, noisy = slow_seen(view, b, layer, head, 7 - query), []
            for slot in seen:
                draw = draws[((4 * layer + q_head) * 8 + query) * slots + slot]
                gumbel = -math.log(-math.log(draw))
                noisy.append((slow_logit(view, b, layer, q_head, 7 - query, slot) + gumbel) / tau)
            for slot, share in zip(seen, slow_softmax(noisy), strict=True):
                memory[positions[slot]] = memory.get(positions[slot], 0.0) + share / 2
    return slow_keep_newest([memory[position] for position in positions], 3)  # 30% of the budget


def keyformer_cache(make_cache: MakeCache, last: int, weights: list[float]) -> SlotCache:
    """Four slots, one query at `last`. The first query head weighs the slots, the second is uniform."""
    cache = hand_cache(make_cache, [0, 1, 4, last], evict_every=1)
    set_weights(cache, 0, weights)
    cache.queries[0, 0, 0, -1, 0] = LOGIT
    return cache


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The uniform draws, [N, L, H_kv, group, T, S]. exp(-1) is no noise: -log(-log(u)) = 0."""
    uniform = torch.full((1, 2, 2, 2, 1, 4), math.exp(-1))
    monkeypatch.setattr(keyformer, "draw", lambda slots, shape: uniform)
    return uniform


def test_keyformer_by_hand(make_cache: MakeCache, make_view: MakeView, noise: Tensor) -> None:
    # at the end of the prompt tau is 1: 1/8, 4/8, 2/8, 1/8 by the first query head, 1/4 each by the second
    cache = keyformer_cache(make_cache, 5, [1.0, 4.0, 2.0, 1.0])
    assert_scores(Keyformer().score(make_view(cache)), [3 / 16, 6 / 16, 4 / 16, 3 / 16])
    cache = keyformer_cache(make_cache, 5, [1.0, 4.0, 2.0, 1.0])
    # 34% of the budget of 3 is one slot
    assert_scores(Keyformer(recent=0.34).score(make_view(cache)), [3 / 16, 6 / 16, 4 / 16, KEPT])


def test_keyformer_noise_is_gumbel(make_cache: MakeCache, make_view: MakeView, noise: Tensor) -> None:
    noise[0, 0, 0, 1, 0, 2] = math.exp(-0.5)  # adds log 2: the second query head has 1/5, 1/5, 2/5, 1/5
    cache = keyformer_cache(make_cache, 5, [1.0, 4.0, 2.0, 1.0])
    assert_scores(Keyformer().score(make_view(cache)), [13 / 80, 28 / 80, 26 / 80, 13 / 80])


@pytest.mark.parametrize("horizon, power", [(1, 2), (4, 2), (8, 1.5), (0, 1 + 4 / 24)])
def test_keyformer_temperature_rises_to_2(
    horizon: int, power: float, make_cache: MakeCache, make_view: MakeView, noise: Tensor
) -> None:
    # four generated tokens; weights of 1, 2, 3 and 4 after the root
    cache = keyformer_cache(make_cache, 9, [1.0, 2.0**power, 3.0**power, 4.0**power])
    expected = [(0.1 + 0.25) / 2, (0.2 + 0.25) / 2, (0.3 + 0.25) / 2, (0.4 + 0.25) / 2]
    assert_scores(Keyformer(horizon=horizon).score(make_view(cache)), expected)


def test_keyformer_adds_up(make_cache: MakeCache, make_view: MakeView, noise: Tensor) -> None:
    view = make_view(keyformer_cache(make_cache, 5, [1.0, 4.0, 2.0, 1.0]))
    Keyformer().score(view)
    assert_scores(Keyformer().score(view), [6 / 16, 12 / 16, 8 / 16, 6 / 16])
