"""R-KV: important and not redundant."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import check_window, keep_newest, pool_runs, window_scores
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
    unit = F.normalize(keys.float(), dim=-1)
    return torch.stack([mean_similarity(layer, threshold) for layer in unit.unbind(1)], 1).softmax(-1)


def mean_similarity(unit: Tensor, threshold: float) -> Tensor:
    """Column means of the forgiving cosine matrix of unit keys [N, H_kv, S, D], [N, H_kv, S]."""
    index = torch.arange(unit.shape[-2], device=unit.device)
    total = torch.zeros(unit.shape[:-1], device=unit.device)
    for rows, which in zip(unit.split(BLOCK, -2), index.split(BLOCK), strict=True):
        cosine = (rows @ unit.transpose(-1, -2)).masked_fill_(which[:, None] == index, 0.0)  # [N, H_kv, BLOCK, S]
        forgiven = torch.where(cosine > threshold, index, -1).amax(-1, keepdim=True)  # -1: none
        total += cosine.masked_fill_(index == forgiven, 0.0).sum(-2)
    return total / len(index)
