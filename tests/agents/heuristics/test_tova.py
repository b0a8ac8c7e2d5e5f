"""TOVA: by hand."""

from __future__ import annotations

import torch
from kv_agents.heuristics.tova import TOVA
from slots_by_hand import LOGIT, MakeCache, MakeView, Memory, assert_scores, hand_cache, slow_attention

from kv_gym.engine.slots import SlotView


def slow_tova(view: SlotView, b: int, layer: int, head: int, memory: Memory) -> list[float]:
    scores = [0.0] * view.shape[-1]
    for q_head in range(4):
        row = slow_attention(view, b, layer, q_head, 0)
        scores = [score + share / 4 for score, share in zip(scores, row, strict=True)]
    return scores


def test_tova_by_hand(make_cache: MakeCache, make_view: MakeView) -> None:
    cache = hand_cache(make_cache, [0, 3, 4], evict_every=1)
    cache.keys[0, 0, 0, :, 0] = torch.tensor([1.0, 1.0, 2.0]).log()  # KV head 0, query head 0: 1/4, 1/4, 2/4
    cache.queries[0, 0, 0, -1, 0] = LOGIT  # query heads 1 and 2: 1/3 each
    cache.keys[0, 0, 1, :, 1] = torch.tensor([6.0, 3.0, 3.0]).log()  # KV head 1, query head 3: 2/4, 1/4, 1/4
    cache.queries[0, 0, 3, -1, 1] = LOGIT
    cache.queries[..., :-1, :] = 5.0  # older queries do not count
    scores = TOVA().score(make_view(cache))
    assert_scores(scores, [17 / 48, 14 / 48, 17 / 48])  # (1/4 + 1/3 + 1/3 + 2/4) / 4 and so on
    assert torch.equal(scores[:, :, 0], scores[:, :, 1])
