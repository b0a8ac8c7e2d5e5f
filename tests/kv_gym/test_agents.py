"""Agents are found by name and in files, and mistakes are named."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from kv_agents.base import Agent
from kv_agents.heuristics.h2o import H2O
from kv_agents.heuristics.streaming import Streaming
from plugin import pretend

from kv_gym import agents
from kv_gym.agents import known_agents, load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.identity import identity_of

MINE = """
from __future__ import annotations

from dataclasses import dataclass

from kv_agents.base import Agent
from kv_agents.heuristics.h2o import H2O

limit = 3


class Nothing:
    pass


class NoScore(Agent):
    name = "no-score"


class NoName(Agent):
    def score(self, slots):
        return -slots.positions.float()


@dataclass
class Oldest(Agent):
    name = "oldest"
    strength: float

    def score(self, slots):
        return -self.strength * slots.positions.float()


class Stranger:
    name = "stranger"

    def score(self, slots):
        return -slots.positions.float()


class Duck(Stranger):
    name = "duck"
    uses_hindsight = False
    needs = ()
    evicts = True


class Anything(NoName):
    name = "anything"

    def __init__(self, **options):
        self.options = options
"""


def install(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    found = [EntryPoint(name.replace("_", "-"), value, agents.GROUP) for name, value in entries.items()]
    pretend(monkeypatch, agents.GROUP, found)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        streaming="kv_agents.heuristics.streaming:Streaming",
        random_prompt="kv_agents.heuristics.random_prompt:RandomPrompt",
        h2o="kv_agents.heuristics.h2o:H2O",
    )


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def test_known_agents_are_the_entry_points_sorted(installed: None) -> None:
    agents = known_agents()
    assert list(agents) == ["h2o", "random-prompt", "streaming"]
    assert agents["h2o"] is H2O


def test_every_declared_agent_loads_and_is_named_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = pyproject["project"]["entry-points"]["kv_gym.agents"]
    install(monkeypatch, **declared)
    agents = known_agents()
    assert {"full", "random", "random-prompt", "streaming", "h2o", "snapkv", "tova", "rkv", "golden"} <= set(agents)
    assert all(agent.name == name for name, agent in agents.items())


def test_load_agent_passes_options(installed: None) -> None:
    agent = load_agent("streaming", n_sink=2)
    assert type(agent) is Streaming and agent.n_sink == 2
    assert load_agent("streaming").n_sink == 4  # type: ignore[attr-defined]


def test_unknown_agent_is_suggested(installed: None) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown agent 'h20'. Did you mean 'h2o'\? .*mine.py:MyAgent"):
        load_agent("h20")


def test_unknown_option_is_suggested(installed: None) -> None:
    with pytest.raises(UnknownNameError, match=r"option 'n_sinks' of agent 'streaming'. Did you mean 'n_sink'\?"):
        load_agent("streaming", n_sinks=2)
    with pytest.raises(UnknownNameError, match="option 'lam' of agent 'h2o'"):
        load_agent("h2o", lam=2)


def test_a_broken_agent_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, broken="no_such_module:Agent", h2o="kv_agents.heuristics.h2o:H2O")
    assert type(load_agent("h2o")) is H2O


def test_a_name_claimed_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    h2o = EntryPoint("h2o", "kv_agents.heuristics.h2o:H2O", agents.GROUP)
    pretend(monkeypatch, agents.GROUP, [h2o, h2o])
    assert type(load_agent("h2o")) is H2O  # one package found twice
    other = EntryPoint("h2o", "other_package:H2O", agents.GROUP)
    pretend(monkeypatch, agents.GROUP, [h2o, other])
    with pytest.raises(ConfigError, match=r"claimed by kv_agents.heuristics.h2o:H2O and other_package:H2O"):
        load_agent("h2o")


def test_an_entry_point_that_is_no_agent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, path="pathlib:Path")
    with pytest.raises(ConfigError, match="pathlib:Path is not an agent"):
        load_agent("path")
    with pytest.raises(ConfigError, match="pathlib:Path is not an agent"):
        known_agents()


def test_load_agent_from_a_file(mine: str) -> None:
    agent = load_agent(f"{mine}:Oldest", strength=2.0)
    assert isinstance(agent, Agent)
    assert agent.name == "oldest" and agent.strength == 2.0  # type: ignore[attr-defined]
    assert load_agent(f"{mine}:Anything", a=1).options == {"a": 1}  # type: ignore[attr-defined]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent file '.*gone.py' does not exist"):
        load_agent(f"{tmp_path}/gone.py:MyAgent")


def test_a_file_without_class_is_an_error(mine: str) -> None:
    with pytest.raises(ConfigError, match=r"does not say which class. Use .*mine.py:MyAgent"):
        load_agent(mine)


def test_a_missing_class_is_suggested(mine: str) -> None:
    known = "Anything, Duck, H2O, Oldest, Stranger"
    with pytest.raises(UnknownNameError, match=rf"'Oldes' in .*mine.py. Did you mean 'Oldest'\? Known: {known}"):
        load_agent(f"{mine}:Oldes")


@pytest.mark.parametrize(
    "name, message",
    [
        ("Nothing", "mine.py:Nothing is not an agent. Make it a subclass"),
        ("limit", "mine.py:limit is not an agent"),
        ("NoScore", r"mine.py:NoScore does not score slots. Give it a method score"),
        ("NoName", 'mine.py:NoName has no name. .*name = "my-agent"'),
        ("Stranger", "mine.py:Stranger does not say uses_hindsight. Make it a subclass of kv_agents.base.Agent"),
    ],
)
def test_a_class_that_is_no_agent_is_an_error(mine: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_agent(f"{mine}:{name}")


def test_a_missing_option_is_named(mine: str) -> None:
    with pytest.raises(ConfigError, match="agent 'oldest': missing a required argument: 'strength'"):
        load_agent(f"{mine}:Oldest")


def test_an_error_in_the_file_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_agent(f"{path}:MyAgent")
    assert not [name for name in sys.modules if name.endswith("wrong")]


def test_an_agent_need_not_be_a_subclass(mine: str) -> None:
    assert load_agent(f"{mine}:Duck").name == "duck"


def test_without_installed_agents_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(UnknownNameError, match="No package with agents is installed: run `pip install -e"):
        load_agent("h2o")


def test_the_source_of_a_file_changes_with_its_content_and_not_with_its_folder(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py", tmp_path / "c" / "mine.py"]
    for path, text in zip(paths, [MINE, MINE, MINE + "\n"], strict=True):
        path.parent.mkdir()
        path.write_text(text)
    same, copy, changed = [identity_of(agent) for agent in [load_agent(f"{path}:Duck") for path in paths]]
    assert same.where == copy.where == changed.where == "mine.py:Duck"
    assert same.sha256 == copy.sha256 != changed.sha256


def test_an_agent_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    for place, sign in (("a", 1), ("b", -1)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "my_rule.py").write_text(f"SIGN = {sign}\n")
        (tmp_path / place / "mine.py").write_text(f"{MINE}\nfrom my_rule import SIGN\n")
    first = load_agent(f"{tmp_path}/a/mine.py:Duck")
    assert sys.modules[type(first).__module__].SIGN == 1
    with pytest.raises(ConfigError, match="imports 'my_rule', but another .* loaded .*Rename my_rule"):
        load_agent(f"{tmp_path}/b/mine.py:Duck")
    del sys.modules["my_rule"]


@pytest.mark.parametrize("deep", ["my_pack/__init__.py", "my_pack/part.py"])
def test_what_lies_beside_two_agents_is_never_mixed_however_deep(
    deep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = deep.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for place in ("a", "b"):
        (tmp_path / place / "my_pack").mkdir(parents=True)
        (tmp_path / place / f"my_{place}.py").write_text(f"import {name}\n")  # a helper that only this one has
        (tmp_path / place / deep).write_text(f"SIGN = {place!r}\n")
        (tmp_path / place / "mine.py").write_text(f"{MINE}\nimport my_{place}\n")
    load_agent(f"{tmp_path}/a/mine.py:Duck")
    try:
        with pytest.raises(ConfigError, match=rf"imports '{name}', but another .* loaded .*/a/{deep}.*Rename "):
            load_agent(f"{tmp_path}/b/mine.py:Duck")
    finally:
        for loaded in ("my_a", "my_b", "my_pack", "my_pack.part"):
            sys.modules.pop(loaded, None)


def test_options_are_listed_with_type_default_and_meaning() -> None:
    options = {option.name: option for option in agents.agent_options(agents.agent_class("rkv"))}
    assert (options["n_obs"].type, options["n_obs"].default) == ("int", "8")
    assert all(option.meaning for option in options.values())
    for name, found in known_agents().items():
        for option in agents.agent_options(found):
            assert option.type and option.meaning, f"{name}: {option}"


@pytest.mark.parametrize("value", ["abc", None, True, [0.1], float("nan"), float("inf")])
def test_an_option_of_another_type_is_refused_before_anything_runs(value: object) -> None:
    with pytest.raises(ConfigError, match=r"option lam=.* of agent 'rkv' is not allowed: it takes float"):
        load_agent("rkv", lam=value)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65, "\u202eabc", 3, "rkv"])
def test_names_that_tables_cannot_show_are_refused(name: object, tmp_path: Path) -> None:
    path = tmp_path / "named.py"
    path.write_text(f"from kv_agents.base import Agent\nclass Mine(Agent):\n    name = {name!r}\n    score = len\n")
    with pytest.raises(ConfigError, match="name"):
        load_agent(f"{path}:Mine")
    path.write_text(path.read_text().replace(f"name = {name!r}", f"name = {'x' * 64!r}"))
    assert load_agent(f"{path}:Mine").name == "x" * 64


@pytest.mark.parametrize("name", ["gkv", "snapkv", "rkv"])
def test_an_agent_gets_as_many_queries_as_it_reads(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    agent = load_agent(name, n_obs=64)
    seen = set()
    score = type(agent).score

    def counting(self: Agent, slots: SlotView) -> object:
        seen.add((slots.query_positions(64).shape[-1], 64))
        return score(self, slots)

    monkeypatch.setattr(type(agent), "score", counting)
    bench = Bench("KVEvict-AIME-v0", [agent], [64], problems=2, options={"max_new_tokens": 150})
    run_bench(bench, tmp_path / "rows.jsonl")
    assert max(found for found, _ in seen) == 64
    assert all(found == wanted for found, wanted in seen)
