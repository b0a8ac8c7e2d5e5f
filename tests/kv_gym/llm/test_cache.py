"""State that agents keep in a cache: `carry` follows slots, `memory` follows episodes, both through select and put."""

import pytest
import torch

from kv_gym.llm.accumulators import ACCUMULATORS
from kv_gym.llm.cache import CacheShape, FullCache, SlotCache

SHAPE = CacheShape(n_layers=2, n_q_heads=4, n_kv_heads=2, head_dim=8, dtype=torch.float32, device=torch.device("cpu"))
BUDGET, EVERY = 3, 2


def make_cache(n=3):
    """A full cache whose keys tell row and position."""
    cache = SlotCache(SHAPE, n, BUDGET, EVERY, track=tuple(ACCUMULATORS))
    cache.begin(torch.arange(BUDGET + EVERY).expand(n, -1))
    return cache


def keep(cache, slots):
    return torch.tensor(slots).expand(*cache.positions.shape[:-1], -1)


def test_carry_moves_with_its_slots_and_new_slots_hold_the_fill():
    cache = make_cache()
    mine, other = cache.carry("mine", -1.0), cache.carry("other")
    assert mine.shape == cache.positions.shape and mine.eq(-1).all() and not other.any()
    mine[:] = cache.positions * 10.0
    other[:] = cache.positions
    heads = torch.tensor([[0, 2, 4], [1, 2, 3]])  # each head keeps its own
    cache.evict(heads.expand(2, 3, 2, 3))
    assert cache.carry("mine", -1.0) is mine
    assert mine[0, 0].tolist() == [[0, 20, 40, -1, -1], [10, 20, 30, -1, -1]]
    assert other[1, 2].tolist() == [[0, 2, 4, 0, 0], [1, 2, 3, 0, 0]]
    cache.begin(torch.tensor([5, 6]).expand(3, -1))
    assert torch.equal(other[..., :BUDGET].long(), cache.positions[..., :BUDGET])


@pytest.mark.parametrize("fill", [0.0, 1.5, -1.0])
def test_carry_is_float32(fill):
    assert make_cache().carry("mine", fill).dtype == torch.float32


def test_carry_is_float32_with_a_whole_fill():
    assert make_cache().carry("mine", -1).dtype == torch.float32


def test_memory_stays_through_evictions():
    cache = make_cache()
    memory = cache.memory("sum", (4, 8))
    assert memory.shape == (2, 3, 4, 8) and memory.dtype == torch.float32 and not memory.any()
    memory += torch.arange(3.0)[:, None, None]
    before = memory.clone()
    cache.evict(keep(cache, [0, 1, 4]))
    assert cache.memory("sum", (4, 8)) is memory and torch.equal(memory, before)


def fill_state(cache, start=0.0):
    """Give each row its own number, in slots and in episodes."""
    rows = start + torch.arange(float(cache.n))
    cache.carry("mine", -1.0)[:] = rows[:, None, None]
    cache.memory("sum", (2,))[:] = rows[:, None]


def test_select_copies_state():
    cache = make_cache()
    fill_state(cache)
    part = cache.select(torch.tensor([2, 0]))
    assert part.carry("mine", -1.0)[0, :, 0, 0].tolist() == [2, 0]
    assert part.memory("sum", (2,))[1, :, 0].tolist() == [2, 0]
    part.carry("mine", -1.0).zero_()
    part.memory("sum", (2,)).zero_()
    assert cache.carry("mine", -1.0)[0, :, 0, 0].tolist() == [0, 1, 2], "a copy does not write back"
    assert cache.memory("sum", (2,))[0, :, 1].tolist() == [0, 1, 2]
    part.evict(keep(part, [0, 1, 2]))
    assert part.carry("mine", -1.0)[0, 0, 0].tolist() == [0, 0, 0, -1, -1], "the fill comes along"


def test_put_returns_state_to_its_rows():
    cache = make_cache()
    fill_state(cache)
    part = cache.select(torch.tensor([2, 0]))
    part.carry("mine", -1.0).add_(10)
    part.memory("sum", (2,)).add_(10)
    cache.put(torch.tensor([2, 0]), part)
    assert cache.carry("mine", -1.0)[1, :, 1, 4].tolist() == [10, 1, 12]
    assert cache.memory("sum", (2,))[1, :, 1].tolist() == [10, 1, 12]


def test_put_of_a_new_episode_starts_from_nothing():
    cache = make_cache()
    fill_state(cache, start=5.0)
    mine, memory = cache.carry("mine", -1.0), cache.memory("sum", (2,))
    cache.put(torch.tensor([1]), make_cache(n=1))
    assert mine[:, 1].eq(-1).all() and not memory[:, 1].any()
    assert mine[0, :, 0, 0].tolist() == [5, -1, 7] and memory[0, :, 0].tolist() == [5, 0, 7]


def test_put_brings_state_that_only_the_part_has():
    cache, part = make_cache(), make_cache(n=1)
    fill_state(part, start=5.0)
    part.carry("only here")[:] = 3.0
    cache.put(torch.tensor([1]), part)
    assert cache.carry("mine", -1.0)[0, :, 0, 0].tolist() == [-1, 5, -1]
    assert cache.carry("only here")[0, :, 0, 0].tolist() == [0, 3, 0]
    assert cache.memory("sum", (2,))[0, :, 0].tolist() == [0, 5, 0]


def test_put_pairs_states_by_name_whatever_came_first():
    cache, part = make_cache(), make_cache(n=1)
    cache.carry("a"), cache.carry("b"), cache.memory("a", (2,)), cache.memory("b", (3,))
    part.memory("b", (3,)).fill_(4), part.memory("a", (2,)).fill_(3)
    part.carry("b").fill_(2), part.carry("a").fill_(1)
    cache.put(torch.tensor([0]), part)
    assert [float(cache.carry(name)[0, 0, 0, 0]) for name in "ab"] == [1, 2]
    assert [float(cache.memories[name][0, 0, 0]) for name in "ab"] == [3, 4]


def test_rows_that_stand_at_one_place_share_a_mask():
    cache, positions = FullCache(SHAPE, 3, 9), torch.tensor([4, 5])
    cache.begin(positions.repeat(3, 1))
    each = cache.visible(2, SHAPE.group)
    cache.begin(positions.expand(3, -1))
    one = cache.visible(2, SHAPE.group)
    assert each.shape == (3, 1, 4, 6) and one.shape == (1, 1, 4, 6)
    assert torch.equal(one.expand_as(each), each)
    assert one[0, 0].eq(0).int().tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]] * 2
