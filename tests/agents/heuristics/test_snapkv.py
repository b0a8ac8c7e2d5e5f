"""SnapKV while decoding: by hand."""

from __future__ import annotations

from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    MakeCache,
    MakeView,
    Memory,
    assert_scores,
    slow_keep_newest,
    slow_pool,
    slow_positions,
    slow_window,
    snapkv_cache,
)

from kv_gym.engine.slots import SlotView


def slow_snapkv(view: SlotView, b: int, layer: int, head: int, memory: Memory, n_obs: int = 8) -> list[float]:
    positions = slow_positions(view, b, layer, head)
    return slow_keep_newest(slow_pool(slow_window(view, b, layer, head, n_obs), positions, 3), n_obs)


def test_snapkv_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # slots 0-2 are one run; slot 3, at position 5, has no neighbour to pool with
    view = make_view(snapkv_cache(make_cache))
    assert_scores(SnapKV(n_obs=2, kernel=3).score(view), [4 / 16, 5 / 16, 5 / 16, 4 / 16, KEPT, KEPT])
    assert_scores(SnapKV(n_obs=2, kernel=5).score(view), [5 / 16, 5 / 16, 5 / 16, 4 / 16, KEPT, KEPT])
    assert_scores(SnapKV(n_obs=2, kernel=1).score(view), [3 / 16, 4 / 16, 5 / 16, 4 / 16, KEPT, KEPT])


def test_snapkv_keeps_all_when_the_window_is_everything(make_cache: MakeCache, make_view: MakeView) -> None:
    assert_scores(SnapKV(n_obs=8).score(make_view(snapkv_cache(make_cache))), [KEPT] * 6)
