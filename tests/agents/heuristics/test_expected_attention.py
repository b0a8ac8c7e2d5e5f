"""Expected Attention: by hand, for queries of one direction and for queries that scatter."""

from __future__ import annotations

import math

import pytest
import torch
from kv_agents.heuristics.expected_attention import ExpectedAttention, average_rotation
from kv_agents.heuristics.window import KEPT
from slots_by_hand import LOGIT, MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_dot, slow_softmax
from slots_by_hand import slow_positions as positions_of

from kv_gym.engine.slots import SlotView
from kv_gym.llm.cache import SlotCache

FREQUENCIES = [1.0, 0.1, 0.01, 0.001]  # of Llama's RoPE at width 8: 10000 ** (-2 i / 8); channel i turns with i + 4


def slow_rotate(states: list[float], position: float) -> list[float]:
    turned = [0.0] * 8
    for i, frequency in enumerate(FREQUENCIES):
        cos, sin = math.cos(position * frequency), math.sin(position * frequency)
        turned[i] = states[i] * cos - states[i + 4] * sin
        turned[i + 4] = states[i] * sin + states[i + 4] * cos
    return turned


def slow_future(states: list[float], first: int, horizon: int) -> list[float]:
    """The mean of the states over rotations to the next positions."""
    turned = [slow_rotate(states, position) for position in range(first, first + horizon)]
    return [sum(column) / horizon for column in zip(*turned, strict=True)]


def slow_expected_attention(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Memory: all queries so far before RoPE, by query head. Horizon: 4 windows of 8."""
    read, cache = int(view.text_length[b]), view._cache
    keys, values = cache.keys[layer, b, head].tolist(), cache.values[layer, b, head].tolist()
    live = [slot for slot, position in enumerate(positions_of(view, b, layer, head)) if position >= 4]
    scores = [KEPT] * len(keys)
    for slot in live:
        scores[slot] = 0.0
    for q_head in (2 * head, 2 * head + 1):
        queries = memory.setdefault(q_head, [])
        for back in reversed(range(8)):
            query = cache.queries[layer, b, q_head, cache.n_obs - 1 - back].tolist()
            queries.append(slow_rotate(query, -(read - 1 - back)))
        mean = [sum(column) / len(queries) for column in zip(*queries, strict=True)]
        future = slow_future(mean, read, 32)
        spread = [slow_future([x - m for x, m in zip(query, mean, strict=True)], read, 32) for query in queries]
        z = []
        for slot in live:  # k Sigma k is the variance of the products with k
            variance = sum(slow_dot(keys[slot], part) ** 2 for part in spread) / len(queries)
            z.append(slow_dot(keys[slot], future) / math.sqrt(8) + variance / (2 * 8))
        for slot, share in zip(live, slow_softmax(z), strict=True):
            scores[slot] += share / 2 * math.hypot(*values[slot])
    return scores


def rotating_cache(make_cache: MakeCache, evict_every: int) -> SlotCache:
    """Slots of which the first is a sink, with values of length 1, 3, 0 and 5 (and 1)."""
    cache = hand_cache(make_cache, [0, 4, 5, 7, 9][: 3 + evict_every], evict_every)
    cache.values[0, 0, 0, :4, :2] = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0], [3.0, 4.0]])
    cache.values[0, 0, 0, 4:, 0] = 1.0
    return cache


def test_expected_attention_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = rotating_cache(make_cache, evict_every=1)
    cache.keys[0, 0, 0, :, 0] = torch.tensor([100.0, 1.0, 2.0, 5.0]).log()
    # One query, at 7. At 8, one turn further, the first query head points along channel 0; the second is uniform.
    cache.queries[0, 0, 0, -1, 0], cache.queries[0, 0, 0, -1, 4] = LOGIT * math.cos(1), -LOGIT * math.sin(1)
    view = make_view(cache)
    # without the sink 1/8, 2/8, 5/8 and 1/3 each: 11/48, 14/48, 23/48, times the length of the values
    assert_scores(ExpectedAttention(horizon=1).score(view), [KEPT, 33 / 48, 0.0, 115 / 48])
    cache.memories.clear()
    assert_scores(ExpectedAttention(horizon=1, eps=1.0).score(view), [KEPT, 177 / 48, 0.0, 355 / 48])
    cache.memories.clear()
    # with the sink 100/108, 1/108 and so on
    shares = [(weight / 108 + 1 / 4) / 2 for weight in (100, 1, 2, 5)]
    assert_scores(ExpectedAttention(horizon=1, n_sink=0).score(view), [shares[0], 3 * shares[1], 0.0, 5 * shares[3]])


def test_expected_attention_counts_the_scatter_of_the_queries(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = rotating_cache(make_cache, evict_every=2)
    # Before RoPE the queries of the first head are +4 and -4 along channel 0: mean zero, variance 16. At 10 that is
    # along r = (cos 10, sin 10) in channels 0 and 4; a key x r gives z = 16 x^2 / (2 * 8) = x^2.
    for back, sign in ((1, 1.0), (0, -1.0)):
        position = 9 - back
        cache.queries[0, 0, 0, -1 - back, 0] = sign * 4 * math.cos(position)
        cache.queries[0, 0, 0, -1 - back, 4] = sign * 4 * math.sin(position)
    x = torch.tensor([100.0, 1.0, 2.0, 4.0, 1.0]).log().sqrt()
    cache.query_positions[0, -2:] = torch.tensor([8, 9])
    cache.keys[0, 0, 0, :, 0], cache.keys[0, 0, 0, :, 4] = x * math.cos(10), x * math.sin(10)
    # 1/8, 2/8, 4/8, 1/8 and 1/4 each
    scores = ExpectedAttention(horizon=1).score(make_view(cache))
    assert_scores(scores, [KEPT, 3 * 3 / 16, 0.0, 5 * 6 / 16, 3 / 16])


@pytest.mark.parametrize("horizon", [1, 3, 32])
def test_average_rotation_turns_to_the_mean_of_the_next_positions(
    horizon: int, make_cache: MakeCache, make_view: MakeView
) -> None:
    rotation = average_rotation(make_view(make_cache(n=2)), horizon)  # after 40 and 43 tokens
    states = torch.randn(8, generator=torch.Generator().manual_seed(0))
    expected = [slow_future(states.tolist(), read, horizon) for read in (40, 43)]
    torch.testing.assert_close(rotation @ states, torch.tensor(expected), atol=1e-5, rtol=0)
