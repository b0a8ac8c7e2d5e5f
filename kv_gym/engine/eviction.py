"""From keep scores to the slots that stay."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from kv_gym.errors import ScoreError

Granularity = Literal["head", "layer", "token"]


def protected_slots(positions: Tensor, in_prompt: Tensor, n_recent: int, n_sink: int, protect_prompt: bool) -> Tensor:
    """Mark the slots that no score can evict, [N, L, H_kv, S] bool.

    Args:
        positions: Absolute positions, [N, L, H_kv, S]; slots are in time order.
        in_prompt: [N, L, H_kv, S] bool.
        n_recent: Newest slots.
        n_sink: First positions of the text.
        protect_prompt: Whether the prompt is protected.
    """
    slots = torch.arange(positions.shape[-1], device=positions.device)
    protected = (positions < n_sink) | (slots >= len(slots) - n_recent)
    return protected | in_prompt if protect_prompt else protected


def share_scores(scores: Tensor, granularity: Granularity) -> Tensor:
    """Make heads (or heads and layers) decide together: their mean score, [N, L, H_kv, S]."""
    if granularity == "head":
        return scores
    axes = (2,) if granularity == "layer" else (1, 2)
    finite = scores.double().clamp(-1e300, 1e300)  # one head's inf and another's -inf have a mean
    return finite.mean(axes, keepdim=True).float().expand_as(scores)


def check_scores(scores: Tensor, shape: torch.Size) -> None:
    """Raise ScoreError unless `scores` are numbers of the right shape."""
    if scores.shape != shape:
        raise ScoreError(
            f"keep scores have shape {tuple(scores.shape)}; one score per slot is {tuple(shape)} [N, L, H_kv, S]."
        )
    if torch.isnan(scores).any():
        bad = torch.isnan(scores).nonzero()[0].tolist()
        raise ScoreError(
            f"keep score of episode {bad[0]}, layer {bad[1]}, KV head {bad[2]}, slot {bad[3]} is NaN "
            f"({int(torch.isnan(scores).sum())} in all). Scores must be numbers; use -inf to evict and inf to keep."
        )


def slots_to_keep(scores: Tensor, protected: Tensor, evict_every: int) -> Tensor:
    """Choose the slots that stay: all but the `evict_every` lowest unprotected ones; of equals the oldest go.

    Args:
        scores: Keep scores, [N, L, H_kv, S].
        protected: Slots that stay anyway, same shape.
        evict_every: Slots to evict per layer and KV head.

    Returns:
        Indices of the kept slots in time order, [N, L, H_kv, S - evict_every].
    """
    finite = torch.nan_to_num(scores.float(), posinf=torch.finfo(torch.float32).max)  # below the protected slots' inf
    order = finite.masked_fill(protected, math.inf).argsort(dim=-1, stable=True)
    return order[..., evict_every:].sort(-1).values


def others(chosen: Tensor, n_slots: int) -> Tensor:
    """Indices of the slots that are not `chosen` [..., K], ascending, [..., n_slots - K]."""
    left = torch.ones(*chosen.shape[:-1], n_slots, dtype=torch.bool, device=chosen.device).scatter_(-1, chosen, False)
    return left.nonzero()[:, -1].reshape(*chosen.shape[:-1], n_slots - chosen.shape[-1])
