"""Reading a known text into a full cache without more memory than its length asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from kv_gym.llm.cache import FullCache
from kv_gym.llm.frozen import FrozenLLM

NUMBERS_AT_ONCE = 2**26
"""Numbers of a temporary: the logits of a chunk, what its queries may see, or its attention in one layer."""

LOGITS_AT_ONCE = 2**28
"""Logits of a known window that are there at once: a large vocabulary's of 128 tokens would be most of all memory."""

MOST_QUERIES = 1024
"""Tokens of a text that are read at once: more gain nothing, and what they may see grows with their square."""

TOKENS_AT_ONCE = 2**16
"""Tokens that are read into slots at once where episodes start."""


def queries_at_once(numbers: int) -> int:
    """Tokens of each text to read at once, where one of them takes so many numbers."""
    return min(MOST_QUERIES, max(1, NUMBERS_AT_ONCE // max(1, numbers)))


def read_known(llm: FrozenLLM, cache: FullCache, tokens: Tensor, start: int, stop: int) -> None:
    """Read tokens `start` to `stop` - 1 of texts [R, T] in chunks, when nobody asks for their logits."""
    n = len(tokens)
    chunk = queries_at_once(n * llm.shape.group * stop)
    for first in range(start, stop, chunk):
        last = min(first + chunk, stop)
        positions = torch.arange(first, last, device=tokens.device).expand(n, -1)
        cache.expect(last)
        llm.read(tokens[:, first:last], positions, cache, last_only=True)
