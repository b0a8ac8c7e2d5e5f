"""Each agent by hand, against a slow version written with loops, and alone against in a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kv_agents.base import Agent
from kv_agents.golden import Golden
from kv_agents.heuristics import rkv
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.h2o import H2O
from kv_agents.heuristics.random import Random
from kv_agents.heuristics.random_prompt import RandomPrompt
from kv_agents.heuristics.rkv import RKV, redundancy
from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.heuristics.streaming import Streaming
from kv_agents.heuristics.tova import TOVA
from kv_agents.heuristics.window import KEPT, pool_runs, window_scores
from torch import Tensor

from kv_gym.errors import ConfigError
from kv_gym.eviction import slots_to_keep
from kv_gym.llm.cache import SlotCache
from kv_gym.slots import SlotView

MakeCache = Callable[..., SlotCache]
MakeView = Callable[..., SlotView]
TakeRow = Callable[[SlotView, int], SlotView]

AGENTS = [Random(), RandomPrompt(), Streaming(), H2O(), SnapKV(), TOVA(), RKV(), Golden()]
ids = [agent.name for agent in AGENTS]
LOGIT = math.sqrt(8)  # a query of this length along a key's axis makes the key's entry the logit: scale is 1 / sqrt(8)


def total_of(cache: SlotCache) -> Tensor:
    assert cache.statistics is not None
    return cache.statistics.total


def future_of(view: SlotView) -> Tensor:
    assert view.hindsight is not None
    return view.hindsight.future


# ---- by hand


def hand_cache(make_cache: MakeCache, positions: list[int], evict_every: int) -> SlotCache:
    """One row whose heads all hold `positions`; zero keys and queries."""
    cache = make_cache(n=1, budget=len(positions) - evict_every, evict_every=evict_every)
    cache.keys.zero_()
    cache.queries.zero_()
    cache.positions[:] = torch.tensor(positions)
    length = positions[-1] + 1
    cache.query_positions[0] = torch.arange(length - cache.n_obs, length).clamp_min(-1)
    return cache


def expect(scores: Tensor, expected: list[float]) -> None:
    """The scores of row 0, layer 0, KV head 0."""
    torch.testing.assert_close(scores[0, 0, 0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_full_refuses_to_score(make_cache: MakeCache, make_view: MakeView) -> None:
    assert not FullCache.evicts
    with pytest.raises(TypeError, match="reference generation"):
        FullCache().score(make_view(make_cache()))


def test_random_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 2, 5], evict_every=1)
    state = np.random.SeedSequence([7, 0]).generate_state(1)[0]
    assert state == 2083679832
    expect(Random().score(make_view(cache, [6], seeds=[7])), [0.4570639, 0.5911127, 0.5161383, 0.9366429])


def test_random_prompt_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(hand_cache(make_cache, [0, 5, 6, 7], evict_every=1), [8])  # the prompt is 0-5
    expect(RandomPrompt().score(view) - Random().score(view), [1.0, 1.0, 0.0, 0.0])


def test_streaming_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(hand_cache(make_cache, [0, 1, 4, 5, 9], evict_every=1), [10])
    expect(Streaming(n_sink=2).score(view), [KEPT, KEPT, 4.0, 5.0, 9.0])
    expect(Streaming(n_sink=5).score(view), [KEPT, KEPT, KEPT, 5.0, 9.0])
    expect(Streaming(n_sink=0).score(view), [0.0, 1.0, 4.0, 5.0, 9.0])


def test_h2o_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 4, 5, 8, 9], evict_every=1)  # budget 5: its recent half is 2
    total_of(cache)[0, 0, 0] = torch.tensor([[3.0, 1.0, 0.5, 0.5, 9.0, 9.0], [1.0, 0.0, 1.5, 0.5, 9.0, 9.0]])
    expect(H2O().score(make_view(cache, [10])), [2.0, 0.5, 1.0, 0.5, KEPT, KEPT])


def test_h2o_with_budget_one_has_no_recent_half(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1], evict_every=1)
    total_of(cache)[0, 0, 0] = torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    expect(H2O().score(make_view(cache, [2])), [2.0, 0.5])


def snapkv_cache(make_cache: MakeCache) -> SlotCache:
    """Six slots, the last two the window. Maximum of the two query heads, last query: 1, 2, 3, 2 and 100 twice."""
    cache = hand_cache(make_cache, [0, 1, 2, 5, 6, 7], evict_every=2)
    cache.keys[0, 0, 0, :, 0] = torch.tensor([1.0, 2.0, 1.0, 1.0, 100.0, 100.0]).log()
    cache.keys[0, 0, 0, :, 1] = torch.tensor([1.0, 1.0, 3.0, 2.0, 100.0, 100.0]).log()
    cache.queries[0, 0, 0, -1, 0] = cache.queries[0, 0, 1, -1, 1] = LOGIT
    return cache


def test_window_scores_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # last query: 1/8, 2/8, 3/8, 2/8; the one before it is zero: 1/4 each
    expect(window_scores(make_view(snapkv_cache(make_cache), [8]), 2), [3 / 16, 4 / 16, 5 / 16, 4 / 16, 0.0, 0.0])


def test_snapkv_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # slots 0-2 are one run; slot 3, at position 5, has no neighbour to pool with
    view = make_view(snapkv_cache(make_cache), [8])
    expect(SnapKV(n_obs=2, kernel=3).score(view), [4 / 16, 5 / 16, 5 / 16, 4 / 16, KEPT, KEPT])
    expect(SnapKV(n_obs=2, kernel=5).score(view), [5 / 16, 5 / 16, 5 / 16, 4 / 16, KEPT, KEPT])
    expect(SnapKV(n_obs=2, kernel=1).score(view), [3 / 16, 4 / 16, 5 / 16, 4 / 16, KEPT, KEPT])


def test_snapkv_keeps_all_when_the_window_is_everything(make_cache: MakeCache, make_view: MakeView) -> None:
    expect(SnapKV(n_obs=8).score(make_view(snapkv_cache(make_cache), [8])), [KEPT] * 6)


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


def test_tova_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 3, 4], evict_every=1)
    cache.keys[0, 0, 0, :, 0] = torch.tensor([1.0, 1.0, 2.0]).log()  # KV head 0, query head 0: 1/4, 1/4, 2/4
    cache.queries[0, 0, 0, -1, 0] = LOGIT  # query heads 1 and 2: 1/3 each
    cache.keys[0, 0, 1, :, 1] = torch.tensor([6.0, 3.0, 3.0]).log()  # KV head 1, query head 3: 2/4, 1/4, 1/4
    cache.queries[0, 0, 3, -1, 1] = LOGIT
    cache.queries[..., :-1, :] = 5.0  # older queries do not count
    scores = TOVA().score(make_view(cache, [5]))
    expect(scores, [17 / 48, 14 / 48, 17 / 48])  # (1/4 + 1/3 + 1/3 + 2/4) / 4 and so on
    assert torch.equal(scores[:, :, 0], scores[:, :, 1])


KEYS = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 3, 0], [0.6, 0.8, 0], [0.3, 0, math.sqrt(0.91)]])
# Cosines with zero diagonal; in brackets the newest above 0.5 of each row, which is forgiven. The last row has none.
#   0     1    0    [0.6]  0.3
#   1     0    0    [0.6]  0.3
#   0     0    0    [0.8]  0
#   0.6   0.6 [0.8]  0     0.18
#   0.3   0.3  0     0.18  0
COLUMNS = [1.9 / 5, 1.9 / 5, 0.0, 0.18 / 5, 0.78 / 5]
REDUNDANCY = [math.exp(c) / sum(math.exp(d) for d in COLUMNS) for c in COLUMNS]


def test_redundancy_by_hand() -> None:
    assert [round(r, 4) for r in REDUNDANCY] == [0.2385, 0.2385, 0.1631, 0.1691, 0.1907]
    expect(redundancy(KEYS[None, None, None], 0.5), REDUNDANCY)


def test_redundancy_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rkv, "BLOCK", 2)
    expect(redundancy(KEYS[None, None, None], 0.5), REDUNDANCY)


def test_rkv_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 1, 2, 5, 6], evict_every=1)
    cache.keys[0, 0, 0, :, :3] = KEYS
    # zero queries: the importance of the four slots before the window of one is 1/4
    expected = [0.1 * 0.25 - 0.9 * r for r in REDUNDANCY[:4]]
    expect(RKV(n_obs=1).score(make_view(cache, [7])), [*expected, KEPT])


def test_golden_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(hand_cache(make_cache, [0, 1, 5], evict_every=1), [6])
    future_of(view)[0, 0, 0] = torch.tensor([0.3, 0.1, 0.2])
    expect(Golden().score(view), [0.3, 0.1, 0.2])


def test_golden_says_that_hindsight_is_missing(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache())
    view.hindsight = None
    with pytest.raises(ConfigError, match="needs hindsight"):
        Golden().score(view)


# ---- against slow versions: one head at a time, floats and loops only


def slow_softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [e / sum(exponentials) for e in exponentials]


def slow_logit(view: SlotView, b: int, layer: int, q_head: int, back: int, slot: int) -> float:
    """The logit of the query `back` tokens before the newest; query head h reads KV head h // 2."""
    query = view._cache.queries[layer, b, q_head, view._cache.n_obs - 1 - back].tolist()
    key = view._cache.keys[layer, b, q_head // 2, slot].tolist()
    return sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(8)


def slow_window(view: SlotView, b: int, layer: int, head: int, n_obs: int) -> list[float]:
    slots = view.shape[-1]
    importance = [0.0] * slots
    for back in range(n_obs):
        best = []
        for slot in range(slots - n_obs):
            best.append(max(slow_logit(view, b, layer, 2 * head + member, back, slot) for member in (0, 1)))
        for slot, share in enumerate(slow_softmax(best)):
            importance[slot] += share / n_obs
    return importance


def slow_pool(scores: list[float], positions: list[int], reach: int) -> list[float]:
    pooled = []
    for slot in range(len(scores)):
        best = scores[slot]
        for step in (-1, 1):
            other = slot
            while 0 <= other + step < len(scores) and abs(other + step - slot) <= reach:
                if positions[other + step] != positions[other] + step:
                    break  # tokens were evicted here
                other += step
                best = max(best, scores[other])
        pooled.append(best)
    return pooled


def slow_snapkv(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    positions = view.positions[b, layer, head].tolist()
    return slow_pool(slow_window(view, b, layer, head, 8), positions, 3)[:-8] + [KEPT] * 8


def slow_rkv(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    keys = view._cache.keys[layer, b, head].tolist()
    slots = len(keys)
    columns = [0.0] * slots
    for i in range(slots):
        row = []
        for j in range(slots):
            dot = sum(x * y for x, y in zip(keys[i], keys[j], strict=True))
            row.append(0.0 if i == j else dot / math.hypot(*keys[i]) / math.hypot(*keys[j]))
        for j in reversed(range(slots)):
            if row[j] > 0.5:
                row[j] = 0.0
                break
        columns = [total + cosine / slots for total, cosine in zip(columns, row, strict=True)]
    positions = view.positions[b, layer, head].tolist()
    importance = slow_pool(slow_window(view, b, layer, head, 8), positions, 3)
    redundant = slow_softmax(columns)
    return [0.1 * i - 0.9 * r for i, r in zip(importance, redundant, strict=True)][:-8] + [KEPT] * 8


def slow_tova(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    scores = [0.0] * view.shape[-1]
    for q_head in range(4):
        logits = [slow_logit(view, b, layer, q_head, 0, slot) for slot in range(len(scores))]
        scores = [score + share / 4 for score, share in zip(scores, slow_softmax(logits), strict=True)]
    return scores


def slow_h2o(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    first, second = total_of(view._cache)[layer, b, head].tolist()
    return [(x + y) / 2 for x, y in zip(first, second, strict=True)][:-6] + [KEPT] * 6  # budget 12


def slow_streaming(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    return [KEPT if position in (0, 1, 2, 3) else position for position in view.positions[b, layer, head].tolist()]


def slow_random(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    """Row b has seed 100 + b and decision b; its draws come one by one, layer by layer and head by head."""
    generator = torch.Generator()
    generator.manual_seed(int(np.random.SeedSequence([100 + b, b]).generate_state(1)[0]))
    slots = view.shape[-1]
    draws = [torch.rand((), generator=generator).item() for _ in range(4 * slots)]
    return draws[(2 * layer + head) * slots :][:slots]


def slow_random_prompt(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    draws, positions = slow_random(view, b, layer, head), view.positions[b, layer, head].tolist()
    return [draw + 1 if position < 6 else draw for draw, position in zip(draws, positions, strict=True)]


def slow_golden(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    return future_of(view)[b, layer, head].tolist()


SLOW = [slow_random, slow_random_prompt, slow_streaming, slow_h2o, slow_snapkv, slow_tova, slow_rkv, slow_golden]


@pytest.mark.parametrize("agent, slow", zip(AGENTS, SLOW, strict=True), ids=ids)
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_the_slow_version(
    agent: Agent, slow: Callable[..., list[float]], seed: int, make_cache: MakeCache, make_view: MakeView
) -> None:
    view = make_view(make_cache(n=2, seed=seed))
    expected = [[[slow(view, b, layer, head) for head in range(2)] for layer in range(2)] for b in range(2)]
    torch.testing.assert_close(agent.score(view), torch.tensor(expected), atol=1e-6, rtol=0)


# ---- what holds for all


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_scores_do_not_depend_on_the_batch(
    agent: Agent, make_cache: MakeCache, make_view: MakeView, take_row: TakeRow
) -> None:
    view = make_view(make_cache(n=3))
    together = agent.score(view)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], agent.score(take_row(view, row)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_scores_are_finite_float32_in_half_precision(agent: Agent, make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(dtype=torch.bfloat16))
    scores = agent.score(view)
    assert scores.shape == view.shape and scores.dtype == torch.float32 and scores.isfinite().all()


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_scores_leave_the_slots_alone(agent: Agent, make_cache: MakeCache, make_view: MakeView) -> None:
    cache = make_cache()
    before = [tensor.clone() for tensor in cache._batch_tensors()]
    agent.score(make_view(cache))
    assert all(torch.equal(*pair) for pair in zip(before, cache._batch_tensors(), strict=True))


def recall(agent: Agent, view: SlotView) -> Tensor:
    """Share of the future attention that goes to kept slots, [N, L, H_kv]."""
    keep = slots_to_keep(agent.score(view), view.protected, view.evict_every)
    future = future_of(view)
    return future.gather(-1, keep).sum(-1) / future.sum(-1)


@pytest.mark.parametrize("agent", AGENTS[:-1], ids=ids[:-1])
def test_no_agent_recalls_more_future_attention_than_golden(
    agent: Agent, make_cache: MakeCache, make_view: MakeView
) -> None:
    for seed in range(5):
        view = make_view(make_cache(budget=24, seed=seed))
        best, other = recall(Golden(), view), recall(agent, view)
        assert (best >= other - 1e-6).all()
        assert best.mean() > other.mean() + 0.1  # by luck alone the others do not come near


def test_random_follows_seed_and_decision(make_cache: MakeCache, make_view: MakeView) -> None:
    view = make_view(make_cache(n=4), seeds=[5, 5, 6, 5])
    view.decision[:] = torch.tensor([2, 2, 2, 3])
    first, same, other_seed, other_decision = Random().score(view)
    assert torch.equal(first, same)
    assert (first != other_seed).float().mean() > 0.9
    assert (first != other_decision).float().mean() > 0.9
    assert torch.equal(Random().score(view)[0], first)  # asked again


def test_random_draws_differ_between_layers_and_heads(make_cache: MakeCache, make_view: MakeView) -> None:
    heads = Random().score(make_view(make_cache(n=1))).flatten(0, 2)
    assert len(torch.unique(heads, dim=0)) == 4
    assert heads.min() >= 0 and heads.max() < 1 and abs(heads.mean() - 0.5) < 0.15


@pytest.mark.parametrize("agent_class", [SnapKV, RKV])
def test_window_options_are_checked(
    agent_class: Callable[..., Agent], make_cache: MakeCache, make_view: MakeView
) -> None:
    with pytest.raises(ConfigError, match="odd kernel"):
        agent_class(kernel=4)
    with pytest.raises(ConfigError, match="n_obs >= 1"):
        agent_class(n_obs=0)
    with pytest.raises(ConfigError, match="n_obs=33 is more queries than the cache keeps"):
        agent_class(n_obs=33).score(make_view(make_cache()))


@pytest.mark.parametrize("agent", AGENTS, ids=ids)
def test_only_h2o_needs_statistics(agent: Agent, make_cache: MakeCache, make_view: MakeView) -> None:
    cache = make_cache()
    cache.statistics = None
    assert agent.needs_statistics == (agent.name == "h2o")
    if agent.needs_statistics:
        with pytest.raises(AssertionError, match="needs_statistics"):
            agent.score(make_view(cache))
    else:
        agent.score(make_view(cache))
