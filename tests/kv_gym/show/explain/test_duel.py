"""Problems won and lost, as rows say."""

from __future__ import annotations

from typing import Any

import pytest

from kv_gym.bench.rows import EpisodeRow
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.show.explain.duel import duel
from kv_gym.show.explain.explaining import budget_of, episodes_of


def row(problem: int, agent: str, **changes: Any) -> EpisodeRow:
    values = {
        "run_id": "r", "env_id": "E-v0", "mode": "generate", "split": "test", "agent": agent, "budget": 64,
        "agent_source": f"m:{agent}", "agent_sha256": "h", "uses_hindsight": False, "evicts": True, "evict_every": 8,
        "seed": 0, "problem": f"p{problem}", "family": ("even", "odd")[problem % 2], "correct": 1.0,
        "correct_full": 1.0, "reference_hash": "r", "problem_sha256": "q", "model": "tiny", "model_fingerprint": "w",
        "settings_sha256": "s",
    }  # fmt: skip
    return EpisodeRow.model_validate(values | changes)


def test_answers_are_compared_where_there_are_some() -> None:
    ours = [row(i, "a", correct=score) for i, score in enumerate((1, 0, 1, 0, 0.5))]
    theirs = [row(i, "b", correct=score) for i, score in enumerate((0, 1, 1, None, 1))]
    noise = [row(0, "a", mode="replay", loss=9.0), row(0, "b", mode="replay", loss=1.0), row(7, "a"), row(0, "c")]
    other = [row(i, "b", budget=96, correct=0) for i in range(5)]
    found = duel([*ours, *theirs, *noise, *other], "a", "b", 64)
    assert (found.measure, len(found.bouts)) == ("accuracy", 5)
    assert [(bout.problem, bout.gain) for bout in found.won] == [("p0", 1.0)]
    assert [(bout.problem, bout.gain) for bout in found.lost] == [("p1", -1.0), ("p4", -0.5)]
    assert found.by_family() == {"even": (1, 1, 1), "odd": (0, 1, 1)}


def test_losses_are_compared_where_there_are_no_answers() -> None:
    """Less is better, and what is nearer than 0.01 nats is equal."""
    ours = [row(i, "a", mode="replay", loss=loss) for i, loss in enumerate((1.0, 1.0, 1.0))]
    theirs = [row(i, "b", mode="replay", loss=loss) for i, loss in enumerate((1.5, 0.5, 1.005))]
    found = duel(ours + theirs, "a", "b", 64)
    assert found.measure == "loss"
    assert [bout.problem for bout in found.won] == ["p0"] and [bout.problem for bout in found.lost] == ["p1"]
    assert found.by_family() == {"even": (1, 0, 1), "odd": (0, 1, 0)}


def test_families_are_played_in_turn_where_both_played() -> None:
    rows = [row(i, "a") for i in (0, 2, 4, 1, 3)] + [row(i, "a", mode="replay") for i in (0, 2)]
    rows += [row(i, "b", mode="replay") for i in (0, 1, 3, 4, 9)]
    assert [one.problem for one in episodes_of(rows, ["a"], 64)] == ["p0", "p1", "p2", "p3", "p4"]
    assert [one.problem for one in episodes_of(rows, ["a", "b"], 64)] == ["p0", "p1", "p4", "p3"]
    with pytest.raises(ConfigError, match="a and c share no problem at budget 64"):
        episodes_of([*rows, row(8, "c")], ["a", "c"], 64)


def test_the_lowest_budget_that_all_have_is_explained() -> None:
    rows = [row(0, "a", budget=budget) for budget in (96, 64, 128)] + [row(0, "b", budget=b) for b in (128, 96)]
    assert (budget_of(rows, ["a"], None), budget_of(rows, ["a", "b"], None)) == (64, 96)
    assert budget_of(rows, ["a", "b"], 128) == 128
    with pytest.raises(ConfigError, match="--budget 64: a and b did not play there. There are 96, 128"):
        budget_of(rows, ["a", "b"], 64)
    with pytest.raises(UnknownNameError, match="agent 'c' in these rows"):
        budget_of(rows, ["a", "c"], None)
    with pytest.raises(ConfigError, match="have no budget in common"):
        budget_of([*rows, row(0, "c", budget=32)], ["a", "c"], None)
