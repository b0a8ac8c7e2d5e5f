"""What methods with an observation window share: its scores, pooling, and which slots it attends to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.heuristics.criticalkv import CriticalKV
from kv_agents.heuristics.gkv import GKV
from kv_agents.heuristics.rkv import RKV
from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.heuristics.window import attended, pool_runs, window_scores
from slots_by_hand import MakeCache, MakeView, assert_scores, hits_cache, snapkv_cache

from kv_gym.errors import ConfigError


def test_window_scores_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # last query: 1/8, 2/8, 3/8, 2/8; the one before it is zero: 1/4 each
    view = make_view(snapkv_cache(make_cache))
    assert_scores(window_scores(view, 2), [3 / 16, 4 / 16, 5 / 16, 4 / 16, 0.0, 0.0])


def test_attended_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    hits, seen = attended(make_view(hits_cache(make_cache)), 1.0)
    assert hits.dtype == seen.dtype == torch.bool
    assert seen[0, 0, 0].tolist() == [[True] * 5 + [False], [True] * 6]
    assert hits[0, 0, 0].tolist() == [
        [False, False, True, False, False, False],
        [True, False, True, False, False, True],
    ]
    hits, _ = attended(make_view(hits_cache(make_cache)), 2.2)
    assert hits[0, 0, 0].nonzero().tolist() == [[0, 2], [1, 0], [1, 2]]
    hits, _ = attended(make_view(hits_cache(make_cache)), 0.55)
    assert hits[0, 0, 0].sum(-1).tolist() == [1, 6]


@pytest.mark.parametrize(
    "kernel, expected", [(1, [1, 5, 2, 3, 4]), (3, [5, 5, 5, 4, 4]), (5, [5, 5, 5, 4, 4]), (99, [5, 5, 5, 4, 4])]
)
def test_pool_runs_by_hand(kernel: int, expected: list[float]) -> None:
    positions = torch.tensor([2, 3, 4, 8, 9])  # two runs: slots 0-2 and 3-4
    pooled = pool_runs(torch.tensor([1.0, 5.0, 2.0, 3.0, 4.0]), positions, kernel)
    assert pooled.tolist() == expected


@pytest.mark.parametrize("kernel, expected", [(3, [9, 9, 1, 1, 8, 8]), (5, [9, 9, 9, 8, 8, 8])])
def test_pool_runs_reaches_half_a_kernel(kernel: int, expected: list[float]) -> None:
    pooled = pool_runs(torch.tensor([9.0, 0.0, 1.0, 0.0, 0.0, 8.0]), torch.arange(6), kernel)
    assert pooled.tolist() == expected


def test_pool_runs_takes_negative_scores() -> None:
    pooled = pool_runs(torch.tensor([-1.0, -5.0, -2.0]), torch.tensor([0, 1, 9]), 3)
    assert pooled.tolist() == [-1.0, -1.0, -2.0]


@pytest.mark.parametrize("agent_class", [SnapKV, RKV, CriticalKV])
def test_window_options_are_checked(
    agent_class: Callable[..., Agent], make_cache: MakeCache, make_view: MakeView
) -> None:
    with pytest.raises(ConfigError, match="odd kernel"):
        agent_class(kernel=4)
    with pytest.raises(ConfigError, match="n_obs >= 1"):
        agent_class(n_obs=0)
    with pytest.raises(ConfigError, match="33 queries were asked for; the cache keeps 32"):
        agent_class(n_obs=33).score(make_view(make_cache()))


def test_window_of_gkv_is_checked() -> None:
    with pytest.raises(ConfigError, match="n_obs >= 1"):
        GKV(n_obs=-1)
