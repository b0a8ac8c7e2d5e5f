"""H2O: heavy hitters and the newest tokens, with the two usual remedies for its love of old slots."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import keep_newest
from kv_gym.engine.features import decayed_per_opportunity, per_opportunity
from kv_gym.engine.slots import SlotView


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
    needs = ("total_attention",)

    def heavy(self, slots: SlotView) -> Tensor:
        """How heavy each slot hits, [N, L, H_kv, group, S]."""
        return slots.total_attention

    def score(self, slots: SlotView) -> Tensor:
        """Average over the group, then keep the recent half."""
        return keep_newest(self.heavy(slots).mean(3), slots.budget // 2)


class H2OMean(H2O):
    """H2O by the attention per opportunity: the sum over the number of queries since the slot was written.

        s_i = mean over the group of sum_{t >= i} attention_{t, i} / (T - i), [N, L, H_kv, S]

    Under uniform attention all slots of one age score alike, and the bias turns towards the newer ones.

    Source: H2O, arXiv:2306.14048, as kvpress's ObservedAttentionPress divides it.
    Differs: the count is each slot's own number of queries; kvpress divides by the index in the cache, which is
        another number once slots were evicted. Otherwise as `H2O`.
    """

    name = "h2o-mean"

    def heavy(self, slots: SlotView) -> Tensor:
        """Attention per opportunity."""
        return per_opportunity(slots.total_attention, slots)


class H2ODecayed(H2O):
    """H2O by the decayed attention per opportunity: what happened long ago counts less.

        s_i = mean over the group of sum_t w^(T - t) attention_{t, i} / sum_t w^(T - t), w^16 = 0.9, [N, L, H_kv, S]

    Source: H2O, arXiv:2306.14048; the decayed sum of ForesightKV's features (arXiv:2602.03203), there per chunk.
    Differs: as `H2O`; decays per query, so that `evict_every` does not change its meaning.
    """

    name = "h2o-decayed"
    needs = ("decayed_attention",)

    def heavy(self, slots: SlotView) -> Tensor:
        """Decayed attention per opportunity."""
        return decayed_per_opportunity(slots)
