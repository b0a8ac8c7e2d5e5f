"""The full-cache copy that reads along: what an episode's tokens would have cost had nothing been evicted."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_gym.llm.attention import attention_rows
from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM


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

    def reset(self, rows: Tensor, tokens: Tensor, positions: Tensor) -> None:
        """Start episodes in `rows` [R] with their first tokens [R, T]."""
        self.cache.rows = rows
        self.llm.read(tokens, positions, self.cache, last_only=True)

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
            attention = attention_rows(query, key, self.cache.seen(), scale).mean((2, 3))  # [R, H_kv, S_full]
            missed.append(1 - attention.gather(-1, live[layer]).sum(-1))

        self.cache.rows = rows
        self.cache.observer = observe
        logits = self.llm.read(tokens, positions, self.cache)
        self.cache.observer = None
        return logits, torch.stack(missed, 1).clamp_min(0)
