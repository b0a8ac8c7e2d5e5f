"""Options as text."""

from __future__ import annotations

import pytest

from kv_gym.commands.options import OWN_OPTIONS, build_agent, parse_agent, parse_pairs, parse_settings
from kv_gym.errors import ConfigError


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
