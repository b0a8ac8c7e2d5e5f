"""StreamingLLM: attention sinks and the newest tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import KEPT
from kv_gym.engine.slots import SlotView


class Streaming(Agent):
    """Keep the first tokens of the text and the newest; evict the oldest in between.

        s = KEPT if position < n_sink else position, [N, L, H_kv, S]

    Args:
        n_sink: First tokens that stay.

    Source: StreamingLLM, arXiv:2309.17453.
    Differs: keys keep the rotation of their absolute position. The paper caches keys before RoPE and rotates them by
        their place in the cache at each step, so that the distance to the sinks stays bounded. Evicts `evict_every`
        slots at once, not one a step.
    """

    name = "streaming"

    def __init__(self, n_sink: int = 4) -> None:
        self.n_sink = n_sink

    def score(self, slots: SlotView) -> Tensor:
        """Rank by position, sinks first."""
        return torch.where(slots.positions < self.n_sink, KEPT, slots.positions.float())
