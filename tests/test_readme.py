"""The README says what the code does."""

import re
from pathlib import Path

import pytest

from kv_gym.agents import agent_entries

ROOT = Path(__file__).parents[1]
README, AGENTS = ROOT / "README.md", ROOT / "docs" / "agents.md"


def test_every_agent_is_listed():
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", AGENTS.read_text(), re.M))
    missing = set(agent_entries()) - listed
    assert not missing, f"add {', '.join(sorted(missing))} to the table of agents in docs/agents.md"


def test_every_page_is_listed():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    missing = pages - set(re.findall(r"\]\(([A-Za-z]+\.md)", (ROOT / "docs" / "README.md").read_text()))
    assert not missing, f"add {', '.join(sorted(missing))} to docs/README.md"


@pytest.mark.slow
def test_the_python_example_runs(capsys):
    block = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "gym.make" in b)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("True", "False")
