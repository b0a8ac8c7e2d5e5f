"""Golden Eviction as an agent."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_gym.errors import ConfigError
from kv_gym.slots import SlotView


class Golden(Agent):
    """Keep the slots that will get the most attention: the reference line that knows the future.

        s = future attention in the full cache (`kv_gym.golden.golden_scores`), [N, L, H_kv, S]

    No agent keeps more of that attention in one decision. It is greedy, a strong label and not a proven best reward.

    Source: ForesightKV, arXiv:2602.03203.
    Differs: see `kv_gym.golden`.
    """

    name = "golden"
    uses_hindsight = True

    def score(self, slots: SlotView) -> Tensor:
        """Return the future attention.

        Raises:
            ConfigError: The slots come without hindsight.
        """
        if slots.hindsight is None:
            raise ConfigError(
                "'golden' needs hindsight, and these slots come without. Run it where the full-cache text is known,"
                " and hand hindsight to agents with `uses_hindsight`."
            )
        return slots.hindsight.future
