"""Slots without a text: caches filled at random, as after some evictions, over a random LLM of their sizes."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kv_gym.engine.eviction import protected_slots
from kv_gym.engine.slots import Hindsight, SlotView
from kv_gym.llm.accumulators import ACCUMULATORS
from kv_gym.llm.cache import CacheShape, SlotCache
from kv_gym.llm.frozen import FrozenLLM


@pytest.fixture(scope="session")
def random_llm(random_llama: tuple[Any, Any]) -> FrozenLLM:
    """A random Llama of the caches' sizes; agents take its RoPE and its output projection."""
    model, tokenizer = random_llama
    return FrozenLLM(copy.deepcopy(model), tokenizer, "random-llama")  # it changes its model's attention


def fill_cache(
    n: int = 3,
    budget: int = 12,
    evict_every: int = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    lengths: list[int] | None = None,
) -> SlotCache:
    """A full cache: positions grow with gaps, the last `evict_every` slots are the newest tokens.

    Row i has read `lengths[i]` tokens. A length of `budget + evict_every` is an episode at its first decision: nothing
    is missing, and of the `n_obs` newest queries some do not exist.
    """
    draw = torch.Generator().manual_seed(seed)
    shape = CacheShape(n_layers=2, n_q_heads=4, n_kv_heads=2, head_dim=8, dtype=dtype, device=torch.device("cpu"))
    cache = SlotCache(shape, n, budget, evict_every, track=tuple(ACCUMULATORS))
    for tensor in (cache.keys, cache.values, cache.queries):
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    for row in range(n):
        length = 2 * cache.slots + 3 * row if lengths is None else lengths[row]
        cache.query_positions[row] = torch.arange(length - cache.n_obs, length).clamp_min(-1)
        for layer in range(shape.n_layers):
            for head in range(shape.n_kv_heads):
                old = torch.randperm(length - evict_every, generator=draw)[:budget].sort().values
                new = torch.arange(length - evict_every, length)
                cache.positions[layer, row, head] = torch.cat([old, new])
    for name in ("total_attention", "decayed_attention"):
        tensor = cache.statistics[name]
        tensor.copy_(torch.rand(tensor.shape, generator=draw))
    cache.length, cache.scale = cache.slots, 1 / math.sqrt(shape.head_dim)
    return cache


def view_cache(
    llm: FrozenLLM, cache: SlotCache, seeds: list[int] | None = None, decisions: list[int] | None = None
) -> SlotView:
    """The view of a cache whose rows have 6-token prompts; row i has seed 100 + i and stands at decision i."""
    rows = torch.arange(cache.n)
    positions = cache.positions.transpose(0, 1)
    length = cache.query_positions[:, -1] + 1
    view = SlotView(
        cache,
        protected_slots(positions, positions < 6, cache.evict_every, n_sink=0, protect_prompt=False),
        torch.full_like(rows, 6),
        length,
        rows.clone() if decisions is None else torch.tensor(decisions),
        rows + 100 if seeds is None else torch.tensor(seeds),
        torch.zeros(cache.n, int(length.max())),
        torch.zeros(cache.n, int(length.max())),
        llm,
    )
    coming = torch.rand(*view.shape, 3, generator=torch.Generator().manual_seed(9)) ** 12  # by blocks of queries
    view.hindsight = Hindsight(coming.amax(-1), coming.sum(-1))
    return view


def select_row(view: SlotView, row: int) -> SlotView:
    """The view of a copy of one row of a batch alone."""
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
        view._llm,
    )
    assert view.hindsight is not None
    part.hindsight = Hindsight(view.hindsight.future[one], view.hindsight.total[one])
    return part


def evict_and_read(view: SlotView, keep: Tensor) -> SlotView:
    """Keep the slots `keep` [N, L, H_kv, budget], read a window of random states, and return the next decision's view.

    What a row reads follows from its seed and its length alone, so that it does not depend on the batch.
    """
    cache = view._cache
    shape, length = cache.shape, cache.evict_every
    cache.evict(keep.transpose(0, 1))
    cache.begin(view.text_length[:, None] + torch.arange(length))
    draws = [
        torch.Generator().manual_seed(1000 * seed + read)
        for seed, read in zip(view.seeds.tolist(), view.text_length.tolist(), strict=True)
    ]

    def states(heads: int) -> Tensor:
        drawn = [torch.randn(heads, length, shape.head_dim, generator=draw) for draw in draws]
        return torch.stack(drawn).to(shape.dtype)  # [N, heads, T, D]

    for layer in range(shape.n_layers):
        keys, _ = cache.write(layer, states(shape.n_kv_heads), states(shape.n_kv_heads))
        cache.observe(layer, states(shape.n_q_heads), keys, cache.scale)
    cache.settle()
    cache._settled = None  # tests change keys and queries afterwards
    return view_cache(view._llm, cache, view.seeds.tolist(), (view.decision + 1).tolist())


@pytest.fixture
def make_cache() -> Callable[..., SlotCache]:
    return fill_cache


@pytest.fixture
def make_view(random_llm: FrozenLLM) -> Callable[..., SlotView]:
    return functools.partial(view_cache, random_llm)


@pytest.fixture
def take_row() -> Callable[[SlotView, int], SlotView]:
    return select_row


@pytest.fixture
def read_on() -> Callable[[SlotView, Tensor], SlotView]:
    return evict_and_read
