"""KeyDiff: distinctive keys stay."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kv_agents.base import Agent
from kv_gym.engine.slots import SlotView


class KeyDiff(Agent):
    """Keep the slots whose keys point away from the mean key.

        s_i = -cos(k_i, mean_j k_j / ||k_j||), [N, L, H_kv, S]

    Needs no attention.

    Source: KeyDiff, arXiv:2504.15364.
    Differs: nothing in the rule; the paper evicts block by block while it reads a prompt.
    """

    name = "keydiff"

    def score(self, slots: SlotView) -> Tensor:
        """Compare each key with the anchor."""
        unit = F.normalize(slots.keys.float(), dim=-1)
        return -F.cosine_similarity(unit, unit.mean(-2, keepdim=True), dim=-1)
