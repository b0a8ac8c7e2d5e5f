"""The full-cache copy that reads along: what an episode's tokens would have cost had nothing been evicted."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_gym.engine.reading import read_known
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
        cache = self.cache
        cache.rows, cache.live, cache.missed = rows, live, []
        logits = self.llm.read(tokens, positions, cache)
        missed, cache.live, cache.missed = torch.stack(cache.missed, 1), None, []
        return logits, missed
