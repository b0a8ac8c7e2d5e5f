"""R-KV: important and not redundant."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import check_window, keep_newest, pool_runs, window_scores
from kv_gym.engine.features import heads_at_once
from kv_gym.engine.slots import SlotView

BLOCK = 256
"""Rows of the similarity matrix that are in memory at once."""


class RKV(Agent):
    """Keep slots that the last queries attend to and whose keys resemble few others.

        s = lam * I - (1 - lam) * R, [N, L, H_kv, S]

    I is the importance of SnapKV while decoding (`window_scores`, max-pooled), R the redundancy of `redundancy`. The
    newest `n_obs` slots stay.

    Args:
        lam: Weight of the importance, 0 to 1.
        threshold: Cosine above which two keys are near-duplicates.
        n_obs: Observation window, queries.
        kernel: Width of the max-pooling, slots; odd, 1 for none.

    Source: R-KV, arXiv:2505.24133; lam 0.1 from its README (its class has 0.07).
    Differs: slots are pooled only where their tokens are neighbours in the text. A slot without near-duplicates
        forgives none; in the public code its index is 0, so slot 0 is forgiven by all of them, an accidental sink.
        Each row of the batch is scored with its own keys; the public code takes those of row 0.
    """

    name = "rkv"

    def __init__(self, lam: float = 0.1, threshold: float = 0.5, n_obs: int = 8, kernel: int = 7) -> None:
        check_window(n_obs, kernel)
        self.lam, self.threshold, self.n_obs, self.kernel = lam, threshold, n_obs, kernel

    def score(self, slots: SlotView) -> Tensor:
        """Weigh importance against redundancy."""
        importance = pool_runs(window_scores(slots, self.n_obs), slots.positions, self.kernel)
        redundant = redundancy(slots.keys, self.threshold)
        return keep_newest(self.lam * importance - (1 - self.lam) * redundant, self.n_obs)


def redundancy(keys: Tensor, threshold: float) -> Tensor:
    """How much each key resembles the others of its head; the newest near-duplicate of each is forgiven.

        C = cosine matrix with zero diagonal; per row i, C_ij = 0 at the largest j with C_ij > threshold
        R_j = softmax_j(mean_i C_ij)

    Args:
        keys: In time order, [N, L, H_kv, S, D].
        threshold: Cosine above which two keys are near-duplicates.

    Returns:
        [N, L, H_kv, S], each head sums to 1. Time S^2 D a head; memory `BLOCK` x S a head of one layer.
    """
    unit = F.normalize(keys.float(), dim=-1).flatten(0, 2)
    heads = unit.split(heads_at_once(min(BLOCK, unit.shape[-2]) * unit.shape[-2], unit.device))
    return torch.cat([mean_similarity(part, threshold) for part in heads]).softmax(-1).view(keys.shape[:-1])


def mean_similarity(unit: Tensor, threshold: float) -> Tensor:
    """Column means of the forgiving cosine matrix of unit keys [heads, S, D], [heads, S]."""
    size = unit.shape[-2]
    number = torch.arange(1, size + 1, device=unit.device, dtype=torch.float32)  # of slots from 1 on, exact
    total = torch.zeros(unit.shape[:-1], device=unit.device)
    for start in range(0, size, BLOCK):
        cosine = unit[:, start : start + BLOCK] @ unit.transpose(-1, -2)  # [heads, BLOCK, S]
        cosine.diagonal(start, -2, -1).zero_()
        above = torch.gt(cosine, threshold, out=torch.empty_like(cosine))  # 0 and 1: faster than a choice by mask
        forgiven = above.mul_(number).amax(-1, keepdim=True)  # 0: none
        place = (forgiven - 1).clamp_min(0).long()
        cosine.scatter_(-1, place, torch.where(forgiven == 0, cosine.gather(-1, place), 0.0))
        total += cosine.sum(-2)
    return total / size
