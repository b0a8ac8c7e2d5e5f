"""Golden Eviction as agents. (Their scores are tested in tests/kv_gym/engine/test_golden.py.)"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.golden import Golden, GoldenSum

from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError
from kv_gym.llm.cache import SlotCache


def test_golden_by_hand(make_cache: Callable[..., SlotCache], make_view: Callable[..., SlotView]) -> None:
    view = make_view(make_cache(n=1, budget=2, evict_every=1))
    assert view.hindsight is not None
    view.hindsight.future[0, 0, 0] = torch.tensor([0.3, 0.1, 0.2])
    view.hindsight.total[0, 0, 0] = torch.tensor([0.4, 0.3, 0.5])
    assert Golden().score(view)[0, 0, 0].tolist() == pytest.approx([0.3, 0.1, 0.2], abs=1e-6)
    assert GoldenSum().score(view)[0, 0, 0].tolist() == pytest.approx([0.4, 0.3, 0.5], abs=1e-6)


@pytest.mark.parametrize("agent", [Golden(), GoldenSum()], ids=["golden", "golden-sum"])
def test_golden_says_that_hindsight_is_missing(
    agent: Agent, make_cache: Callable[..., SlotCache], make_view: Callable[..., SlotView]
) -> None:
    view = make_view(make_cache())
    view.hindsight = None
    with pytest.raises(ConfigError, match=f"'{agent.name}' needs hindsight"):
        agent.score(view)
