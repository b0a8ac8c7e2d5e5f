"""Rows are reused for the same agent only: whatever decides what it does is in its identity."""

from __future__ import annotations

import copy
import inspect
import json
import sys
import threading
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kv_agents.base import Agent
from kv_agents.heuristics.rkv import RKV
from kv_agents.learned.agents import Foresight
from torch import Tensor

import kv_gym.identity as identity_module
from kv_gym.agents import load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.engine.slots import SlotView
from kv_gym.identity import NotJSON, canonical, identity_of, json_value

ENV = "KVEvict-AIME-v0"


class Listed(Agent):
    """Keeps by a list of weights; its options are private attributes."""

    name = "listed"

    def __init__(self, weights: Any = None, *, scale: float = 1.0, **others: Any) -> None:
        self._weights, self._scale, self._others = weights, scale, others

    def score(self, slots: SlotView) -> Tensor:
        return slots.positions * float((self._weights or [1])[0])


class Plain(Agent):
    name = "plain"

    def score(self, slots: SlotView) -> Tensor:
        return slots.positions.float()


def sha(*args: Any, **kwargs: Any) -> str:
    return identity_of(Listed(*args, **kwargs)).sha256


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"weights": [1]}, {"weights": [-1]}),
        ({"weights": [0, 1]}, {}),
        ({"weights": {"a": [1, {"b": 2}]}}, {"weights": {"a": [1, {"b": 3}]}}),
        ({"weights": None}, {"weights": 0}),
        ({"weights": 1}, {"weights": True}),
        ({"weights": "1"}, {"weights": 1}),
        ({"scale": 0.1}, {"scale": 0.1 + 1e-12}),
        ({"extra": 1}, {}),
        ({"weights": []}, {"weights": None}),
    ],
    ids=str,
)
def test_options_that_differ_make_another_agent(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = identity_of(Listed(**one)), identity_of(Listed(**other))
    assert not first.unnamed and not second.unnamed
    assert first.sha256 != second.sha256
    assert first.sha256 == identity_of(Listed(**one)).sha256


def test_the_same_options_are_the_same_agent_however_they_are_given() -> None:
    assert sha([1, 2]) == sha(weights=[1, 2]) == sha((1, 2)) == sha(weights=[np.int64(1), np.int32(2)], scale=1.0)
    assert sha({"a": 1, "b": 2}) == sha({"b": 2, "a": 1})
    assert sha(scale=np.float64(0.5)) == sha(scale=0.5) and sha(weights=np.bool_(True)) == sha(weights=True)
    assert sha(b=1, a=2) == sha(a=2, b=1)


def test_labels_tell_agents_apart() -> None:
    assert identity_of(Listed([1])).where == "test_identity:Listed(scale=1.0, weights=[1])"
    assert identity_of(Listed([-1])).where == "test_identity:Listed(scale=1.0, weights=[-1])"
    long = [identity_of(Listed([*range(99), end])).where for end in (1, 2)]
    assert long[0] != long[1] and max(map(len, long)) < 130
    assert identity_of(RKV()).where == "kv_agents.heuristics.rkv:RKV(kernel=7, lam=0.1, n_obs=8, threshold=0.5)"


def test_an_option_that_cannot_be_told_from_others_has_no_identity() -> None:
    found = [identity_of(Listed(threading.Lock())) for _ in range(2)]
    assert found[0].unnamed.startswith("option weights: lock cannot be told from others of its kind")
    assert found[0].sha256.startswith("unnamed-") and found[0].sha256 != found[1].sha256


def test_an_attribute_that_was_changed_afterwards_counts() -> None:
    changed = RKV()
    changed.lam = 0.9
    assert identity_of(changed).sha256 != identity_of(RKV()).sha256
    parts = identity_of(changed).parts
    assert (parts["options"]["lam"], parts["attributes"]["lam"]) == (0.1, 0.9)


def test_subclasses_and_dataclasses_tell_their_options_too() -> None:
    class More(Listed):
        def __init__(self, more: int = 0) -> None:
            super().__init__([more])

    @dataclass
    class Data(Plain):
        n: int = 1

    assert identity_of(More(3)).parts["options"] == {"more": 3}
    assert identity_of(Data(3)).parts["options"] == {"n": 3} and not identity_of(Data()).unnamed
    assert list(inspect.signature(Listed).parameters) == ["weights", "scale", "others"]


def test_copies_are_the_same_agent() -> None:
    assert identity_of(copy.deepcopy(Listed([1]))).sha256 == sha([1])


def test_a_class_without_a_file_has_no_identity() -> None:
    """As one that was typed into a notebook."""
    cell = types.ModuleType("__cell__")
    sys.modules["__cell__"] = cell
    try:
        exec("from kv_agents.base import Agent\nclass Mine(Agent):\n    name = 'mine'\n    score = None", vars(cell))
        assert identity_of(cell.Mine()).unnamed == "its class is in no file"
    finally:
        del sys.modules["__cell__"]


def made(n: Any) -> Agent:
    class Inner(Agent):
        name = "inner"

        def score(self, slots: SlotView) -> Tensor:
            return slots.positions.float() * n

    return Inner()


def test_what_stands_around_a_class_counts() -> None:
    assert identity_of(made(1)).sha256 == identity_of(made(1)).sha256 != identity_of(made(-1)).sha256
    assert "lock cannot be told from others" in identity_of(made(threading.Lock())).unnamed


def test_a_class_of_its_own_kind_tells_its_options_when_it_is_loaded(tmp_path: Path) -> None:
    flags = "    name, needs, uses_hindsight, evicts = 'duck', (), False, True\n"
    init = "    def __init__(self, n=1):\n        self._n = n\n"
    (tmp_path / "duck.py").write_text(f"class Duck:\n{flags}{init}    def score(self, slots): pass\n")
    one, two = (load_agent(f"{tmp_path}/duck.py:Duck", n=n) for n in (1, 2))
    assert not identity_of(one).unnamed and identity_of(one).sha256 != identity_of(two).sha256
    assert "what it was built with is not known" in identity_of(type(one)()).unnamed  # type: ignore[call-arg]


def test_weights_are_told_by_what_they_hold_and_not_by_where_they_lie(tmp_path: Path) -> None:
    shipped = Foresight()
    paths = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        for file in shipped.files():
            (tmp_path / place / file.name).write_bytes(file.read_bytes())
        paths.append(tmp_path / place / "foresight.safetensors")
    one, two = (identity_of(Foresight(str(path))).sha256 for path in paths)
    assert one == two
    text = paths[1].with_suffix(".json")
    one_way, other_way = '"since_attended@1",\n    "longest_gap@1"', '"longest_gap@1",\n    "since_attended@1"'
    assert one_way in text.read_text()
    text.write_text(text.read_text().replace(one_way, other_way))
    assert identity_of(Foresight(str(paths[1]))).sha256 != one, "the order of its columns decides what it reads"


def test_versions_of_installed_packages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = identity_of(Plain()).parts["packages"]
    assert "pytest" in found, "this file imports it"
    monkeypatch.setattr("kv_gym.identity.places.version", lambda name: "0.0")
    assert identity_of(Plain()).parts["packages"]["pytest"] == "0.0" != found["pytest"]


def test_the_suite_itself_is_not_part_of_it() -> None:
    modules = [name for name, _ in identity_of(RKV()).parts["modules"]]
    assert modules == [
        "kv_agents",
        "kv_agents.base",
        *(f"kv_agents.heuristics{part}" for part in ("", ".rkv", ".window")),
    ]


# --- Rows --------------------------------------------------------------------------------------------------------


def bench(*agents: Agent) -> Bench:
    options = {"evict_every": 8, "max_new_tokens": 72}
    return Bench(ENV, agents, [24], 2, modes=["replay"], width=2, options=options)


def test_other_options_make_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = run_bench(bench(Listed([1])), path)
    second = run_bench(bench(Listed([-1])), path)
    again = run_bench(bench(Listed([1]), Listed([-1])), path)
    assert (first.n_new, second.n_new, again.n_new) == (2, 2, 0)
    assert {r.actions_sha256 for r in first.rows}.isdisjoint(r.actions_sha256 for r in second.rows)
    stored = next(iter(first.runs)).agents[first.rows[0].agent_sha256]
    assert stored["parts"]["options"] == {"weights": [1], "scale": 1.0} and stored["unnamed"] == ""


def test_an_agent_without_identity_is_played_again_and_the_row_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, why = tmp_path / "rows.jsonl", "weights: lock cannot be told from others of its kind"
    for _ in range(2):
        caplog.clear()
        result = run_bench(bench(Listed(threading.Lock()), Plain()), path)
        [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "Listed(scale=1.0) cannot be told from other agents (option weights: lock cannot be told" in warning
    assert result.n_new == 2, "only the one without identity"
    assert all(row.agent_sha256.startswith("unnamed-") for row in result.rows if row.agent == "listed")
    told = [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == "run"]
    assert [entry["unnamed"] for entry in told[-1]["agents"].values()] == [f"option {why}; attribute _{why}", ""]


def test_values_have_one_text() -> None:
    assert canonical({"b": [1, 2.5, None, True, "ü"], "a": {}}) == '{"a":{},"b":[1,2.5,null,true,"\\u00fc"]}'
    assert json_value(np.float32(0.5)) == 0.5 and type(json_value(np.int8(3))) is int
    with pytest.raises(NotJSON):
        canonical({"a": float("inf")})


def test_of_many_reasons_the_first_are_told() -> None:
    assert identity_module._listed(["a"]) == "a" and identity_module._listed([]) == ""
    assert identity_module._listed([str(i) for i in range(300)]) == "0; 1; 2; 3; 4; and 295 more"
