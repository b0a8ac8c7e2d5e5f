"""One decision over four slots and two heads, summed up by hand."""

from __future__ import annotations

import pytest
import torch

from kv_gym.show.explain.explanation import cuts_of
from kv_gym.show.explain.tally import N_AGES, EpisodeTally, Quantity, age_group, age_label, tally
from kv_gym.show.explain.token_types import TokenType

P, D, N = TokenType.PROMPT, TokenType.DIGIT, TokenType.NAME
GONE = torch.tensor([[[1, 1, 0, 0], [0, 1, 1, 0]]]).bool()
GOLDEN = torch.tensor([[[1, 0, 1, 0], [1, 1, 0, 0]]]).bool()
PROTECTED = torch.tensor([[[0, 0, 0, 1], [0, 0, 0, 1]]]).bool()
FUTURE = torch.tensor([[[0.1, 0.4, 0.2, 0.9], [0.0, 0.1, 0.5, 0.9]]])
TYPES = torch.tensor([[[P, D, N, D], [P, D, D, N]]])
AGE = torch.tensor([[[40, 20, 5, 0], [40, 20, 16, 1]]])


def one_decision() -> torch.Tensor:
    return tally(GONE, GOLDEN, PROTECTED, FUTURE, TYPES, AGE)


def test_ages_fall_into_groups_that_double() -> None:
    ages = [0, 15, 16, 31, 32, 63, 64, 2**14 - 1, 2**14, 10**6]
    assert age_group(torch.tensor(ages)).tolist() == [0, 0, 1, 1, 2, 2, 3, 10, 11, 11]
    assert [age_label(i) for i in (0, 1, 2, 11)] == ["0 to 15", "16 to 31", "32 to 63", "16384 or more"]


def test_one_decision_by_hand() -> None:
    sums = one_decision()
    assert sums.shape == (5, 1, 2, len(TokenType), N_AGES)
    assert sums.sum((1, 2, 3, 4)).tolist() == pytest.approx([6, 4, 2, 0.1 + 0.4 + 0.1 + 0.5, 0.1 + 0.2 + 0.0 + 0.1])
    by_type = sums.sum((1, 2, 4))
    assert by_type[Quantity.OFFERED, [P, D, N]].tolist() == [2, 3, 1]  # one digit and one name are protected
    assert by_type[Quantity.EVICTED, [P, D, N]].tolist() == [1, 3, 0]
    assert by_type[Quantity.NEEDED, [P, D, N]].tolist() == [0, 2, 0]
    assert by_type[Quantity.LOST, [P, D, N]].tolist() == pytest.approx([0.1, 1.0, 0.0])
    assert sums[Quantity.EVICTED].sum((0, 1, 2)).tolist()[:4] == [0, 3, 1, 0]
    assert sums[Quantity.LOST, 0, 1, D, 1] == pytest.approx(0.1 + 0.5)


def test_measures_by_hand() -> None:
    """Two episodes: one with this decision twice, one with it once; the second agent loses twice as much."""
    episodes = []
    for problem, family, times in (("p0", "even", 2), ("p1", "odd", 1)):
        episodes.append(EpisodeTally(problem, family, 0, torch.zeros_like(one_decision())))
        for _ in range(times):
            episodes[-1].add(one_decision())
    double = [EpisodeTally(e.problem, e.family, 0, e.sums.clone(), e.decisions) for e in episodes]
    for one in double:
        one.sums[Quantity.LOST] *= 2
    cuts = {cut.key: {group.label: group.of for group in cut.groups} for cut in cuts_of({"a": episodes, "b": double})}
    digits = cuts["type"]["digit"]["a"]
    assert digits.evicted == pytest.approx(3 / 4) and digits.rate == 1.0 and digits.needed == pytest.approx(2 / 3)
    assert digits.lost_per_slot and digits.lost_per_slot.value == pytest.approx(1 / 3)
    assert digits.lost and digits.lost.value == pytest.approx(1.0 / 2)  # two heads decide
    assert digits.golden == pytest.approx(0.1 / 2)
    assert "name" not in cuts["type"], "no name went"
    whole = cuts["all"]["all"]
    assert whole["a"].lost and whole["b"].lost and whole["b"].lost.value == pytest.approx(2 * whole["a"].lost.value)
    assert whole["a"].evicted == 1.0 and whole["a"].needed == 0.5
    for key in ("type", "age"):
        parts = [group["a"].lost.value for group in cuts[key].values() if group["a"].lost]
        assert sum(parts) == pytest.approx(whole["a"].lost.value)
    assert cuts["family"]["even"]["a"].evicted == pytest.approx(2 / 3)
    even = cuts["family"]["even"]["a"].lost
    assert even and even.value == pytest.approx(1.1 / 2)
    head = cuts["head"]["layer 0, KV head 1"]["a"]
    assert head.evicted == 0.5 and head.lost and head.lost.value == pytest.approx(0.6)
    assert cuts["layer"]["layer 0"]["a"].lost == whole["a"].lost
