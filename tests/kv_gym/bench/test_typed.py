"""What is written behind `KEY=` is read back unchanged: otherwise a printed command would play something else."""

from __future__ import annotations

from typing import Any

import pytest

from kv_gym.bench.typed import read_setting, read_value, typed_setting, typed_value
from kv_gym.commands.options import parse_agent, parse_settings

TEXTS = [
    "", "Be brief.", "Say # and stop.", "Answer: put it", "key:", "[a, b", "[a, b]", "{a: 1}", "yes", "on", "null", "~",
    "None", "42", "1e-3", "0x10", "2026-11-28", "2026-99-99", "'a'", '"a"', "it's", "'", '"', "a\nb\n", "\n", " ",
    "a\\nb", "# all", "- a", "? a", "*a", "&a", "!!int 5", "%a", "@a", "a, b", "\u2028\x85\t\x07", "½ 😀", "\\boxed{}",
    " a ",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["instruction", "system_prompt", "problems", "revision"])
def test_texts_of_settings_come_back(name: str, text: str) -> None:
    assert parse_settings([f"{name}={typed_setting(name, text)}"]) == {name: text}


@pytest.mark.parametrize(
    "value", [*TEXTS, 5, 0.5, 1e-07, True, None, [0, 1], [[0], "a, [b"], {"a": {"b": TEXTS}}, float("inf"), []]
)
def test_values_of_agents_come_back(value: Any) -> None:
    assert read_value(typed_value(value)) == value
    assert parse_agent(f"a.py:A,x={typed_value(value)},y=1") == ("a.py:A", {"x": value, "y": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instruction", None), ("problems", ["a", "b # c"]), ("chat_template_kwargs", {"a": ["on", 1e-9, "😀\n"]}),
        ("compile", "off"), ("granularity", None), ("granularity", "head"), ("top_p", 0.9), ("temperature", 1e-6),
    ],
)  # fmt: skip
def test_other_settings_come_back(name: str, value: Any) -> None:
    assert read_setting(name, typed_setting(name, value)) == value


def test_texts_are_quoted_only_where_they_must_be() -> None:
    assert typed_setting("instruction", "Answer: put it # last") == "Answer: put it # last"
    assert typed_value("plain") == "plain" and typed_value([0, 1]) == "[0, 1]"
