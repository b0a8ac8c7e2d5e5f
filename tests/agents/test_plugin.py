"""An agent in somebody else's package, installed and measured like ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plugin import install_package, run_python

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"


def blocks(kind: str) -> list[str]:
    """The page's examples."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process that finds the page's agent as an installed package."""
    folder = tmp_path_factory.mktemp("plugin")
    return install_package(folder, {"mine": blocks("python")[0]}, blocks("toml")[0])


def kv_gym(environment: dict[str, str], *arguments: str) -> str:
    return run_python(environment, "-m", "kv_gym.commands.main", *arguments)


def test_an_installed_package_adds_its_agent(environment: dict[str, str]) -> None:
    assert re.search(
        r"^mine +my_package.mine:MyAgent .*Keep what the last queries", kv_gym(environment, "agents"), re.M
    )


def test_an_installed_agent_is_measured(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ["--agent", "mine", "--budget", "128", "--problems", "2", "--mode", "generate", "--no-plot", "--json"]
    report = json.loads(kv_gym(environment, "bench", "KVEvict-AIME-v0", *arguments, "--out", str(tmp_path)))
    assert [cell["agent"] for cell in report["cells"]] == ["mine"]
    assert report["cells"][0]["n_episodes"] == 2 and report["cells"][0]["n_failed"] == 0


def test_the_page_names_only_what_exists() -> None:
    for module in set(re.findall(r"from ([\w.]+) import", PAGE.read_text())):
        __import__(module)
    for trainer in re.findall(r"kv-gym train (\w+)", PAGE.read_text()):
        assert trainer in ("distill", "grpo", "ppo")
