"""The full-cache copy that reads along: what an episode's tokens would have cost had nothing been evicted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kv_gym.engine.reading import read_known
from kv_gym.llm.attention import attention_logits
from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM

NUMBERS_AT_ONCE = 2**24  # logits of a window in one layer


def attention_to(query: Tensor, key: Tensor, positions: Tensor, live: Tensor, scale: float) -> Tensor:
    """Attention that the queries of a window pay to some slots of a full cache, mean over queries and the GQA group.

    The softmax's denominator takes all slots, but only the logits of those asked for are turned into attention.

    Args:
        query: [R, H_q, T, D].
        key: Slots are positions, [R, H_kv, S, D].
        positions: Of the queries, [R, T].
        live: Positions of the slots asked for, [R, H_kv, K].
        scale: Factor on the logits.

    Returns:
        [R, H_kv], 0 to 1.
    """
    hidden = torch.arange(key.shape[2], device=key.device) > positions[..., None]  # [R, T, S]
    later = torch.zeros(hidden.shape, device=key.device).masked_fill_(hidden, -math.inf)[:, None, None]
    whole = attention_logits(query, key, scale).add_(later).logsumexp(-1, keepdim=True)  # [R, H_kv, group, T, 1]
    chosen = key.gather(2, live[..., None].expand(-1, -1, -1, key.shape[-1]))
    share = (attention_logits(query, chosen, scale) - whole).exp()
    seen = live[:, :, None, None] <= positions[:, None, None, :, None]  # [R, H_kv, 1, T, K]
    return (share * seen).sum(-1).mean((2, 3))


class Shadow:
    """A full cache for each of N episodes.

    Args:
        llm: The frozen LLM.
        n: Episodes, N.
        capacity: Longest text, tokens.
    """

    def __init__(self, llm: FrozenLLM, n: int, capacity: int) -> None:
        self.llm = llm
        self.cache = FullCache(llm.shape, n, capacity)

    def reset(self, rows: Tensor, tokens: Tensor) -> None:
        """Start episodes in `rows` [R] with their first tokens [R, T]."""
        self.cache.rows = rows
        read_known(self.llm, self.cache, tokens, 0, tokens.shape[1])

    def read(self, rows: Tensor, tokens: Tensor, positions: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Read a window and measure the attention it pays to slots that the evicting cache no longer has.

        Args:
            rows: Episodes that read, [R].
            tokens: [R, T].
            positions: [R, T].
            live: Positions of the slots that the evicting cache holds, this window's included, [L, R, H_kv, S].

        Returns:
            (logits [R, T, V], missed attention [R, L, H_kv]: mean over the window's queries and the GQA group).
        """
        missed: list[Tensor] = []

        def observe(layer: int, query: Tensor, key: Tensor, scale: float) -> None:
            at_once = max(1, NUMBERS_AT_ONCE // (query[0, ..., 0].numel() * key.shape[2]))
            parts = zip(*(tensor.split(at_once) for tensor in (query, key, positions, live[layer])), strict=True)
            missed.append(torch.cat([1 - attention_to(q, k, place, slots, scale) for q, k, place, slots in parts]))

        self.cache.rows = rows
        self.cache.observer = observe
        logits = self.llm.read(tokens, positions, self.cache)
        self.cache.observer = None
        return logits, torch.stack(missed, 1).clamp_min(0)
