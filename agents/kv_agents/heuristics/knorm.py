"""K-norm: small keys stay."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_gym.engine.slots import SlotView


class KNorm(Agent):
    """Keep the slots with the smallest keys.

        s = -||k||_2, [N, L, H_kv, S]

    Needs no attention. On models that normalise their keys (Qwen3) norms vary little and the score says little.

    Source: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", arXiv:2406.11430.
    Differs: the paper leaves its first two layers uncompressed; here every layer has the same budget.
    """

    name = "knorm"

    def score(self, slots: SlotView) -> Tensor:
        """Negate the norms."""
        return -slots.keys.float().norm(dim=-1)
