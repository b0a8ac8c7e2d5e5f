"""What a window pays to evicted slots, against all attention rows written out."""

from __future__ import annotations

import math

import pytest
import torch

from kv_gym.engine import shadow
from kv_gym.engine.shadow import Shadow, attention_to
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm


def test_attention_to_some_slots_by_hand() -> None:
    """One query at position 2 with logits log 1, log 2, log 5 over slots 0 to 2: 1/8, 2/8 and 5/8; slot 3 is later."""
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0, 5.0, 100.0]).log()[None, None, :, None]
    found = attention_to(query, key, torch.tensor([[2]]), torch.tensor([[[0, 2, 3]]]), 1.0)
    assert found.item() == pytest.approx(6 / 8)


@pytest.mark.parametrize("at_once", [2**24, 1])
def test_rows_of_other_lengths_do_not_count(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "NUMBERS_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=draw)
    key = torch.randn(2, 2, 20, 8, generator=draw)
    positions = torch.stack([torch.arange(17, 20), torch.arange(7, 10)])
    live = torch.stack([torch.randperm(10, generator=draw)[:6] for _ in range(4)]).reshape(2, 2, 6)
    found = attention_to(query, key, positions, live, 0.3)
    for row in range(2):
        for head in range(2):
            shares = []
            for q in (2 * head, 2 * head + 1):
                for t in range(3):
                    end = int(positions[row, t]) + 1
                    weights = (key[row, head, :end] @ query[row, q, t] * 0.3).softmax(0)
                    shares.append(sum(float(weights[p]) for p in live[row, head].tolist() if p < end))
            assert found[row, head].item() == pytest.approx(math.fsum(shares) / len(shares), abs=1e-6)


def test_all_slots_miss_nothing_and_windows_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    llm: FrozenLLM = load_llm("tiny")
    tokens = torch.randint(3, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    rows, then = torch.arange(3), torch.arange(8, 12).expand(3, -1)
    shape = (llm.shape.n_layers, 3, llm.shape.n_kv_heads, -1)
    missed = []
    for at_once in (2**24, 1):
        monkeypatch.setattr(shadow, "NUMBERS_AT_ONCE", at_once)
        for live in (torch.arange(12), torch.tensor([0, 3, 8, 9, 10, 11])):
            copy = Shadow(llm, 3, 64)
            copy.reset(rows, tokens[:, :8])
            missed.append(copy.read(rows, tokens[:, 8:], then, live.expand(shape))[1])
    torch.testing.assert_close(missed[0], torch.zeros_like(missed[0]), atol=1e-5, rtol=0)
    assert (missed[1] > 0.01).any()
    torch.testing.assert_close(missed[1], missed[3], atol=1e-6, rtol=0)
