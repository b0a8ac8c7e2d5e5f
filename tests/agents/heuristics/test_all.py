"""What holds for all agents: slow versions agree, batches do not matter, and state follows slots and episodes."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from pathlib import Path

import kv_agents.heuristics
import pytest
import torch
from kv_agents.base import Agent
from kv_agents.golden import Golden, GoldenSum
from kv_agents.heuristics.criticalkv import CriticalKV
from kv_agents.heuristics.expected_attention import ExpectedAttention
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.gkv import GKV
from kv_agents.heuristics.h2o import H2O, H2ODecayed, H2OMean
from kv_agents.heuristics.keydiff import KeyDiff
from kv_agents.heuristics.keyformer import Keyformer
from kv_agents.heuristics.knorm import KNorm
from kv_agents.heuristics.lagkv import LagKV
from kv_agents.heuristics.lazy_eviction import LazyEviction
from kv_agents.heuristics.raas import RaaS
from kv_agents.heuristics.random import Random
from kv_agents.heuristics.random_prompt import RandomPrompt
from kv_agents.heuristics.rkv import RKV
from kv_agents.heuristics.scissorhands import Scissorhands
from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.heuristics.streaming import Streaming
from kv_agents.heuristics.tova import TOVA
from slots_by_hand import MakeCache, MakeView, Memory, ReadOn, Slow, TakeRow, hindsight_of
from test_criticalkv import WINDOW, slow_criticalkv
from test_expected_attention import slow_expected_attention
from test_gkv import slow_gkv
from test_h2o import slow_h2o, slow_h2o_decayed, slow_h2o_mean
from test_keydiff import slow_keydiff
from test_keyformer import slow_keyformer
from test_knorm import slow_knorm
from test_lagkv import slow_lagkv
from test_lazy_eviction import slow_lazy_eviction
from test_raas import slow_raas
from test_random import slow_random
from test_random_prompt import slow_random_prompt
from test_rkv import slow_rkv
from test_scissorhands import slow_scissorhands
from test_snapkv import slow_snapkv
from test_streaming import slow_streaming
from test_tova import slow_tova
from torch import Tensor

from kv_gym.engine.eviction import slots_to_keep
from kv_gym.engine.slots import Hindsight, SlotView
from kv_gym.errors import ConfigError


def slow_golden(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    return hindsight_of(view).future[b, layer, head].tolist()


def slow_golden_sum(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    return hindsight_of(view).total[b, layer, head].tolist()


PAIRS: list[tuple[Agent, Slow]] = [
    (Random(), slow_random),
    (RandomPrompt(), slow_random_prompt),
    (Streaming(), slow_streaming),
    (H2O(), slow_h2o),
    (H2OMean(), slow_h2o_mean),
    (H2ODecayed(), slow_h2o_decayed),
    (Scissorhands(), slow_scissorhands),
    (TOVA(), slow_tova),
    (SnapKV(), slow_snapkv),
    (Keyformer(), slow_keyformer),
    (RKV(), slow_rkv),
    (KNorm(), slow_knorm),
    (KeyDiff(), slow_keydiff),
    (LagKV(), slow_lagkv),
    (ExpectedAttention(), slow_expected_attention),
    (RaaS(), slow_raas),
    (LazyEviction(), slow_lazy_eviction),
    (GKV(), slow_gkv),
    (CriticalKV(n_obs=WINDOW), slow_criticalkv),
    (Golden(), slow_golden),
    (GoldenSum(), slow_golden_sum),
]
AGENTS = [agent for agent, _ in PAIRS]
ids = [agent.name for agent in AGENTS]
BLIND = [agent for agent in AGENTS if not agent.uses_hindsight]


def choose(agent: Agent, view: SlotView) -> Tensor:
    """The slots that stay."""
    return slots_to_keep(agent.score(view), view.protected, view.evict_every)


def slow_scores(slow: Slow, view: SlotView, memories: dict[tuple[int, int, int], Memory]) -> Tensor:
    """The slow version for every head, each with its own memory."""
    n, layers, heads, _ = view.shape
    return torch.tensor(
        [
            [[slow(view, b, layer, head, memories[b, layer, head]) for head in range(heads)] for layer in range(layers)]
            for b in range(n)
        ]
    )


def share_hindsight(view: SlotView, row: int, alone: SlotView) -> None:
    """Give a row alone what its row in the batch knows: it is drawn for a whole batch."""
    known = hindsight_of(view)
    alone.hindsight = Hindsight(known.future[row : row + 1], known.total[row : row + 1])


def assert_close(scores: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-6)


def test_every_heuristic_is_tested_here() -> None:
    found = set()
    for module in pkgutil.iter_modules(kv_agents.heuristics.__path__):
        contents = vars(importlib.import_module(f"kv_agents.heuristics.{module.name}")).values()
        found |= {x for x in contents if isinstance(x, type) and issubclass(x, Agent) and "name" in vars(x)}
        test = Path(__file__).parent / f"test_{module.name}.py"
        assert test.exists(), f"{module.name} has no test of its own: write {test}, with scores worked out by hand"
    missing = [kind.__name__ for kind in found - {FullCache} - {type(agent) for agent in BLIND}]
    assert not missing, f"add {', '.join(missing)} to BLIND above, so that what all agents promise is tested of it"


@pytest.mark.parametrize("agent, slow", PAIRS, ids=ids)
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_the_slow_version(
    agent: Agent, slow: Slow, seed: int, make_cache: MakeCache, make_view: MakeView
) -> None:
    view = make_view(make_cache(n=2, seed=seed))
    assert_close(agent.score(view), slow_scores(slow, view, defaultdict(dict)))


@pytest.mark.parametrize("agent, slow", PAIRS, ids=ids)
def test_scores_equal_the_slow_version_from_decision_to_decision(
    agent: Agent, slow: Slow, make_cache: MakeCache, make_view: MakeView, read_on: ReadOn
) -> None:
    """Four decisions; before the third, the second of two rows ends and a new episode takes its place."""
    view = make_view(make_cache(n=2, lengths=[20, 43]), decisions=[0, 0])
    memories: dict[tuple[int, int, int], Memory] = defaultdict(dict)
    for decision in range(4):
        if decision == 2:
            view._cache.put(torch.tensor([1]), make_cache(n=1, lengths=[20], seed=5))
            view = make_view(view._cache, seeds=[100, 555], decisions=[2, 0])
            memories = defaultdict(dict, {where: memory for where, memory in memories.items() if where[0] == 0})
        expected = slow_scores(slow, view, memories)
        scores = agent.score(view)
        assert_close(scores, expected)
        view = read_on(view, slots_to_keep(scores, view.protected, view.evict_every))


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_scores_do_not_depend_on_the_batch(
    agent: Agent, make_cache: MakeCache, make_view: MakeView, take_row: TakeRow, read_on: ReadOn
) -> None:
    view = make_view(make_cache(n=3, lengths=[20, 20, 43]), decisions=[0, 0, 0])
    alone = [take_row(view, row) for row in range(3)]
    for _ in range(3):
        together = agent.score(view)
        for row in range(3):
            assert_close(together[row : row + 1], agent.score(alone[row]))
        keep = slots_to_keep(together, view.protected, view.evict_every)
        view = read_on(view, keep)
        alone = [read_on(alone[row], keep[row : row + 1]) for row in range(3)]
        for row in range(3):
            share_hindsight(view, row, alone[row])


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_a_new_episode_starts_from_nothing_and_the_others_go_on(
    agent: Agent, make_cache: MakeCache, make_view: MakeView, take_row: TakeRow, read_on: ReadOn
) -> None:
    view = make_view(make_cache(n=3), decisions=[0, 0, 0])
    for _ in range(2):
        view = read_on(view, choose(agent, view))
    undisturbed = [take_row(view, row) for row in range(3)]
    view._cache.put(torch.tensor([1]), make_cache(n=1, lengths=[20], seed=5))
    view = make_view(view._cache, seeds=[100, 555, 102], decisions=[2, 0, 2])
    fresh = make_view(make_cache(n=1, lengths=[20], seed=5), seeds=[555], decisions=[0])
    share_hindsight(view, 1, fresh)
    scores = agent.score(view)
    for row, other in enumerate([undisturbed[0], fresh, undisturbed[2]]):
        assert_close(scores[row : row + 1], agent.score(other))


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_scores_are_finite_float32_in_half_precision(agent: Agent, make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(dtype=torch.bfloat16))
    scores = agent.score(view)
    assert scores.shape == view.shape and scores.dtype == torch.float32 and scores.isfinite().all()


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_scores_leave_the_slots_alone(agent: Agent, make_cache: MakeCache, make_view: MakeView) -> None:
    """An agent's own state, `carry` and `memory`, is all that it may change."""
    cache = make_cache()
    slots = [cache.keys, cache.values, cache.positions, cache.queries, cache.query_positions]
    slots += list(cache.statistics.values())
    before = [tensor.clone() for tensor in slots]
    agent.score(make_view(cache))
    assert all(torch.equal(*pair) for pair in zip(before, slots, strict=True))


