"""The full cache: nothing is evicted."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_gym.engine.slots import SlotView


class FullCache(Agent):
    """The reference line above all: what the frozen LLM does when no slot ever goes.

    It is not asked for scores; a benchmark takes its rows from the reference generations.
    """

    name = "full"
    evicts = False

    def score(self, slots: SlotView) -> Tensor:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError("'full' evicts nothing, so it has no keep scores. Take its row from the reference generation.")
