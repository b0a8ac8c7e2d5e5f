"""LagKV: slots that stick out of the range of what follows them."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import KEPT
from kv_gym.engine.slots import SlotView
from kv_gym.llm.attention import masked_softmax


class LagKV(Agent):
    """Split the slots into lags of equal length and keep those that vary most against the lag after theirs.

        z_i = (x_i - min over the next lag) / (max - min over the next lag), per channel
        s_i = softmax over its lag of the standard deviation over channels of z_i, summed over keys and values

    in [N, L, H_kv, S]. The first `n_sink` tokens and the newest lag stay. Needs no attention.

    Args:
        lag: Length of a lag, slots; default is `evict_every`.
        n_sink: First tokens that stay.

    Source: LagKV, arXiv:2504.04704.
    Differs: the paper keeps a share of each lag once and freezes it, so its cache grows; under a fixed budget all
        slots are scored again at each decision, and the scores of all lags compete. Lags are counted from the newest
        slot, and the shorter oldest one is scaled to the mean score of the others. The paper's lags have 1024 slots
        and 16 sinks; 4 sinks here, as in kvpress.
    """

    name = "lagkv"

    def __init__(self, lag: int = 0, n_sink: int = 4) -> None:
        self.lag, self.n_sink = lag, n_sink

    def score(self, slots: SlotView) -> Tensor:
        """Sum the scores of keys and values."""
        lag = self.lag or slots.evict_every
        sink = slots.positions < self.n_sink
        scores = lag_scores(slots.keys.float(), lag, sink) + lag_scores(slots.values.float(), lag, sink)
        scores = scores.masked_fill(sink, KEPT)
        scores[..., -lag:] = KEPT
        return scores


def lag_scores(states: Tensor, lag: int, sink: Tensor) -> Tensor:
    """Score keys or values [..., S, D] against the lag after theirs, [..., S]; 0 for the newest lag.

    Slots marked in `sink` [..., S], the oldest, are no part of a lag. Each lag sums to 1, an oldest one with r < `lag`
    slots to r / `lag`. Channels that do not vary in the reference are left out of the standard deviation.
    """
    *batch, n_slots, width = states.shape
    missing = -n_slots % lag
    padded = torch.cat([states[..., :1, :].expand(*batch, missing, width), states], -2)
    lags = padded.reshape(*batch, -1, lag, width)
    low, high = lags[..., 1:, :, :].amin(-2, keepdim=True), lags[..., 1:, :, :].amax(-2, keepdim=True)
    varies = high > low
    z = torch.where(varies, (lags[..., :-1, :, :] - low) / (high - low), 0.0)
    count = varies.sum(-1).clamp_min(2)
    centred = torch.where(varies, z - z.sum(-1, keepdim=True) / count[..., None], 0.0)
    spread = (centred.square().sum(-1) / (count - 1)).sqrt()  # [..., lags - 1, lag]
    real = torch.cat([sink.new_zeros(*batch, missing), ~sink], -1).reshape(*batch, -1, lag)[..., :-1, :]
    shares = masked_softmax(spread, real) * (real.sum(-1, keepdim=True) / lag)
    scores = torch.cat([shares.flatten(-2), shares.new_zeros(*batch, lag)], -1)
    return scores[..., missing:]
