"""The terms of the reward, one pure function each."""

from __future__ import annotations

import torch
from torch import Tensor


def loss_spike(increase: Tensor, watched: Tensor, threshold: float, cap: float | None = None) -> Tensor:
    """Mean squared loss increase over watched tokens, counting only increases above the threshold.

    Args:
        increase: Loss with evictions minus loss of the full cache, nats, [N, T].
        watched: Tokens whose full-cache entropy is low, [N, T] bool.
        threshold: Nats.
        cap: An increase beyond it counts as much, nats: a token that is lost is lost, however surely.

    Returns:
        [N], nats squared; 0 where nothing is watched.

    Source: ForesightKV, arXiv:2602.03203, RL stage (mean, as in its code; the paper writes a sum). The cap is ours.
    """
    counted = increase if cap is None else increase.clamp_max(cap)
    squared = torch.where(watched & (increase > threshold), counted.square(), 0.0)
    return squared.sum(-1) / watched.sum(-1).clamp_min(1)


def attention_spike(missed: Tensor, forgiven: float) -> Tensor:
    """Attention that would have gone to evicted slots, beyond what is forgiven.

    Args:
        missed: Share of the full-cache attention that the window's queries would have paid to slots no longer there,
            mean over queries and GQA group, [N, L, H_kv].
        forgiven: Share that costs nothing.

    Returns:
        [N], mean over layers and KV heads, 0 to 1.
    """
    return (missed - forgiven).relu().mean((-2, -1))


def total_reward(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Weighted sum of terms, [N]: correctness counts for, spikes against."""
    return (
        weights["correct"] * terms["correct"]
        - weights["loss_spike"] * terms["loss_spike"]
        - weights["attention_spike"] * terms["attention_spike"]
    )
