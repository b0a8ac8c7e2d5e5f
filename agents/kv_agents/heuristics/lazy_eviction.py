"""LazyEviction: slots that may come back."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import attended, keep_newest
from kv_gym.engine.slots import SlotView
from kv_gym.llm.statistics import recurrence


class LazyEviction(Agent):
    """Keep the slots whose attention tends to return, as long as it is not overdue.

        TS_i: last query that attended to slot i; MRI_i: longest gap between two such queries
        s_i = 2 sigmoid(-(t - TS_i) / max(MRI_i, 1)) + 2 sigmoid(-MRI_i / W) 1[MRI_i > 0], [N, L, H_kv, S]

    The newest W = `evict_every` slots stay. A query attends to a slot when one of the group pays it more than `alpha`
    times the average slot's share.

    Args:
        alpha: Multiples of the average share of attention.

    Source: LazyEviction, arXiv:2506.15969. The paper's constants were not available to us: the form is that of its
        description (first term: will it come back, falling in (t - TS) / MRI; second: higher for short MRI, 0 without).
    Differs: alpha is relative (0.1 of the average), because the paper's 1e-4 is absolute, for caches of about a
        thousand slots. W is the eviction window; the paper measures it on samples of the test set, which is a leak.
        Queries before the first eviction's window are not counted.
    """

    name = "lazy-eviction"

    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha = alpha

    def score(self, slots: SlotView) -> Tensor:
        """Bring time stamp and gap of each slot up to date, then judge."""
        hit, _ = attended(slots, self.alpha)
        last, gap = slots.carry("last-hit", fill=-1.0), slots.carry("longest-gap")
        when = slots.query_positions(slots.evict_every)[:, None, None, :, None]
        new_last, new_gap = recurrence(last.long(), gap.long(), hit, when)
        last.copy_(new_last)
        gap.copy_(new_gap)
        waited = slots.text_length[:, None, None, None] - 1 - torch.maximum(last, slots.positions)
        back = 2 * torch.sigmoid(-waited / gap.clamp_min(1))
        often = 2 * torch.sigmoid(-gap / slots.evict_every) * (gap > 0)
        return keep_newest(back + often, slots.evict_every)
