"""The full cache has no scores."""

from __future__ import annotations

import pytest
from kv_agents.heuristics.full import FullCache
from slots_by_hand import MakeCache, MakeView


def test_full_refuses_to_score(make_cache: MakeCache, make_view: MakeView) -> None:
    assert not FullCache.evicts
    with pytest.raises(TypeError, match="reference generation"):
        FullCache().score(make_view(make_cache()))
