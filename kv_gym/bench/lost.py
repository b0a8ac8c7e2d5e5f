"""Problems that one agent loses and another solves, and the command that shows why."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kv_gym.agents import agent_class, agent_entries
from kv_gym.bench.labels import labels
from kv_gym.bench.plan import config_of, fresh_problems
from kv_gym.bench.rows import EpisodeRow, RunRow
from kv_gym.bench.typed import typed_setting, typed_value
from kv_gym.config import make_config
from kv_gym.errors import KVGymError, unknown_name

SAID = ("budget", "split", "n_problems", "mode", "shadow", "n_recent", "granularity")
"""Settings that `kv-gym record` has options for, or needs not be told."""
NOTHING = object()


@dataclass(frozen=True)
class Lost:
    """One episode that two agents ended differently.

    Attributes:
        loser, solver: Their rows.
    """

    loser: EpisodeRow
    solver: EpisodeRow


def lost_episodes(rows: Sequence[EpisodeRow], loser: str, solver: str, budgets: Sequence[int] = ()) -> list[Lost]:
    """Episodes that `loser` scores lower on than `solver`, at the same budget, in generate mode.

    Args:
        rows: That belong together.
        loser: Label of an agent (`kv_gym.bench.labels`).
        solver: Label of another.
        budgets: Only these; default all.

    Raises:
        UnknownNameError: There are no rows of an agent.
    """
    label = labels(rows)
    by_agent: dict[str, dict[tuple[int, str, int], EpisodeRow]] = {}
    for row in rows:
        if row.mode == "generate" and (not budgets or row.budget in budgets):
            by_agent.setdefault(label[row.agent, row.agent_source], {})[row.budget, row.problem, row.seed] = row
    for name in (loser, solver):
        if name not in by_agent:
            raise unknown_name("agent of these rows in generate mode", name, by_agent)
    theirs, ours = by_agent[loser], by_agent[solver]
    both = sorted(theirs.keys() & ours.keys())
    return [Lost(theirs[key], ours[key]) for key in both if (theirs[key].correct or 0.0) < (ours[key].correct or 0.0)]


def record_command(lost: Lost, runs: dict[str, RunRow], out: str = "runs/lost") -> str:
    """What is typed to record both agents on this problem, for `kv-gym replay`.

    Raises:
        ConfigError: This version knows other settings.
    """
    row, run = lost.loser, runs[lost.loser.run_id]
    config = config_of(run, row)
    seeds = run.plan.get("problem_seeds") or [config.problem_seed]
    first = config.model_copy(update={"problem_seed": seeds[0]})
    ids = [problem.id for problem in fresh_problems(first, len(seeds))]
    number, index = divmod(ids.index(row.problem), len(ids) // len(seeds))
    chosen = config.model_copy(update={"problem_seed": seeds[number]}).model_dump()
    default = make_config(row.env_id, split=row.split, budget=row.budget).model_dump()
    settings = {
        name: value for name, value in chosen.items()
        if value != default[name] and name not in SAID
    }  # fmt: skip
    words = ["kv-gym", "record", row.env_id]
    for one in (lost.loser, lost.solver):
        words += ["--agent", agent_text(one, runs[one.run_id])]
    words += ["--budget", str(row.budget), "--problem", str(index)]
    words += ["--seed", str(row.seed)] if row.seed else []
    words += ["--split", row.split] if row.split != "test" else []
    for name, value in settings.items():
        words += ["--set", f"{name}={typed_setting(name, value)}"]
    return shlex.join([*words, "--out", out])


def agent_text(row: EpisodeRow, run: RunRow) -> str:
    """What `--agent` takes for the agent of a row: its name, options that are not its own, and what it is called."""
    parts = run.agents.get(row.agent_sha256, {}).get("parts", {})
    name, own, place = row.agent.partition("[")[0], dict[str, Any](), parts.get("class", row.agent)
    if name not in agent_entries():
        name = next((known for known, entry in agent_entries().items() if entry.value == place), name)
    try:
        own = {one.name: one.default for one in inspect.signature(agent_class(name)).parameters.values()}
    except KVGymError:
        name = place  # of a file, whose folder no row holds
    options = parts.get("options", {})
    given = (f"{option}={typed_value(value)}" for option, value in options.items() if value != own.get(option, NOTHING))
    renamed = parts.get("attributes", {}).get("name") == row.agent and row.agent.partition("[")[0] != name
    return ",".join([name, *given]) + (f" as {row.agent}" if renamed else "")
