"""LagKV: by hand, with lags that do not fill up."""

from __future__ import annotations

import math

import torch
from kv_agents.heuristics.lagkv import LagKV, lag_scores
from kv_agents.heuristics.window import KEPT
from slots_by_hand import MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_positions, slow_softmax

from kv_gym.engine.slots import SlotView

# Two channels against a range of 0 to 2 and 0 to 4: z = (0, 1), (0.5, 0.5), (1.5, 0), with standard deviations
STATES = [[0.0, 4.0], [1.0, 2.0], [3.0, 0.0]]
SPREADS = [0.5**0.5, 0.0, 1.125**0.5]
RANGE = [[0.0, 4.0], [2.0, 0.0], [1.0, 1.0]]


def slow_lags(states: list[list[float]], lag: int) -> list[float]:
    """Lag by lag from the newest, each against the one after it."""
    scores = [0.0] * len(states)
    for end in range(len(states) - lag, 0, -lag):
        here, reference, spreads = range(max(0, end - lag), end), states[end : end + lag], []
        low = [min(column) for column in zip(*reference, strict=True)]
        high = [max(column) for column in zip(*reference, strict=True)]
        for slot in here:
            z = [(x - a) / (b - a) for x, a, b in zip(states[slot], low, high, strict=True)]
            mean = sum(z) / len(z)
            spreads.append(math.sqrt(sum((x - mean) ** 2 for x in z) / (len(z) - 1)))
        for slot, share in zip(here, slow_softmax(spreads), strict=True):
            scores[slot] = share * len(here) / lag
    return scores


def slow_lagkv(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    sinks = sum(position < 4 for position in slow_positions(view, b, layer, head))
    keys, values = (states[layer, b, head].tolist()[sinks:] for states in (view._cache.keys, view._cache.values))
    scores = [key + value for key, value in zip(slow_lags(keys, 8), slow_lags(values, 8), strict=True)][:-8]
    return [KEPT] * sinks + scores + [KEPT] * 8


def score_lags(states: torch.Tensor, lag: int, sinks: int = 0) -> torch.Tensor:
    """Lag scores with the first so many slots as sinks."""
    return lag_scores(states, lag, torch.arange(len(states)) < sinks)


def test_lag_scores_by_hand() -> None:
    total = sum(math.exp(spread) for spread in SPREADS)
    expected = [math.exp(spread) / total for spread in SPREADS]
    assert [round(share, 4) for share in expected] == [0.3428, 0.169, 0.4882]
    scores = score_lags(torch.tensor([*STATES, *RANGE]), 3)
    torch.testing.assert_close(scores, torch.tensor([*expected, 0.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_lag_scores_give_a_short_oldest_lag_the_mean_of_the_others() -> None:
    total = sum(math.exp(spread) for spread in SPREADS[1:])
    expected = [math.exp(spread) / total * 2 / 3 for spread in SPREADS[1:]]  # two slots of three
    scores = score_lags(torch.tensor([*STATES[1:], *RANGE]), 3)
    torch.testing.assert_close(scores, torch.tensor([*expected, 0.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_lag_scores_leave_constant_channels_out() -> None:
    states = torch.tensor([*STATES, *RANGE])
    wide = torch.cat([torch.full((6, 1), 7.0), states, torch.zeros(6, 1)], 1)
    wide[:3, 0] = torch.tensor([1.0, 2.0, 3.0])  # varies, but its reference does not
    torch.testing.assert_close(score_lags(wide, 3), score_lags(states, 3), atol=1e-6, rtol=0)
    nothing_varies = score_lags(torch.ones(6, 4), 3)
    torch.testing.assert_close(nothing_varies, torch.tensor([1 / 3] * 3 + [0.0] * 3), atol=1e-6, rtol=0)


def test_lag_scores_of_the_newest_lag_alone_are_zero() -> None:
    assert score_lags(torch.rand(3, 2), 3).tolist() == [0.0] * 3
    assert score_lags(torch.rand(2, 2), 3).tolist() == [0.0] * 2


def test_lagkv_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 5, 6, 7, 8, 9], evict_every=3)
    cache.keys[0, 0, 0, :, :2] = torch.tensor([*STATES, *RANGE])
    view = make_view(cache)
    # values are zero: 1/3 each
    total = sum(math.exp(spread) for spread in SPREADS)
    scores = [math.exp(spread) / total + 1 / 3 for spread in SPREADS]
    assert_scores(LagKV(n_sink=0).score(view), [*scores, KEPT, KEPT, KEPT])
    # the first slot is a sink: the other two of its lag share 2/3
    rest = sum(math.exp(spread) for spread in SPREADS[1:])
    others = [math.exp(spread) / rest * 2 / 3 + 1 / 3 for spread in SPREADS[1:]]
    assert_scores(LagKV().score(view), [KEPT, *others, KEPT, KEPT, KEPT])
    assert_scores(LagKV(n_sink=6).score(view), [KEPT, KEPT, 2 / 3, KEPT, KEPT, KEPT])
    cache.keys.zero_()
    cache.values[0, 0, 0, :, :2] = torch.tensor([*STATES, *RANGE])  # keys and values count alike
    assert_scores(LagKV(lag=3, n_sink=0).score(view), [*scores, KEPT, KEPT, KEPT])
