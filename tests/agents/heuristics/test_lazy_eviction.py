"""LazyEviction: by hand, over two decisions."""

from __future__ import annotations

import itertools
import math

import torch
from kv_agents.heuristics.lazy_eviction import LazyEviction
from kv_agents.heuristics.window import KEPT
from slots_by_hand import (
    MakeCache,
    MakeView,
    Memory,
    ReadOn,
    assert_scores,
    hits_cache,
    keep_everywhere,
    slow_best_attention,
    slow_keep_newest,
    slow_positions,
    slow_seen,
)

from kv_gym.engine.slots import SlotView


def slow_lazy_eviction(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    """Memory: for each position, when it was hit."""
    positions, scores = slow_positions(view, b, layer, head), []
    now = int(view.text_length[b]) - 1
    for back in reversed(range(8)):
        row, seen = slow_best_attention(view, b, layer, head, back), slow_seen(view, b, layer, head, back)
        for slot in seen:
            if row[slot] > 0.1 / len(seen):
                memory.setdefault(positions[slot], []).append(now - back)
    for position in positions:
        hits = memory.get(position, [])
        gap = max((late - early for early, late in itertools.pairwise(hits)), default=0)
        score = 2 / (1 + math.exp((now - (hits or [position])[-1]) / max(gap, 1)))
        scores.append(score + (2 / (1 + math.exp(gap / 8)) if gap > 0 else 0.0))
    return slow_keep_newest(scores, 8)


def test_lazy_eviction_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    # More than average: 11 hits slot 2, 12 hits slots 0, 2 and 5. Twice a logistic function: f(x) = 2 / (1 + exp(x)).
    scores = LazyEviction(alpha=1.0).score(make_view(hits_cache(make_cache)))
    # slot 0: just hit, f(0); slots 1 and 3: never hit, and 4 and 2 tokens old; slot 2: f(0) + f(1 / 2), as its gap is 1
    assert_scores(scores, [1.0, 0.0359724, 1.7550813, 0.2384058, KEPT, KEPT])


def test_lazy_eviction_waits_for_the_longest_gap(make_cache: MakeCache, make_view: MakeView, read_on: ReadOn) -> None:
    agent, cache = LazyEviction(alpha=2.2), hits_cache(make_cache)
    agent.score(make_view(cache))  # 11 hits slot 2, 12 hits slots 0 and 2
    view = read_on(make_view(cache), keep_everywhere(cache, [0, 2, 3, 4]))
    cache.queries.zero_()  # uniform attention hits nothing
    # at 14: slot 0 waited 2, f(2); slot 2 as well, its gap is 1: f(2) + f(1 / 2); slots 3 and 4, at 10 and 11, were
    # never hit: f(4), f(3)
    assert_scores(agent.score(view), [0.2384058, 0.9934871, 0.0359724, 0.0948517, KEPT, KEPT])


def test_lazy_eviction_measures_gaps_across_decisions(
    make_cache: MakeCache, make_view: MakeView, read_on: ReadOn
) -> None:
    agent, cache = LazyEviction(alpha=0.9), hits_cache(make_cache)
    agent.score(make_view(cache))  # 11 hits slot 2, 12 hits slots 0, 2 and 5
    view = read_on(make_view(cache), keep_everywhere(cache, [0, 1, 2, 3]))
    cache.queries.zero_()  # uniform attention hits everything: at 13 and 14 each slot got its share
    # slots 0 and 2: 12 to 13 and 13 to 14, or 11 to 12; slots 1 and 3: first at 13; all gaps are 1
    assert_scores(agent.score(view), [1.7550813] * 4 + [KEPT, KEPT])
    view = read_on(view, keep_everywhere(cache, [0, 1, 2, 3]))
    cache.query_positions[0, -2:] = torch.tensor([20, 21])
    view = make_view(cache, decisions=[2])  # as if the text had run on to 21: the gap from 14 to 20 is 6
    cache.queries.zero_()
    assert_scores(agent.score(view), [1.0948517] * 4 + [KEPT, KEPT])  # f(0) + f(6 / 2)
