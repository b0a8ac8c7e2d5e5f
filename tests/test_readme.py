"""The README says what the code does."""

import re
from pathlib import Path

import pytest

from kv_gym.agents import agent_entries
from kv_gym.engine.features import CONTEXT, FEATURES

README = Path(__file__).parents[1] / "README.md"


def test_the_observation_table_is_that_of_the_code():
    text = README.read_text()
    rows = [re.sub(r"\s+", " ", line) for line in text.splitlines()]
    for feature in FEATURES:
        columns = ", ".join(f"`{name}`" for name in feature.columns)
        assert f"| {columns} | {feature.unit} | {feature.description} |" in rows
    for column in CONTEXT:
        assert f"`{column.name}` ({column.description}; {column.unit})" in text


def test_every_agent_is_listed():
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", README.read_text(), re.M))
    assert set(agent_entries()) <= listed


@pytest.mark.slow
def test_the_python_example_runs(capsys):
    block = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "gym.make" in b)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("True", "False")
