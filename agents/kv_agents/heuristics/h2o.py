"""H2O: heavy hitters and the newest tokens."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import keep_newest
from kv_gym.slots import SlotView


class H2O(Agent):
    """Keep the slots that got the most attention so far, and as many of the newest.

        s_i = mean over the group of sum_{t >= i} attention_{t, i}, [N, L, H_kv, S]

    Half of the budget (`budget // 2` slots) goes to the newest slots, as in the paper: the sum favours old slots, which
    had more queries to collect from, and the recent half is what offsets it.

    Source: H2O, arXiv:2306.14048.
    Differs: a GQA group shares its slots, so the sum is averaged over it (the paper has one cache per query head).
        Evicts `evict_every` slots at once, not one a step. The halves are halves of `budget`; the official code takes
        10% of the prompt length for each.
    """

    name = "h2o"
    needs_statistics = True

    def score(self, slots: SlotView) -> Tensor:
        """Average the sums over the group, then keep the recent half."""
        return keep_newest(slots.total_attention.mean(3), slots.budget // 2)
