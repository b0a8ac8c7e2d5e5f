"""Scissorhands: pivotal tokens stay pivotal."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import attended, keep_newest
from kv_gym.engine.slots import SlotView


class Scissorhands(Agent):
    """Evict the slots that got less than average attention most often over the last queries.

        c_i = share of the last `history` queries (those since i was written) that paid i less than 1 / live slots
        s_i = -c_i, [N, L, H_kv, S]

    The newest `n_recent` slots stay.

    Args:
        history: Queries that count; default is `budget`. Rounded up to whole windows.
        n_recent: Newest slots that stay.

    Source: Scissorhands, arXiv:2305.17118; n_recent 10 and history 400 are its defaults as cold-compress gives them.
    Differs: history is `budget` queries, because 400 is absolute. A GQA group shares its slots: a query counts as low
        when it is low for all of the group. A slot younger than the history is judged by its own queries.
        All layers have one budget (the paper gives later layers more). Queries before the first eviction's window
        are not counted.
    """

    name = "scissorhands"

    def __init__(self, history: int = 0, n_recent: int = 10) -> None:
        self.history, self.n_recent = history, n_recent

    def score(self, slots: SlotView) -> Tensor:
        """Write this window's counts over the oldest ones, then add up."""
        windows = -(-(self.history or slots.budget) // slots.evict_every)
        high, seen = attended(slots, 1.0)
        place = slots.decision % windows
        low_count, count = slots.carry("low-0"), slots.carry("count-0")
        total_low, total = low_count * 0, count * 0
        for i in range(windows):
            low_count, count = slots.carry(f"low-{i}"), slots.carry(f"count-{i}")
            here = (place == i)[:, None, None, None]
            low_count.copy_((seen & ~high).sum(-2).where(here, low_count))
            count.copy_(seen.sum(-2).where(here, count))
            total_low, total = total_low + low_count, total + count
        return keep_newest(-total_low / total.clamp_min(1), self.n_recent)
