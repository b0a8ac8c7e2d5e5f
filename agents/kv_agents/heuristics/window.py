"""What the methods with an observation window share: its attention to older slots, pooling, and keeping the newest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError
from kv_gym.llm.attention import masked_softmax

KEPT = 1e9
"""Keep score of slots that a method protects by itself: finite, and above every other score."""


def check_window(n_obs: int, kernel: int) -> None:
    """Check the options of an observation window.

    Raises:
        ConfigError: `n_obs` is below 1, or `kernel` is not a positive odd number.
    """
    if n_obs < 1:
        raise ConfigError(f"n_obs={n_obs}: the observation window needs at least one query. Use n_obs >= 1.")
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigError(f"kernel={kernel}: pooling is centred on a slot. Use an odd kernel, 1 for no pooling.")


def newest(slots: int, n: int, device: torch.device) -> Tensor:
    """Which of the slots, in time order, are the newest n, [S] bool."""
    return torch.arange(slots, device=device) >= slots - n


def keep_newest(scores: Tensor, n: int) -> Tensor:
    """Give the newest n slots of [..., S] the score `KEPT`."""
    return scores.masked_fill(newest(scores.shape[-1], n, scores.device), KEPT)


def window_scores(slots: SlotView, n_obs: int) -> Tensor:
    """Score the slots older than the observation window by the attention of its queries.

        softmax over older slots of max_group(q k / sqrt(D)), mean over the window's queries

    The maximum over the GQA group is taken on the logits, and the window is left out of the normaliser.

    Args:
        slots: What the agent sees.
        n_obs: Length of the window, in queries; its slots are the newest `n_obs`.

    Returns:
        [N, L, H_kv, S], 0 to 1; 0 for the slots of the window. Each head sums to 1 if all queries exist.

    Raises:
        ConfigError: The cache does not hold that many queries.

    Source: the decode variant of SnapKV in R-KV's code (arXiv:2505.24133).
    """
    logits, seen = slots.logits(n_obs)
    if logits.shape[-2] != n_obs:
        raise ConfigError(f"n_obs={n_obs} is more queries than the cache keeps. Use a smaller n_obs.")
    older = seen.amax(3) & ~newest(slots.shape[-1], n_obs, slots.device)  # [N, L, H_kv, T, S]
    return masked_softmax(logits.amax(3), older).mean(-2)


def attended(slots: SlotView, alpha: float) -> tuple[Tensor, Tensor]:
    """Which slots the window's queries pay more than `alpha` times the average share.

    Returns:
        (hits, seen), each [N, L, H_kv, T, S] bool, T = `evict_every`; a hit by one query head of the group counts.
    """
    seen = slots.seen(slots.evict_every)
    return slots.attention().amax(3) * seen.sum(-1, keepdim=True) > alpha, seen


def pool_runs(scores: Tensor, positions: Tensor, kernel: int) -> Tensor:
    """Max-pool over neighbouring slots whose tokens are neighbours in the text too.

    Args:
        scores: [..., S].
        positions: Increasing, [..., S]. Slot j counts for slot i if `positions[j] - positions[i] == j - i`: then no
            token between them was evicted.
        kernel: Odd; slots at most `kernel // 2` away are pooled.

    Returns:
        [..., S].
    """
    pooled = scores.clone()
    for offset in range(1, kernel // 2 + 1):
        early, late = slice(None, -offset), slice(offset, None)
        gap = positions[..., late] - positions[..., early] != offset
        pooled[..., early] = torch.maximum(pooled[..., early], scores[..., late].masked_fill(gap, -math.inf))
        pooled[..., late] = torch.maximum(pooled[..., late], scores[..., early].masked_fill(gap, -math.inf))
    return pooled
