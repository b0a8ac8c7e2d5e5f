"""A window read token by token is the window read at once, whatever way it is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kv_gym.errors import ConfigError
from kv_gym.llm.cache import FullCache, SlotCache
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.llm.tokens import How, TokenReader, way_to_read

N, BUDGET, EVERY = 3, 10, 4


@pytest.fixture(scope="module")
def llm(random_model) -> FrozenLLM:
    return load_llm(str(random_model))


@pytest.fixture(scope="module")
def tokens(llm: FrozenLLM) -> Tensor:
    return torch.randint(3, llm.n_vocabulary, (N, BUDGET + 4 * EVERY), generator=torch.Generator().manual_seed(5))


def positions(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop).expand(N, -1)


def windows(llm: FrozenLLM, tokens: Tensor, how: How | None) -> tuple[Tensor, SlotCache]:
    """Logits of three windows with evictions between them, and the cache; None reads each at once."""
    cache = SlotCache(llm.shape, N, BUDGET, EVERY)
    llm.read(tokens[:, : cache.slots], positions(0, cache.slots), cache)
    reader, found = TokenReader(llm, cache, how or "eager"), []
    for start in range(cache.slots, tokens.shape[1], EVERY):
        cache.evict(torch.arange(BUDGET).expand(*cache.positions.shape[:3], -1) + 1)
        window, places = tokens[:, start : start + EVERY], positions(start, start + EVERY)
        if how is None:
            found.append(llm.read(window, places, cache))
            continue
        cache.open(places)
        for offset in range(EVERY):
            reader.tokens.copy_(window[:, offset])
            reader.positions.copy_(places[:, offset])
            found.append(reader.read().clone()[:, None])
    return torch.cat(found, 1), cache


@pytest.mark.parametrize("how", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_token_by_token_is_at_once(llm: FrozenLLM, tokens: Tensor, how: How) -> None:
    (logits, cache), (expected, whole) = windows(llm, tokens, how), windows(llm, tokens, None)
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=0)
    for name in ("keys", "values", "queries"):
        torch.testing.assert_close(getattr(cache, name), getattr(whole, name), atol=3e-5, rtol=0)
    assert torch.equal(cache.positions, whole.positions) and torch.equal(cache.query_positions, whole.query_positions)


@pytest.mark.slow
def test_what_was_compiled_for_a_model_is_not_used_for_another(llm: FrozenLLM, tokens: Tensor) -> None:
    windows(llm, tokens, "compiled")
    before = [parameter.clone() for parameter in llm.model.parameters()]
    for parameter in llm.model.parameters():
        parameter.mul_(1.1)
    try:
        torch.testing.assert_close(
            windows(llm, tokens, "compiled")[0], windows(llm, tokens, None)[0], atol=3e-5, rtol=0
        )
    finally:
        for parameter, value in zip(llm.model.parameters(), before, strict=True):
            parameter.copy_(value)


def test_slots_that_are_not_filled_yet_are_not_seen(llm: FrozenLLM, tokens: Tensor) -> None:
    expected, _ = windows(llm, tokens, "eager")
    evict = SlotCache.evict

    def poisoned(cache: SlotCache, keep: Tensor) -> None:
        evict(cache, keep)
        cache.keys[..., BUDGET:, :], cache.values[..., BUDGET:, :] = 1e4, 1e4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlotCache, "evict", poisoned)
        found, _ = windows(llm, tokens, "eager")
    assert torch.equal(found, expected)


def test_a_full_cache_is_told_where_texts_end(llm: FrozenLLM, tokens: Tensor) -> None:
    length = tokens.shape[1]
    told, asked = FullCache(llm.shape, N, 64), FullCache(llm.shape, N, 64)
    expected = llm.read(tokens, positions(0, length), asked)
    reader = TokenReader(llm, told)
    for position in range(length):
        reader.tokens.copy_(tokens[:, position])
        reader.positions.fill_(position)
        told.open(reader.positions[:, None], position + 1 + position % 3)  # more room than there is text does no harm
        torch.testing.assert_close(reader.read(), expected[:, position], atol=3e-5, rtol=0)


def test_ways_to_read() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [way_to_read(cpu, choice) for choice in ("auto", "on", "off")] == ["eager", "compiled", "eager"]
    assert [way_to_read(gpu, choice) for choice in ("auto", "on", "off")] == ["graph", "graph", "eager"]


def test_records_are_of_few_lengths(llm: FrozenLLM) -> None:
    cache = FullCache(llm.shape, 1, 8)
    assert TokenReader(llm, cache).room(300) == 300
    rooms = {TokenReader(llm, cache, "graph").room(length) for length in range(1, 32769)}
    assert len(rooms) == 24 and all(room % 256 == 0 for room in rooms)
    assert all(0 <= TokenReader(llm, cache, "graph").room(x) - x < max(256, x / 4) for x in (1, 256, 257, 5000, 32768))


def test_a_step_that_cannot_be_compiled_says_so(
    llm: FrozenLLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(step, **options):
        def run() -> Tensor:
            raise RuntimeError("no compiler found\nmore lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"compile='on'.*no compiler found\).*use compile='auto'"):
        windows(llm, tokens, "compiled")
