"""Measuring agents from Python in one call, as `kv-gym bench` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kv_gym.agents import AgentLike, load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import MODES, Bench, Mode
from kv_gym.bench.progress import Progress
from kv_gym.bench.report import Report, build_report
from kv_gym.errors import ConfigError
from kv_gym.files import ROWS_FILE


def compare(
    env_id: str,
    agents: Sequence[AgentLike | str],
    budgets: Sequence[int] = (),
    problems: int | None = None,
    modes: Sequence[Mode] = MODES,
    folder: Path | str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Play the same problems with each agent, and sum up; `kv_gym.bench.tables.text` prints it.

    Args:
        env_id: The environment; problems are those of its test split.
        agents: Agents or their names; `kv_gym.agents.rename` calls one something else.
        budgets: Slots; default is the page's.
        problems: The first so many; default is the page's.
        modes: `generate` for accuracy, `replay` for losses, or both.
        folder: Keeps the rows, so that what is there is not played again. Default: nothing is kept.
        progress: Told how far it is.
        options: Other settings of the environment.

    Raises:
        ConfigError: One name in place of a list, or a setting that the comparison makes itself.
        KVGymError: As `run_bench`.
    """
    if isinstance(agents, str) or isinstance(modes, str):
        raise ConfigError(f"agents={agents!r}, modes={modes!r}: give lists, such as agents=['h2o'], modes=['replay'].")
    for name in {"mode", "split", "shadow"} & options.keys():
        raise ConfigError(f"{name}={options[name]!r}: give modes; what is compared are problems of the test split.")
    loaded = [load_agent(agent) if isinstance(agent, str) else agent for agent in agents]
    plan = Bench(env_id, loaded, tuple(budgets), problems, modes=tuple(modes), options=options)
    with TemporaryDirectory() as nowhere:
        result = run_bench(plan, Path(folder or nowhere) / ROWS_FILE, progress)
    return build_report(result.rows, result.runs)
