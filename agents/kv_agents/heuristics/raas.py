"""RaaS: slots that were important lately."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import KEPT
from kv_gym.engine.slots import SlotView


class RaaS(Agent):
    """Keep the slots that were most lately among the better attended ones; the prompt stays.

        s_i = position of the last query that ranked slot i in the upper `share` of the slots it saw (the maximum over
        the group counts), or the slot's own position, whichever is later; in [N, L, H_kv, S]

    Args:
        share: Share of the slots that each query refreshes, 0 to 1.

    Source: RaaS, arXiv:2502.11147.
    Differs: the paper stamps pages of 16 tokens, whose attention it estimates from a representative key; here slots are
        stamped, by their true attention. The prompt is not untouchable: when it fills more than the budget, its
        oldest slots go. Queries before the first eviction's window are not counted.
    """

    name = "raas"

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def score(self, slots: SlotView) -> Tensor:
        """Refresh the stamps with the window's queries."""
        rows = slots.attention().amax(3)  # [N, L, H_kv, T, S]
        seen = slots.seen(slots.evict_every)
        refreshed = (self.share * seen.sum(-1, keepdim=True)).ceil().long().clamp_min(1)
        ranked = rows.masked_fill(~seen, -1).sort(-1, descending=True).values
        fresh = seen & (rows >= ranked.gather(-1, refreshed - 1))
        when = torch.where(fresh, slots.query_positions(slots.evict_every)[:, None, None, :, None], -1)
        stamp = slots.carry("raas", fill=-1.0)
        stamp.copy_(torch.stack([stamp, when.amax(-2).float(), slots.positions.float()]).amax(0))
        return stamp.masked_fill(slots.in_prompt, KEPT)
