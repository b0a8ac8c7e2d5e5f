"""Agents of one name are told apart by what differs, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kv_gym.bench.labels import labels, settings_of


def told(*agents: tuple[str, str]) -> list[str]:
    rows: Sequence[Any] = [SimpleNamespace(agent=name, agent_source=source) for name, source in agents]
    return list(labels(rows).values())


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        ([("rkv", "r:R(lam=0.1, n_obs=8)"), ("h2o", "h:H")], ["rkv", "h2o"]),
        ([("rkv", "r:R(lam=0.1, n_obs=8)"), ("rkv", "r:R(lam=0.5, n_obs=8)")], ["rkv lam=0.1", "rkv lam=0.5"]),
        (
            [("a", "a:A(h=[0, 1], w=2)"), ("a", "a:A(h=[0, 2], w=2)"), ("a", "a:A(h=[0, 1], w=3)")],
            ["a h=[0, 1] w=2", "a h=[0, 2] w=2", "a h=[0, 1] w=3"],
        ),
        ([("a", "a:A(x=1)"), ("a", "a:A")], ["a (a:A(x=1))", "a (a:A)"]),
        ([("a", "a:A(x=1)"), ("a", "b.py:A(x=2)")], ["a (a:A(x=1))", "a (b.py:A(x=2))"]),
        ([("a", "m:a"), ("a", "b.py:A")], ["a (m:a)", "a (b.py:A)"]),
    ],
)
def test_only_what_differs_is_shown(agents: list[tuple[str, str]], expected: list[str]) -> None:
    assert told(*agents) == expected


def test_settings_are_cut_at_their_names() -> None:
    told = {"h": "[0, 1]", "path": "'a (b)'", "lam": "0.5"}
    assert settings_of("r:R(h=[0, 1], path='a (b)', lam=0.5)") == ("r:R", told)
    assert settings_of("r:R") == ("r:R", {})
