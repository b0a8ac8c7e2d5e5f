"""Golden Eviction as agents."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_gym.engine.slots import Hindsight, SlotView
from kv_gym.errors import ConfigError


class Golden(Agent):
    """Keep the slots that will get the most attention: the reference line that knows the future.

        s = max over the coming blocks of evict_every queries of their mean full-cache attention, [N, L, H_kv, S]

    No agent keeps more of that attention in one decision. It is greedy, a strong label and not a proven best reward.

    Source: ForesightKV, arXiv:2602.03203.
    Differs: see `kv_gym.engine.golden`.
    """

    name = "golden"
    uses_hindsight = True

    def score(self, slots: SlotView) -> Tensor:
        """Return the future attention.

        Raises:
            ConfigError: The slots come without hindsight.
        """
        return _hindsight(self.name, slots).future


class GoldenSum(Agent):
    """Golden Eviction by the sum over the coming blocks instead of their maximum: often useful beats once crucial.

        s = sum over the coming blocks of evict_every queries of their mean full-cache attention, [N, L, H_kv, S]

    Source: the utility of KVP, arXiv:2602.10238, as an agent; a variant for comparison.
    """

    name = "golden-sum"
    uses_hindsight = True

    def score(self, slots: SlotView) -> Tensor:
        """Return the summed future attention.

        Raises:
            ConfigError: The slots come without hindsight.
        """
        return _hindsight(self.name, slots).total


def _hindsight(name: str, slots: SlotView) -> Hindsight:
    if slots.hindsight is None:
        raise ConfigError(
            f"{name!r} needs hindsight, and these slots come without. Run it where the full-cache text is known,"
            " and hand hindsight to agents with `uses_hindsight`."
        )
    return slots.hindsight
