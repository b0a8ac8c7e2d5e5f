"""Keyformer: heavy hitters under a softened, noisy softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.random import draw
from kv_agents.heuristics.window import keep_newest
from kv_gym.engine.slots import SlotView
from kv_gym.llm.attention import masked_softmax


class Keyformer(Agent):
    """Keep the slots with the largest sum of attention whose logits carry Gumbel noise and a rising temperature.

        s_i += sum over the window's queries of softmax_i((logit + Gumbel) / tau), mean over the group, [N, L, H_kv, S]
        tau rises from 1 to 2 over the first `horizon` generated tokens

    The newest `recent` share of the budget stays.

    Args:
        recent: Share of the budget for the newest slots, 0 to 1.
        horizon: Generated tokens until tau is 2; default is 8 times the budget.

    Source: Keyformer, MLSys 2024, arXiv:2403.09054; recent 0.3 and tau 1 to 2 from its code.
    Differs: averaged over the GQA group, which shares its slots. tau follows the tokens, not `tau_delta` a step, and
        as the length is unknown in advance, a horizon that grows with the budget. Queries before the first eviction's
        window are not counted.
    """

    name = "keyformer"
    scope = "model"  # one stream of draws for all layers

    def __init__(self, recent: float = 0.3, horizon: int = 0) -> None:
        self.recent, self.horizon = recent, horizon

    def score(self, slots: SlotView) -> Tensor:
        """Add the window's noisy attention to the sums."""
        logits, visible = slots.logits(slots.evict_every)
        uniform = draw(slots, logits.shape[1:]).clamp(1e-7, 1 - 1e-7)
        generated = slots.text_length - slots.prompt_length
        tau = 1 + (generated / (self.horizon or 8 * slots.budget)).clamp(0, 1)
        noisy = (logits - torch.log(-torch.log(uniform))) / tau[:, None, None, None, None, None]
        total = slots.carry("keyformer")
        total += masked_softmax(noisy, visible).sum(-2).mean(3)
        return keep_newest(total, int(self.recent * slots.budget))
