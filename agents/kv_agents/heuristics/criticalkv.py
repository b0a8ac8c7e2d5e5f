"""CriticalKV on SnapKV: slots whose values move the output."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.heuristics.snapkv import SnapKV
from kv_agents.heuristics.window import KEPT, keep_newest
from kv_gym.engine.slots import SlotView
from kv_gym.llm.frozen import FrozenLLM


class CriticalKV(SnapKV):
    """Give half of the budget to SnapKV's best, the rest to those that attention and projected value choose together.

        n_i = mean over the group of ||W_O v_i||_1
        s_i = KEPT for the best `first * budget` slots by SnapKV's score a_i; (a_i + eps) n_i for the others

    in [N, L, H_kv, S]. The newest `n_obs` slots stay, within the first half.

    Args:
        n_obs: Observation window of SnapKV, queries.
        kernel: Width of its max-pooling, slots; odd, 1 for none.
        first: Share of the budget that SnapKV fills, 0 to 1.
        eps: Keeps slots without attention comparable by their values.

    Source: CriticalKV, arXiv:2502.03805; first 0.5 and eps 1e-4 from kvpress's `criticalkv_press.py`.
    Differs: n_i is computed once, when the slot is new: the LLM is frozen.
    """

    name = "criticalkv"

    def __init__(self, n_obs: int = 8, kernel: int = 7, first: float = 0.5, eps: float = 1e-4) -> None:
        super().__init__(n_obs, kernel)
        self.first, self.eps = first, eps

    def prepare(self, llm: FrozenLLM) -> None:
        """See that the model has an output projection to read."""
        _ = llm.output_weights

    def score(self, slots: SlotView) -> Tensor:
        """Rank by attention first, by the attention-weighted output then."""
        attention = super().score(slots)
        n_first = int(self.first * slots.budget)
        # Pooling makes equals of neighbours: of these the newer ones are the best, as everywhere.
        best = attention.argsort(dim=-1, stable=True)[..., attention.shape[-1] - n_first :]
        critical = (attention.clamp_max(1) + self.eps) * output_norms(slots)
        return keep_newest(critical.scatter(-1, best, KEPT), self.n_obs)


def output_norms(slots: SlotView) -> Tensor:
    """L1 norm of each value after the output projection, mean over the group, [N, L, H_kv, S]."""
    norms = slots.carry("output-norm")
    # New slots alone, unless an episode has just begun.
    start = 0 if bool((slots.decision == 0).any()) else slots.shape[-1] - slots.evict_every
    values = slots.values[..., start:, :]
    weights = slots.output_weights  # [L, H_kv, group, D, hidden]
    for layer in range(values.shape[1]):  # the projected values of all layers at once would be large
        projected = torch.einsum("nhsd,hgdo->nhgso", values[:, layer].float(), weights[layer].float())
        norms[:, layer, :, start:] = projected.abs().sum(-1).mean(2)
    return norms
