"""Recurrence by hand. (The accumulators are recomputed from all rows in test_truths.py.)"""

import itertools

import torch

from kv_gym.llm.statistics import recurrence

HITS = [
    [True, False, False, True],
    [False, False, True, True],
    [False, False, False, True],
    [True, False, True, False],
]


def test_recurrence_by_hand():
    positions = torch.tensor([10, 11, 12, 15])[:, None]
    last, gap = recurrence(torch.full((4,), -1), torch.zeros(4).long(), torch.tensor(HITS), positions)
    # slot 0: 10 and 15; slot 1: never; slot 2: 11 and 15; slot 3: 10, 11, 12
    assert last.tolist() == [15, -1, 15, 12]
    assert gap.tolist() == [5, 0, 4, 1]


def test_recurrence_goes_on_from_before():
    positions = torch.tensor([10, 11, 12, 15])[:, None]
    last, gap = recurrence(torch.tensor([3, 4, -1, 9]), torch.tensor([2, 1, 0, 6]), torch.tensor(HITS), positions)
    # slot 0: 3 to 10; slot 1: still 4; slot 2: nothing before 11; slot 3: 9 to 12 by ones, its gap of 6 stays
    assert last.tolist() == [15, 4, 15, 12]
    assert gap.tolist() == [7, 1, 4, 6]


def test_recurrence_in_chunks_is_that_in_one():
    draw = torch.Generator().manual_seed(0)
    hits = torch.rand(2, 3, 12, 5, generator=draw) < 0.3  # rows, heads, queries, slots
    positions = torch.stack([torch.arange(12), torch.arange(12) * 2 + 5])[:, None, :, None]
    start = torch.full((2, 3, 5), -1), torch.zeros(2, 3, 5).long()
    whole = recurrence(*start, hits, positions)
    parts = start
    for chunk in (slice(0, 5), slice(5, 6), slice(6, 12)):
        parts = recurrence(*parts, hits[:, :, chunk], positions[:, :, chunk])
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    for row in range(2):
        for head in range(3):
            for slot in range(5):
                when = [int(positions[row, 0, t, 0]) for t in range(12) if hits[row, head, t, slot]]
                gaps = [late - early for early, late in itertools.pairwise(when)]
                assert int(whole[0][row, head, slot]) == max(when, default=-1)
                assert int(whole[1][row, head, slot]) == max(gaps, default=0)
