"""Random eviction that spares the prompt."""

from __future__ import annotations

from torch import Tensor

from kv_agents.heuristics.random import Random
from kv_gym.engine.slots import SlotView


class RandomPrompt(Random):
    """Random among the generated tokens; the prompt goes only when nothing else is left.

        s = U(0, 1) + 1[slot is in the prompt], [N, L, H_kv, S]

    A strong baseline: Random Attention reports that it matches the best selectors on reasoning, so much of what a
    method gains may be the prompt that it happens to keep.

    Source: Random Attention, arXiv:2609.03430.
    Differs: the prompt is not untouchable. When it fills more than the budget, it is evicted at random too.
    """

    name = "random-prompt"

    def score(self, slots: SlotView) -> Tensor:
        """Lift the prompt above every draw."""
        return super().score(slots) + slots.in_prompt
