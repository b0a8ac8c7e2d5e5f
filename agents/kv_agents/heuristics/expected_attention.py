"""Expected Attention: what queries like those so far will look for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.window import KEPT
from kv_gym.engine.slots import SlotView
from kv_gym.llm.frozen import FrozenLLM


class ExpectedAttention(Agent):
    """Keep the slots that future queries are expected to attend to, weighted by the size of their values.

        mu, Sigma: mean and covariance of the queries so far, before RoPE, per query head
        mu', Sigma': the same under the average rotation of the next `horizon` positions
        z_i = k_i mu' / sqrt(D) + k_i Sigma' k_i / (2 D); s_i = (mean over the group of softmax_i(z) + eps) ||v_i||_2

    in [N, L, H_kv, S]. The first `n_sink` tokens stay and are left out of the softmax.

    Args:
        horizon: Future positions that are averaged over; default is 4 times `evict_every`.
        n_sink: First tokens that stay.
        eps: Added to the expected attention.

    Source: Expected Attention, arXiv:2510.00636, defaults of kvpress (n_sink 4, eps 0, covariance and value norms on).
    Differs: statistics run over all queries of the episode from its first decision's window on; future positions
        count from the true position of the text (kvpress's decoding counts from the length of its buffer). The
        horizon, 512 there, is scaled to 4 windows.
    """

    name = "expected-attention"

    def __init__(self, horizon: int = 0, n_sink: int = 4, eps: float = 0.0) -> None:
        self.horizon, self.n_sink, self.eps = horizon, n_sink, eps

    def prepare(self, llm: FrozenLLM) -> None:
        """Refuse models whose RoPE cannot be undone."""
        llm.check_rotary()

    def score(self, slots: SlotView) -> Tensor:
        """Turn the running moments into the future and compare them with the keys."""
        mean, covariance = running_moments(slots)
        rotation = average_rotation(slots, self.horizon or 4 * slots.evict_every)  # [N, D, D]
        mean = torch.einsum("nij,nlqj->nlqi", rotation, mean)
        covariance = torch.einsum("nij,nlqjk,nmk->nlqim", rotation, covariance, rotation)
        n, layers, heads, _ = slots.shape
        width = mean.shape[-1]
        keys = slots.keys.float()[:, :, :, None]  # [N, L, H_kv, 1, S, D]
        mean = mean.reshape(n, layers, heads, -1, width, 1)
        covariance = covariance.reshape(n, layers, heads, -1, width, width)
        scale = slots.scale
        z = (keys @ mean)[..., 0] * scale + ((keys @ covariance) * keys).sum(-1) * scale**2 / 2  # [N, L, H_kv, g, S]
        sink = slots.positions < self.n_sink
        expected = z.masked_fill(sink[:, :, :, None], -math.inf).softmax(-1).mean(3)
        scores = (expected + self.eps) * slots.values.float().norm(dim=-1)
        return scores.masked_fill(sink, KEPT)


def running_moments(slots: SlotView) -> tuple[Tensor, Tensor]:
    """Add the window's queries, before RoPE, to the episode's sums.

    Returns:
        (mean [N, L, H_q, D], covariance [N, L, H_q, D, D]) of all queries so far.
    """
    queries = slots.unrotated_queries(slots.evict_every)  # [N, L, H_q, T, D]
    *shape, length, width = queries.shape
    count = slots.memory("queries", (1,))
    total = slots.memory("query-sum", (shape[2], width))
    square = slots.memory("query-square", (shape[2], width, width))
    count += length
    total += queries.sum(-2)
    square += queries.transpose(-1, -2) @ queries
    mean = total / count[..., None]
    return mean, square / count[..., None, None] - mean[..., :, None] * mean[..., None, :]


def average_rotation(slots: SlotView, horizon: int) -> Tensor:
    """Mean of the RoPE matrices of the next `horizon` positions, [N, D, D]; channels without RoPE stay."""
    future = slots.text_length[:, None] + torch.arange(horizon, device=slots.device)
    cos, sin = (values.mean(1) for values in slots.rotary(future))  # [N, R]
    n, rotated = cos.shape
    half, width = rotated // 2, slots.keys.shape[-1]
    matrix = torch.eye(width, device=slots.device).repeat(n, 1, 1)
    matrix[:, :rotated, :rotated] = torch.diag_embed(cos)
    matrix[:, :half, half:rotated] -= torch.diag_embed(sin[:, :half])
    matrix[:, half:rotated, :half] += torch.diag_embed(sin[:, half:])
    return matrix