def recall(agent: Agent, view: SlotView) -> Tensor:
    """Share of the future attention that goes to kept slots, [N, L, H_kv]."""
    future = hindsight_of(view).future
    return future.gather(-1, choose(agent, view)).sum(-1) / future.sum(-1)


@pytest.mark.parametrize("agent", BLIND, ids=ids[: len(BLIND)])
def test_no_agent_recalls_more_future_attention_than_golden(
    agent: Agent, make_cache: MakeCache, make_view: MakeView
) -> None:
    for seed in range(5):
        view = make_view(make_cache(budget=24, seed=seed))
        best, other = recall(Golden(), view), recall(agent, view)
        assert (best >= other - 1e-6).all()
        assert best.mean() > other.mean() + 0.1  # by luck alone the others do not come near


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_agents_say_which_accumulators_they_need(agent: Agent, make_cache: MakeCache, make_view: MakeView) -> None:
    cache = make_cache()
    sums = {"h2o": "total_attention", "h2o-mean": "total_attention", "h2o-decayed": "decayed_attention"}
    assert agent.needs == ((sums[agent.name],) if agent.name in sums else ())
    cache.statistics = {name: cache.statistics[name] for name in agent.needs}
    agent.score(make_view(cache))
    cache.statistics = {}
    if agent.needs:
        with pytest.raises(ConfigError, match=f"needs = \\('{agent.needs[0]}',\\)"):
            agent.score(make_view(cache))
