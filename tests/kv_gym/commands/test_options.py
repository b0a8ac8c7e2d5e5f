"""Options as text."""

from __future__ import annotations

import pytest

from kv_gym.commands.options import OWN_OPTIONS, build_agent, parse_agent, parse_pairs, parse_settings, split_name
from kv_gym.errors import ConfigError
from kv_gym.identity import identity_of


def test_values_are_yaml() -> None:
    found = parse_pairs(["a=1", "b=0.5", "c=true", "d=", "e=x=y", "f=[1, 2]", "g=null"])
    assert found == {"a": 1, "b": 0.5, "c": True, "d": None, "e": "x=y", "f": [1, 2], "g": None}


def test_the_last_of_two_values_counts() -> None:
    assert parse_pairs(["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("evict_every", "--set 'evict_every' has no value. Use --set KEY=VALUE"),
        ("a=[1", "--set 'a=\\[1': the value is not YAML"),
        ("a=!!python/object/apply:os.getcwd []", "the value is not YAML"),
        ("shadow=false", "--missed-attention"),
        *((f"{key}=5", f"{key} has an option of its own. Use {option} 5") for key, option in OWN_OPTIONS.items()),
    ],
)
def test_settings_that_cannot_be(pair: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_settings([pair])


def test_an_agent_takes_its_own_options() -> None:
    assert vars(build_agent("streaming,n_sink=7"))["n_sink"] == 7
    with pytest.raises(ConfigError, match="--agent NAME,'n_sink' has no value"):
        build_agent("streaming,n_sink")


def test_commas_inside_brackets_belong_to_the_value() -> None:
    assert parse_agent("mine.py:A") == ("mine.py:A", {})
    found = parse_agent("mine.py:A,heads=[0, [1,2]],x=1,c={a: 1,b: [2, 3]}")
    assert found == ("mine.py:A", {"heads": [0, [1, 2]], "x": 1, "c": {"a": 1, "b": [2, 3]}})
    with pytest.raises(ConfigError, match="not YAML"):
        parse_agent("mine.py:A,heads=[0,x=1")


def test_commas_inside_quotes_belong_to_the_value() -> None:
    found = parse_agent("""mine.py:A,a="x, [y",b='1,2',c=don't,d=["u, v", '[w'],e=5""")
    assert found == ("mine.py:A", {"a": "x, [y", "b": "1,2", "c": "don't", "d": ["u, v", "[w"], "e": 5})


@pytest.mark.parametrize(
    ("text", "agent", "name"),
    [
        ("rkv,lam=0.5 as mine", "rkv,lam=0.5", "mine"),
        ("rkv  as  R-KV, half ", "rkv", "R-KV, half"),
        ("a.py:A,how='x as y'", "a.py:A,how='x as y'", None),
        ("a.py:A,how=[x as y,2] as z", "a.py:A,how=[x as y,2]", "z"),
        ("such as it is.py:A", "such as it is.py:A", None),
        ("h2o", "h2o", None),
        ("last", "last", None),
    ],
)
def test_an_agent_can_be_called_something(text: str, agent: str, name: str | None) -> None:
    assert split_name(text) == (agent, name)


def test_the_name_is_the_agents_and_tells_its_rows_apart() -> None:
    mine, own = build_agent("rkv,lam=0.5 as mine"), build_agent("rkv,lam=0.5")
    assert (mine.name, own.name, build_agent("rkv").name) == ("mine", "rkv", "rkv") and vars(mine)["lam"] == 0.5
    assert identity_of(mine).sha256 != identity_of(own).sha256


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rkv as", "no name stands behind `as`. Use --agent 'rkv,lam=0.5 as mine'"),
        ("rkv as  ", "no name stands behind `as`"),
        ("rkv as h2o", "'h2o' is the name of an installed agent. Call 'rkv' something else"),
        ("rkv as a\tb", "A name is one printable line of 1 to 64"),
        (f"rkv as {'x' * 65}", "A name is one printable line of 1 to 64"),
    ],
)
def test_names_that_cannot_be(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build_agent(text)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("instruction=Say # and stop.", "Say # and stop."),
        ("instruction=Answer: put it last", "Answer: put it last"),
        ("instruction=", ""),
        ("instruction=''", ""),
        ("instruction=null", None),
        ("system_prompt=null", "null"),
        ("system_prompt=yes", "yes"),
        ('system_prompt="a\\nb"', "a\nb"),
        ("system_prompt='a' and 'b'", "'a' and 'b'"),
        ("revision=1234567", "1234567"),
        ("model=[1", "[1"),
        ("problems=[a, b]", ["a", "b"]),
        ("problems=[a].jsonl", "[a].jsonl"),
        ("compile=on", "on"),
        ("granularity=null", None),
        ("chat_template_kwargs={enable_thinking: false}", {"enable_thinking": False}),
        ('chat_template_kwargs={"a": "on"}', {"a": "on"}),
        ("w_loss=1e-3", 0.001),
    ],
)
def test_settings_that_are_texts_stand_as_they_are_typed(pair: str, value: object) -> None:
    assert parse_settings([pair]) == {pair.partition("=")[0]: value}
