"""What the tests of the agents share: caches whose numbers are set by hand, and attention in plain floats and loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from kv_agents.heuristics.window import KEPT
from torch import Tensor

from kv_gym.engine.slots import Hindsight, SlotView
from kv_gym.llm.cache import SlotCache

MakeCache = Callable[..., SlotCache]
MakeView = Callable[..., SlotView]
TakeRow = Callable[[SlotView, int], SlotView]
ReadOn = Callable[[SlotView, Tensor], SlotView]

Memory = dict[Any, Any]
"""What a slow version keeps of one head of one episode between decisions, mostly by position; empty at its start."""

Slow = Callable[[SlotView, int, int, int, Memory], list[float]]
"""(view, row, layer, KV head, memory) -> keep scores of the slots."""

LOGIT = math.sqrt(8)
"""A query of this length along a key's axis makes the key's entry the logit: scale is 1 / sqrt(8)."""


def hand_cache(make_cache: MakeCache, positions: list[int], evict_every: int) -> SlotCache:
    """One row whose heads all hold `positions`; zero keys, values and queries."""
    cache = make_cache(n=1, budget=len(positions) - evict_every, evict_every=evict_every)
    for tensor in (cache.keys, cache.values, cache.queries):
        tensor.zero_()
    cache.positions[:] = torch.tensor(positions)
    length = positions[-1] + 1
    cache.query_positions[0] = torch.arange(length - cache.n_obs, length).clamp_min(-1)
    return cache


def set_weights(cache: SlotCache, axis: int, weights: list[float]) -> None:
    """Give the slots of layer 0, KV head 0 keys that a query of length LOGIT along `axis` weighs like this."""
    cache.keys[0, 0, 0, :, axis] = torch.tensor(weights).log()


def snapkv_cache(make_cache: MakeCache) -> SlotCache:
    """Six slots, the last two the window. Maximum of the two query heads, last query: 1, 2, 3, 2 and 100 twice."""
    cache = hand_cache(make_cache, [0, 1, 2, 5, 6, 7], evict_every=2)
    set_weights(cache, 0, [1.0, 2.0, 1.0, 1.0, 100.0, 100.0])
    set_weights(cache, 1, [1.0, 1.0, 3.0, 2.0, 100.0, 100.0])
    cache.queries[0, 0, 0, -1, 0] = cache.queries[0, 0, 1, -1, 1] = LOGIT
    return cache


def hits_cache(make_cache: MakeCache) -> SlotCache:
    """Six slots and a window of two queries. The attention, in multiples of the average share of the slots seen:

    position           5    8    9    10   11   12
    query at 11        0.5  0.5  3.0  0.5  0.5       both query heads
    query at 12        2.4  0.6  0.6  0.6  0.6  1.2  the first query head
                       0.4  0.4  2.4  0.4  0.4  2.0  the second
    """
    cache = hand_cache(make_cache, [5, 8, 9, 10, 11, 12], evict_every=2)
    set_weights(cache, 0, [4.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    set_weights(cache, 1, [1.0, 1.0, 6.0, 1.0, 1.0, 5.0])
    cache.queries[0, 0, :2, -2, 1] = LOGIT
    cache.queries[0, 0, 0, -1, 0] = cache.queries[0, 0, 1, -1, 1] = LOGIT
    return cache


def keep_everywhere(cache: SlotCache, slots: list[int]) -> Tensor:
    """The same kept slots in all heads, [N, L, H_kv, budget]."""
    shape = cache.shape
    return torch.tensor(slots).expand(cache.n, shape.n_layers, shape.n_kv_heads, -1)


def assert_scores(scores: Tensor, expected: list[float]) -> None:
    """Compare the scores of row 0, layer 0, KV head 0."""
    torch.testing.assert_close(scores[0, 0, 0], torch.tensor(expected), atol=1e-6, rtol=0)


def total_of(cache: SlotCache) -> Tensor:
    return cache.statistics["total_attention"]


def decayed_of(cache: SlotCache) -> Tensor:
    return cache.statistics["decayed_attention"]


def hindsight_of(view: SlotView) -> Hindsight:
    assert view.hindsight is not None
    return view.hindsight


# ---- one head at a time, floats and loops only; query heads 2 h and 2 h + 1 read KV head h


def slow_positions(view: SlotView, b: int, layer: int, head: int) -> list[int]:
    return [int(position) for position in view._cache.positions[layer, b, head]]


def slow_softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    total = sum(exponentials)
    return [e / total for e in exponentials]


def slow_dot(one: list[float], two: list[float]) -> float:
    return sum(x * y for x, y in zip(one, two, strict=True))


def slow_logit(view: SlotView, b: int, layer: int, q_head: int, back: int, slot: int) -> float:
    """The logit of the query `back` tokens before the newest."""
    query = view._cache.queries[layer, b, q_head, view._cache.n_obs - 1 - back].tolist()
    key = view._cache.keys[layer, b, q_head // 2, slot].tolist()
    return slow_dot(query, key) / math.sqrt(8)


def slow_seen(view: SlotView, b: int, layer: int, head: int, back: int) -> list[int]:
    """The slots that are not newer than the query `back` tokens before the newest."""
    when = int(view.text_length[b]) - 1 - back
    return [slot for slot, position in enumerate(slow_positions(view, b, layer, head)) if position <= when]


def slow_attention(view: SlotView, b: int, layer: int, q_head: int, back: int) -> list[float]:
    """The attention of one query over the live slots; none for slots that it does not see."""
    seen = slow_seen(view, b, layer, q_head // 2, back)
    shares = slow_softmax([slow_logit(view, b, layer, q_head, back, slot) for slot in seen])
    row = [0.0] * view.shape[-1]
    for slot, share in zip(seen, shares, strict=True):
        row[slot] = share
    return row


def slow_best_attention(view: SlotView, b: int, layer: int, head: int, back: int) -> list[float]:
    """The same, the maximum of the two query heads of a KV head."""
    first, second = (slow_attention(view, b, layer, 2 * head + member, back) for member in (0, 1))
    return [max(pair) for pair in zip(first, second, strict=True)]


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


def slow_redundancy(view: SlotView, b: int, layer: int, head: int) -> list[float]:
    keys = view._cache.keys[layer, b, head].tolist()
    slots = len(keys)
    columns = [0.0] * slots
    for i in range(slots):
        row = []
        for j in range(slots):
            cosine = slow_dot(keys[i], keys[j]) / math.hypot(*keys[i]) / math.hypot(*keys[j])
            row.append(0.0 if i == j else cosine)
        for j in reversed(range(slots)):
            if row[j] > 0.5:
                row[j] = 0.0
                break
        columns = [total + cosine / slots for total, cosine in zip(columns, row, strict=True)]
    return slow_softmax(columns)


def slow_draws(view: SlotView, b: int, count: int) -> list[float]:
    """The first uniform draws of a row, one by one, from its seed and its decision."""
    state = np.random.SeedSequence([int(view.seeds[b]), int(view.decision[b])]).generate_state(1)
    generator = torch.Generator().manual_seed(int(state[0]))
    return [torch.rand((), generator=generator).item() for _ in range(count)]


def slow_keep_newest(scores: list[float], n: int) -> list[float]:
    return scores[: len(scores) - n] + [KEPT] * n
