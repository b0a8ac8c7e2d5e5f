import pytest
import torch

from kv_gym.engine.eviction import check_scores, protected_slots, share_scores, slots_to_keep
from kv_gym.errors import ScoreError


def test_the_lowest_unprotected_go_and_time_order_stays():
    scores = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.0]).expand(1, 1, 1, 5)
    protected = torch.tensor([False, False, False, False, True]).expand(1, 1, 1, 5)
    assert slots_to_keep(scores, protected, 2).flatten().tolist() == [0, 2, 4]


def test_of_equals_the_oldest_go():
    scores = torch.zeros(1, 1, 1, 5)
    protected = torch.tensor([True, False, False, False, False]).expand(1, 1, 1, 5)
    assert slots_to_keep(scores, protected, 2).flatten().tolist() == [0, 3, 4]


def test_an_infinite_score_never_beats_protection():
    scores = torch.full((1, 1, 1, 4), float("inf"))
    protected = torch.tensor([False, True, False, True]).expand(1, 1, 1, 4)
    assert slots_to_keep(scores, protected, 2).flatten().tolist() == [1, 3]


def test_protection_by_hand():
    positions = torch.tensor([0, 1, 5, 9, 10]).expand(1, 1, 1, 5)
    in_prompt = positions < 6
    assert protected_slots(positions, in_prompt, 2, 1, False).flatten().tolist() == [True, False, False, True, True]
    assert protected_slots(positions, in_prompt, 1, 0, True).flatten().tolist() == [True, True, True, False, True]


def test_heads_and_layers_share_a_mean_score():
    scores = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert share_scores(scores, "layer")[0, :, :, 0].tolist() == [[1.0, 1.0], [5.0, 5.0]]
    assert share_scores(scores, "token")[0, 1, 1].tolist() == [3.0, 4.0]
    mixed = torch.tensor([[float("inf")], [-float("inf")]]).reshape(1, 1, 2, 1)
    assert not share_scores(mixed, "layer").isnan().any()


def test_bad_scores_are_named():
    scores = torch.zeros(2, 1, 2, 3)
    with pytest.raises(ScoreError, match=r"shape \(2, 1, 2, 3\); one score per slot is \(2, 1, 2, 4\)"):
        check_scores(scores, torch.Size([2, 1, 2, 4]))
    scores[1, 0, 1, 2] = float("nan")
    with pytest.raises(ScoreError, match="episode 1, layer 0, KV head 1, slot 2 is NaN"):
        check_scores(scores, scores.shape)
