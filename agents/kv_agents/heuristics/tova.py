"""TOVA: the last query decides, for a whole layer."""

from __future__ import annotations

from torch import Tensor

from kv_agents.base import Agent
from kv_gym.engine.slots import SlotView


class TOVA(Agent):
    """Keep the slots that the last query attends to, the same ones in all heads of a layer.

        s_i = mean over all query heads of the layer of attention_{last, i}, copied to every KV head, [N, L, H_kv, S]

    Heads agree on their slots as long as they hold the same ones, which they do from the first eviction on.

    Source: TOVA (Transformers are Multi-State RNNs), arXiv:2401.06104.
    Differs: evicts `evict_every` slots at once, not one a step. Nothing is protected, as in the paper; kvpress forces
        the last slot to stay.
    """

    name = "tova"

    def score(self, slots: SlotView) -> Tensor:
        """Average over groups and KV heads alike."""
        last = slots.attention(1)[..., 0, :]  # [N, L, H_kv, group, S]
        return last.mean((2, 3))[:, :, None].expand(slots.shape)
