"""G-KV: by hand, over two decisions."""

from __future__ import annotations

from kv_agents.heuristics.gkv import GKV
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    LOGIT,
    MakeCache,
    MakeView,
    Memory,
    ReadOn,
    assert_scores,
    hand_cache,
    hits_cache,
    keep_everywhere,
    set_weights,
    slow_best_attention,
    slow_positions,
    slow_redundancy,
)
from test_rkv import KEYS, REDUNDANCY

from kv_gym.engine.slots import SlotView


def slow_gkv(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Memory: the importance of each position. The window is 8, of 16 and `evict_every` the smaller."""
    positions, local = slow_positions(view, b, layer, head), [0.0] * view.shape[-1]
    for back in range(8):
        row = slow_best_attention(view, b, layer, head, back)
        local = [total + share / 8 for total, share in zip(local, row, strict=True)]
    older = positions[:-8]
    for position, share in zip(older, local[:-8], strict=True):
        memory[position] = max(0.8 * memory.get(position, 0.0), share / max(local[:-8]))
    redundant = slow_redundancy(view, b, layer, head)[:-8]
    scores = [0.5 * memory[p] - 0.5 * r / max(redundant) for p, r in zip(older, redundant, strict=True)]
    return scores + [KEPT] * 8


def test_gkv_importance_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # the last query, maximum of the group, in 60ths: 24, 6, 24, 6, 6, 20
    scores = GKV(lam=1.0, n_obs=1).score(make_view(hits_cache(make_cache)))
    assert_scores(scores, [1.0, 0.25, 1.0, 0.25, 0.25, KEPT])
    # the one before: 6, 6, 36, 6, 6, 0; their means: 15, 6, 30, 6, 6, 10
    scores = GKV(lam=1.0).score(make_view(hits_cache(make_cache)))
    assert_scores(scores, [0.5, 0.2, 1.0, 0.2, KEPT, KEPT])


def test_gkv_redundancy_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 2, 5, 6], evict_every=1)
    cache.keys[0, 0, 0, :, :3] = KEYS
    expected = [-r / max(REDUNDANCY) for r in REDUNDANCY[:4]]  # zero queries: all slots are as important as the largest
    assert_scores(GKV(lam=0.0).score(make_view(cache)), [*expected, KEPT])
    cache.carried.clear()
    assert_scores(GKV().score(make_view(cache)), [*(0.5 + 0.5 * r for r in expected), KEPT])


def test_gkv_remembers_what_was_important(make_cache: MakeCache, make_view: MakeView, read_on: ReadOn) -> None:
    agent, cache = GKV(lam=1.0, n_obs=1), hits_cache(make_cache)
    agent.score(make_view(cache))
    view = read_on(make_view(cache), keep_everywhere(cache, [0, 2, 3, 5]))  # importance 1, 1, 1/4; none in the window
    cache.queries.zero_()
    set_weights(cache, 0, [1.0, 10.0, 5.0, 1.0, 1.0, 1.0])
    cache.queries[0, 0, :2, -1, 0] = LOGIT
    # now: 0.1, 1, 0.5, 0.1, 0.1; from before: 0.8, 0.8, 0.2
    assert_scores(agent.score(view), [0.8, 1.0, 0.5, 0.1, 0.1, KEPT])
