"""Slots without an LLM: caches filled at random, as after some evictions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from kv_gym.eviction import protected_slots
from kv_gym.llm.cache import CacheShape, SlotCache
from kv_gym.slots import Hindsight, SlotView


def fill_cache(
    n: int = 3, budget: int = 12, evict_every: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0
) -> SlotCache:
    """A full cache: positions grow with gaps, the last `evict_every` slots are the newest tokens."""
    draw = torch.Generator().manual_seed(seed)
    shape = CacheShape(n_layers=2, n_q_heads=4, n_kv_heads=2, head_dim=8, dtype=dtype, device=torch.device("cpu"))
    cache = SlotCache(shape, n, budget, evict_every, track=True)
    for tensor in (cache.keys, cache.values, cache.queries):
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    for row in range(n):
        length = text_length(cache, row)
        cache.query_positions[row] = torch.arange(length - cache.n_obs, length).clamp_min(-1)
        for layer in range(shape.n_layers):
            for head in range(shape.n_kv_heads):
                old = torch.randperm(length - evict_every, generator=draw)[:budget].sort().values
                new = torch.arange(length - evict_every, length)
                cache.positions[layer, row, head] = torch.cat([old, new])
    assert cache.statistics is not None
    cache.statistics.total.copy_(torch.rand(cache.statistics.total.shape, generator=draw))
    cache.length, cache.scale = cache.slots, 1 / math.sqrt(shape.head_dim)
    return cache


def text_length(cache: SlotCache, row: int) -> int:
    return 2 * cache.slots + 3 * row


def view_cache(cache: SlotCache, lengths: list[int] | None = None, seeds: list[int] | None = None) -> SlotView:
    """The view of a cache whose rows have 6-token prompts; row i has seed 100 + i and stands at decision i."""
    rows = torch.arange(cache.n)
    length = torch.tensor([text_length(cache, row) for row in range(cache.n)] if lengths is None else lengths)
    positions = cache.positions.transpose(0, 1)
    protected = protected_slots(positions, positions < 6, cache.evict_every, n_sink=0, protect_prompt=False)
    table = torch.zeros(cache.n, int(length.max()))
    seed = rows + 100 if seeds is None else torch.tensor(seeds)
    view = SlotView(cache, protected, torch.full_like(rows, 6), length, rows.clone(), seed, table, table)
    future = torch.rand(view.shape, generator=torch.Generator().manual_seed(9)) ** 4
    view.hindsight = Hindsight(future)
    return view


def select_row(view: SlotView, row: int) -> SlotView:
    """The view of one row of a batch alone."""
    one = slice(row, row + 1)
    part = SlotView(
        view._cache.select(torch.tensor([row])),
        view.protected[one],
        view.prompt_length[one],
        view.text_length[one],
        view.decision[one],
        view.seeds[one],
        view._token_surprisal[one],
        view._token_entropy[one],
    )
    assert view.hindsight is not None
    part.hindsight = Hindsight(view.hindsight.future[one])
    return part


@pytest.fixture
def make_cache() -> Callable[..., SlotCache]:
    return fill_cache


@pytest.fixture
def make_view() -> Callable[..., SlotView]:
    return view_cache


@pytest.fixture
def take_row() -> Callable[[SlotView, int], SlotView]:
    return select_row
