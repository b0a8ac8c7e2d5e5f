"""What a window pays to evicted slots, against all attention rows written out."""

from __future__ import annotations

import math

import pytest
import torch

from kv_gym.engine.shadow import Shadow
from kv_gym.llm.attention import attention_with_share
from kv_gym.llm.cache import CacheShape, FullCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm


def test_share_of_marked_slots_by_hand() -> None:
    """Logits log 1, log 2, log 5 over slots 0 to 2: shares 1/8, 2/8 and 5/8; slot 3 is later."""
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0, 5.0, 100.0]).log()[None, None, :, None]
    value, marks = torch.tensor([8.0, 16.0, 0.0, 9.0])[None, None, :, None], torch.tensor([[[1, 0, 1, 1]]])
    later = torch.tensor([[0, 0, 0, -math.inf]])
    out, share = attention_with_share(query, key, value, marks, later, 1.0)
    assert out.item() == pytest.approx(1 + 4) and share.item() == pytest.approx(6 / 8)


def test_rows_of_other_lengths_do_not_count() -> None:
    """What a layer's queries pay to the slots that are gone, against softmaxes written out row by row."""
    draw, shape = torch.Generator().manual_seed(0), CacheShape(1, 4, 2, 8, torch.float32, torch.device("cpu"))
    cache, positions = FullCache(shape, 2, 20), torch.stack([torch.arange(17, 20), torch.arange(7, 10)])
    cache.live = torch.stack([torch.randperm(10, generator=draw)[:6] for _ in range(4)]).reshape(1, 2, 2, 6)
    cache.begin(positions)
    key, query = torch.randn(2, 2, 20, 8, generator=draw), torch.randn(2, 4, 3, 8, generator=draw)
    value = torch.randn(2, 2, 20, 8, generator=draw)
    marks, mask = cache.marks(0), cache.visible(3, shape.group)
    assert marks is not None and mask is not None
    out, share = attention_with_share(query.reshape(2, 2, 6, 8), key, value, marks, mask, 0.3)
    cache.note(share)
    for row in range(2):
        for head in range(2):
            shares, live = [], cache.live[0, row, head].tolist()
            for index, q in enumerate((2 * head, 2 * head + 1)):
                for t in range(3):
                    end = int(positions[row, t]) + 1
                    weights = (key[row, head, :end] @ query[row, q, t] * 0.3).softmax(0)
                    torch.testing.assert_close(out[row, head, 3 * index + t], weights @ value[row, head, :end])
                    shares.append(sum(float(weights[p]) for p in range(end) if p not in live))
            assert cache.missed[0][row, head].item() == pytest.approx(math.fsum(shares) / len(shares), abs=1e-6)


def test_all_slots_miss_nothing() -> None:
    llm: FrozenLLM = load_llm("tiny")
    tokens = torch.randint(3, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    rows, then = torch.arange(3), torch.arange(8, 12).expand(3, -1)
    shape = (llm.shape.n_layers, 3, llm.shape.n_kv_heads, -1)
    missed, logits = [], []
    for live in (torch.arange(12), torch.tensor([0, 3, 8, 9, 10, 11])):
        copy = Shadow(llm, 3, 64)
        copy.reset(rows, tokens[:, :8])
        found = copy.read(rows, tokens[:, 8:], then, live.expand(shape))
        logits.append(found[0])
        missed.append(found[1])
    assert not missed[0].any() and (missed[1] > 0.01).any()
    torch.testing.assert_close(logits[0], logits[1], atol=0, rtol=0)  # being asked changes nothing
