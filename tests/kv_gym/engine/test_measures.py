"""Measures and terms of the reward: what counts is counted, and names do not clash."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from kv_gym import rewards
from kv_gym.bench import report, rows
from kv_gym.engine import measures
from kv_gym.engine.measures import MEASURES, Measure, mean, sums_of
from kv_gym.errors import ConfigError
from kv_gym.rewards import REWARD_TERMS, Window, needs_answer, needs_shadow, reward_settings

SPIKE = REWARD_TERMS[1]
LOSS = next(measure for measure in MEASURES if measure.name == "loss")


def window(**changes: Any) -> Window:
    """Two episodes of three tokens; the last token of the first is not counted."""
    loss = torch.tensor([[1.0, 2.0, 9.0], [4.0, 5.0, 6.0]])
    counted = torch.tensor([[True, True, False], [True, True, True]])
    high = torch.tensor([[False, True, False], [False, False, False]])
    values = {
        "loss": loss, "loss_full": loss / 4, "entropy_full": loss, "counted": counted, "sure": counted & ~high,
        "high": high, "missed": torch.tensor([[[0.25, 0.75]], [[0.0, 0.5]]]), "score": torch.zeros(2),
    }  # fmt: skip
    return Window(**values | changes)


class Settings:
    loss_threshold, loss_cap, attention_threshold = 1.5, None, 0.05


def test_sums_by_hand() -> None:
    found = {name: (total.tolist(), count.tolist()) for name, total, count in sums_of(window(), Settings())}
    assert found["loss"] == ([3.0, 15.0], [2, 3]) and found["loss_full"] == ([0.75, 3.75], [2, 3])
    assert found["loss_low"] == ([1.0, 15.0], [1, 3]) and found["loss_high"] == ([2.0, 0.0], [1, 0])
    assert found["missed_attention"] == ([0.5, 0.25], [1, 1])
    assert found["loss_spike"][0] == pytest.approx([0.0, (3.0**2 + 3.75**2 + 4.5**2) / 3])


def test_what_does_not_count_may_be_no_number() -> None:
    loss = window().loss.masked_fill(~window().counted, torch.nan)
    found = {name: total.tolist() for name, total, _ in sums_of(window(loss=loss), Settings())}
    assert found["loss"] == [3.0, 15.0] and found["loss_low"] == [1.0, 15.0]


def test_a_mean_of_nothing_is_no_number() -> None:
    assert mean(3.0, 2.0, 5.0) == 1.5
    assert math.isnan(mean(0.0, 0.0, 5.0)) and math.isnan(mean(1.0, 2.0, 0.0))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (replace(LOSS, report="mine"), "both have the column 'loss'"),
        (replace(LOSS, name="mine"), "both have the name in reports 'loss_ratio'"),
        (replace(LOSS, name="loss_full", full=None, report="mine"), "both have the column 'loss_full'"),
    ],
)
def test_two_measures_cannot_share_a_name(other: Measure, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MEASURES", (*MEASURES, other))
    with pytest.raises(ConfigError, match=complaint):
        measures.check_names()


@pytest.mark.parametrize("name", ["seconds", "budget", "key"])
def test_a_measure_cannot_have_the_name_of_another_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(LOSS, name=name, full=None, report="accuracy")
    monkeypatch.setattr(measures, "MEASURES", (*MEASURES, mine))
    monkeypatch.setattr(report, "MEASURES", (*MEASURES, mine))
    if name != "key":
        with pytest.raises(ConfigError, match=f"'{name}' has the name of a field of every row"):
            rows.check_columns()
    with pytest.raises(ConfigError, match="is called 'accuracy' in reports"):
        report.check_keys()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, "term 'loss_spike' is declared twice"),
        ({"name": "mine"}, "setting 'w_loss' is declared twice"),
        ({"name": "mine", "weight": "w_mine"}, "setting 'loss_threshold' is declared twice"),
        ({"name": "mine", "weight": "budget", "settings": {}}, "setting 'budget' is declared twice"),
        ({"name": "mine", "weight": "w_mine", "settings": {"entropy_threshold": (float, 1)}}, "'entropy_threshold'"),
    ],
)
def test_a_term_cannot_take_a_name_that_is_taken(
    changes: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "REWARD_TERMS", (*REWARD_TERMS, replace(SPIKE, **changes)))
    with pytest.raises(ConfigError, match=complaint):
        reward_settings({"budget", "entropy_threshold"})


def test_a_shadow_is_needed_by_what_counts() -> None:
    weights = {"correct": 1.0, "loss_spike": 0.0, "attention_spike": 0.0}
    assert not needs_shadow(weights, "generate") and needs_answer(weights)
    losses = weights | {"loss_spike": 1.0}
    assert needs_shadow(losses, "generate") and not needs_shadow(losses, "replay")
    assert needs_shadow(weights | {"attention_spike": 1.0}, "replay") and not needs_answer(weights | {"correct": 0.0})
