"""G-KV: the best attention so far, and no near-duplicates."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.rkv import redundancy
from kv_agents.heuristics.window import check_window, keep_newest, newest
from kv_gym.engine.slots import SlotView


class GKV(Agent):
    """Keep slots that the last queries attend to now or did before, and whose keys resemble few others.

        F = mean over the last n_obs queries of the maximum over the group of the attention, over its largest slot
        G = max(alpha G before, F); s = lam G - (1 - lam) R / max R, [N, L, H_kv, S]

    R is R-KV's `redundancy`. The newest `n_obs` slots, the window, stay; F, G and both maxima are those of older slots.

    Args:
        alpha: What is left of the old score after a decision, 0 to 1.
        lam: Weight of the importance, 0 to 1.
        threshold: Cosine above which two keys are near-duplicates.
        n_obs: Observation window, queries; default is the smaller of 16 and `evict_every`.

    Source: G-KV, arXiv:2512.00504; alpha 0.8, lam 0.5, n_obs 16 from its code.
    Differs: only the eviction rule; the paper also trains the LLM to live with it.
    """

    name = "gkv"

    def __init__(self, alpha: float = 0.8, lam: float = 0.5, threshold: float = 0.5, n_obs: int = 0) -> None:
        check_window(n_obs or 1, 1)
        self.alpha, self.lam, self.threshold, self.n_obs = alpha, lam, threshold, n_obs

    def score(self, slots: SlotView) -> Tensor:
        """Renew the importance, then weigh it against redundancy."""
        n_obs = self.n_obs or min(16, slots.evict_every)
        window = newest(slots.shape[-1], n_obs, slots.device)
        local = slots.attention(n_obs).amax(3).mean(-2).masked_fill(window, 0.0)
        local = local / local.amax(-1, keepdim=True).clamp_min(1e-9)
        importance = slots.carry("gkv")
        importance.copy_(torch.maximum(self.alpha * importance, local))
        redundant = redundancy(slots.keys, self.threshold).masked_fill(window, 0.0)
        redundant = redundant / redundant.amax(-1, keepdim=True)
        return keep_newest(self.lam * importance - (1 - self.lam) * redundant, n_obs)
